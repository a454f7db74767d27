//! Walks the variable headers: checks each and makes a step of it.

use igvm_defs::{
    IGVM_SEV_SNP_PLATFORM_VERSION, IGVM_VHS_CORIM_DATA, IGVM_VHS_GUEST_POLICY, IGVM_VHS_PAGE_TABLE_RELOCATION,
    IGVM_VHS_RELOCATABLE_REGION, IGVM_VHS_SUPPORTED_PLATFORM, IGVM_VHT_RANGE_DIRECTIVE, IGVM_VHT_RANGE_INIT,
    IGVM_VHT_RANGE_PLATFORM, IgvmPlatformType, IgvmVariableHeaderType as Type,
};
use zerocopy::{FromBytes, Immutable, KnownLayout};

use super::areas::Areas;
use super::file::{File, Header, Headers};
use super::places::Places;
use super::{Contents, IgvmError, Platform, Step};
use crate::abi::report::GuestPolicy;

/// A policy of Arm CCA; its structure is of no interest here.
const CCA_POLICY_BYTES: usize = 32;

/// The sections of a file, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd)]
enum Section {
    Platform,
    Initialization,
    Directive,
}

/// The walk, with what the headers so far said.
#[derive(Clone, Debug)]
pub(super) struct Walk<'a> {
    pub(super) file: File<'a>,
    headers: Headers<'a>,
    section: Section,
    /// Masks of all platforms declared.
    declared: u32,
    pub(super) platform: Option<Platform>,
    pub(super) policy: Option<GuestPolicy>,
    pub(super) id_block: Option<&'a [u8]>,
    pub(super) areas: Areas<'a>,
    pub(super) places: Places,
}

impl<'a> Walk<'a> {
    pub(super) const fn new(file: File<'a>) -> Self {
        Self {
            file,
            headers: file.headers(),
            section: Section::Platform,
            declared: 0,
            platform: None,
            policy: None,
            id_block: None,
            areas: Areas::new(),
            places: Places::new(),
        }
    }

    /// Checks one header; `None` for what is no step of loading.
    fn header(&mut self, header: &Header<'a>) -> Result<Option<Step<'a>>, IgvmError> {
        let (at, kind) = (header.at, header.kind.0);
        let section = match kind {
            kind if IGVM_VHT_RANGE_PLATFORM.contains(&kind) => Section::Platform,
            kind if IGVM_VHT_RANGE_INIT.contains(&kind) => Section::Initialization,
            kind if IGVM_VHT_RANGE_DIRECTIVE.contains(&kind) => Section::Directive,
            _ if header.is_optional => return Ok(None),
            _ => return Err(IgvmError::UnknownHeader { at, kind }),
        };
        if section < self.section {
            return Err(IgvmError::SectionOrder { at, kind });
        }
        self.section = section;
        match section {
            Section::Platform => self.platform(header).map(|()| None),
            Section::Initialization => self.initialization(header).map(|()| None),
            Section::Directive => self.directive(header),
        }
    }

    fn platform(&mut self, header: &Header<'_>) -> Result<(), IgvmError> {
        if header.kind != Type::IGVM_VHT_SUPPORTED_PLATFORM {
            return unknown(header);
        }
        let at = header.at;
        let platform: IGVM_VHS_SUPPORTED_PLATFORM = header.read()?;
        let mask = platform.compatibility_mask;
        if !mask.is_power_of_two() || self.declared & mask != 0 {
            return Err(IgvmError::CompatibilityMask { at, mask });
        }
        self.declared |= mask;
        if platform.platform_type != IgvmPlatformType::SEV_SNP {
            return Ok(());
        }
        if self.platform.is_some() {
            return Err(IgvmError::PlatformTwice { at });
        }
        if platform.platform_version != IGVM_SEV_SNP_PLATFORM_VERSION {
            return Err(IgvmError::PlatformVersion { found: platform.platform_version });
        }
        if !matches!(platform.highest_vtl, 0 | 2) {
            return Err(IgvmError::HighestVtl { found: platform.highest_vtl });
        }
        self.platform = Some(Platform {
            compatibility_mask: mask,
            highest_vtl: platform.highest_vtl,
            shared_gpa_boundary: platform.shared_gpa_boundary,
        });
        Ok(())
    }

    /// Whether a header is for SNP.
    pub(super) fn is_ours(&self, at: usize, mask: u32) -> Result<bool, IgvmError> {
        if mask == 0 || mask & !self.declared != 0 {
            return Err(IgvmError::CompatibilityMask { at, mask });
        }
        Ok(self.platform.is_some_and(|platform| platform.compatibility_mask & mask != 0))
    }

    /// A header that other platforms may have.
    pub(super) fn not_ours<T: FromBytes + KnownLayout + Immutable>(
        &self,
        header: &Header<'_>,
        mask: fn(&T) -> u32,
    ) -> Result<(), IgvmError> {
        let (at, kind) = (header.at, header.kind.0);
        if self.is_ours(at, mask(&header.read()?))? { Err(IgvmError::UnsupportedHeader { at, kind }) } else { Ok(()) }
    }

    fn initialization(&mut self, header: &Header<'a>) -> Result<(), IgvmError> {
        let at = header.at;
        match header.kind {
            Type::IGVM_VHT_GUEST_POLICY => {
                let policy: IGVM_VHS_GUEST_POLICY = header.read()?;
                if policy.reserved != 0 {
                    return Err(header.reserved());
                }
                if !self.is_ours(at, policy.compatibility_mask)? {
                    return Ok(());
                }
                match self.policy.replace(GuestPolicy::from_bits_retain(policy.policy)) {
                    Some(_) => Err(IgvmError::PolicyTwice { at }),
                    None => Ok(()),
                }
            }
            Type::IGVM_VHT_RELOCATABLE_REGION => {
                self.not_ours::<IGVM_VHS_RELOCATABLE_REGION>(header, |region| region.compatibility_mask)
            }
            Type::IGVM_VHT_PAGE_TABLE_RELOCATION_REGION => {
                self.not_ours::<IGVM_VHS_PAGE_TABLE_RELOCATION>(header, |region| region.compatibility_mask)
            }
            Type::IGVM_VHT_CCA_POLICY => self.not_ours::<[u32; CCA_POLICY_BYTES / 4]>(header, |[mask, ..]| *mask),
            // Statements about the file, for a verifier.
            Type::IGVM_VHT_CORIM_DOCUMENT | Type::IGVM_VHT_CORIM_SIGNATURE => {
                let IGVM_VHS_CORIM_DATA { compatibility_mask, file_offset, size_bytes, reserved } = header.read()?;
                if reserved != 0 {
                    return Err(header.reserved());
                }
                self.is_ours(at, compatibility_mask)?;
                self.contents(at, file_offset, size_bytes.into()).map(drop)
            }
            Type::IGVM_VHT_VERSION_STRING => Ok(()),
            _ => unknown(header),
        }
    }

    /// Contents in the file; offset 0 stands for zeros.
    pub(super) fn contents(&self, at: usize, offset: u32, bytes: u64) -> Result<Contents<'a>, IgvmError> {
        if offset == 0 {
            return Ok(Contents::ZEROS);
        }
        let found = self.file.data(offset, bytes).ok_or(IgvmError::Contents { at, offset, bytes })?;
        Ok(Contents::of(found))
    }
}

/// What to do with a type that is not known.
pub(super) fn unknown(header: &Header<'_>) -> Result<(), IgvmError> {
    if header.is_optional { Ok(()) } else { Err(IgvmError::UnknownHeader { at: header.at, kind: header.kind.0 }) }
}

impl<'a> Iterator for Walk<'a> {
    type Item = Result<Step<'a>, IgvmError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let header = match self.headers.next()? {
                Ok(header) => header,
                Err(error) => return Some(Err(error)),
            };
            match self.header(&header) {
                Ok(Some(step)) => return Some(Ok(step)),
                Ok(None) => (),
                Err(error) => return Some(Err(error)),
            }
        }
    }
}
