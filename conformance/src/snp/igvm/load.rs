//! A host that loads an IGVM file into the machine: it reads the file with the crate `igvm` and does what it says.

use std::collections::HashMap;

use igvm::{IgvmDirectiveHeader, IgvmFile, IgvmInitializationHeader, IsolationType};
use igvm_defs::{IGVM_VHS_MEMORY_MAP_ENTRY, IGVM_VHS_PARAMETER, IGVM_VHS_SNP_ID_BLOCK_PUBLIC_KEY, IgvmPageDataType};
use machine::{LaunchError, Machine, PageType, psp};
use sha2::{Digest, Sha384};
use zerocopy::IntoBytes;

use crate::world::layout::PAGE;

/// Bytes of a public key as the firmware hashes it (56860, ECDSA P-384 public key).
const PUBLIC_KEY: usize = 0x404;

/// What the host claims about the VM in parameters. Nobody measures it.
#[derive(Clone, Debug, Default)]
pub struct Claims {
    /// Number of vCPUs.
    pub vcpus: u32,
    /// The memory map, byte for byte; whoever is honest ends it with an entry without pages.
    pub memory: Vec<IGVM_VHS_MEMORY_MAP_ENTRY>,
}

/// Why a file was not loaded. What was loaded before stays in the machine, which is of no use then.
#[derive(Debug, thiserror_no_std::Error)]
pub enum LoadError {
    /// The crate `igvm` refuses the file.
    #[error("{0}")]
    File(igvm::Error),
    /// There is no policy for SNP.
    #[error("no guest policy")]
    NoPolicy,
    /// The machine does not take a page.
    #[error("page {gpa:#x}: {error:?}")]
    Page {
        /// Address of the page.
        gpa: u64,
        /// What the machine says.
        error: LaunchError,
    },
    /// Memory that the file requires, or fills as shared, is not there.
    #[error("no memory at {gpa:#x}")]
    NoMemory {
        /// Its address.
        gpa: u64,
    },
    /// A parameter does not fit the area it is for, or there is no such area.
    #[error("a parameter does not fit area {area}")]
    Parameter {
        /// Index of the area.
        area: u32,
    },
    /// The machine does not finish the launch.
    #[error("launch not finished: {0:?}")]
    Finish(LaunchError),
}

/// Loads a file into a machine whose launch has not begun, and finishes the launch. Gives the address of the VMSA of vCPU 0.
///
/// # Errors
/// [`LoadError`].
pub fn load(machine: &mut Machine, file: &[u8], claims: &Claims) -> Result<Option<u64>, LoadError> {
    let file = IgvmFile::new_from_binary(file, Some(IsolationType::Snp)).map_err(LoadError::File)?;
    let policy = file.initializations().iter().find_map(|header| match header {
        IgvmInitializationHeader::GuestPolicy { policy, .. } => Some(*policy),
        _ => None,
    });
    let policy = policy.ok_or(LoadError::NoPolicy)?;
    let mut host = Host { machine, claims, areas: HashMap::new(), first_vmsa: None, id_block: None };
    for directive in file.directives() {
        host.follow(directive)?;
    }
    let Host { first_vmsa, id_block, .. } = host;
    let id_block = id_block.map(|block| psp::IdBlock { policy, ..block });
    machine.launch_finish_with(policy, [0; 32], id_block.as_ref()).map_err(LoadError::Finish)?;
    Ok(first_vmsa)
}

struct Host<'a> {
    machine: &'a mut Machine,
    claims: &'a Claims,
    areas: HashMap<u32, Vec<u8>>,
    first_vmsa: Option<u64>,
    id_block: Option<psp::IdBlock>,
}

impl Host<'_> {
    fn follow(&mut self, directive: &IgvmDirectiveHeader) -> Result<(), LoadError> {
        match directive {
            IgvmDirectiveHeader::PageData { gpa, flags, data_type, data, .. } => {
                let page_type = match *data_type {
                    IgvmPageDataType::SECRETS => PageType::Secrets,
                    IgvmPageDataType::CPUID_DATA | IgvmPageDataType::CPUID_XF => PageType::Cpuid,
                    _ if flags.unmeasured() => PageType::Unmeasured,
                    _ => PageType::Normal,
                };
                if flags.shared() { self.share(*gpa, data) } else { self.add(*gpa, page_type, data) }
            }
            IgvmDirectiveHeader::SnpVpContext { gpa, vp_index, vmsa, .. } => {
                if *vp_index == 0 {
                    self.first_vmsa.get_or_insert(*gpa);
                }
                self.add(*gpa, PageType::Vmsa, vmsa.as_bytes())
            }
            IgvmDirectiveHeader::ParameterArea { number_of_bytes, parameter_area_index, initial_data } => {
                let mut area = initial_data.clone();
                area.resize(*number_of_bytes as usize, 0);
                self.areas.insert(*parameter_area_index, area);
                Ok(())
            }
            IgvmDirectiveHeader::VpCount(at) => self.write(at, &self.claims.vcpus.to_le_bytes()),
            IgvmDirectiveHeader::MemoryMap(at) => self.write(at, self.claims.memory.as_bytes()),
            IgvmDirectiveHeader::ParameterInsert(insert) => {
                let index = insert.parameter_area_index;
                let area = self.areas.remove(&index).ok_or(LoadError::Parameter { area: index })?;
                let mut pages = (insert.gpa..).step_by(PAGE as usize).zip(area.chunks(PAGE as usize));
                pages.try_for_each(|(gpa, data)| self.add(gpa, PageType::Unmeasured, data))
            }
            IgvmDirectiveHeader::RequiredMemory { gpa, number_of_bytes, .. } => {
                let missing = (*gpa..gpa + u64::from(*number_of_bytes))
                    .step_by(PAGE as usize)
                    .find(|gpa| self.machine.translate(*gpa).is_none());
                missing.map_or(Ok(()), |gpa| Err(LoadError::NoMemory { gpa }))
            }
            IgvmDirectiveHeader::SnpIdBlock {
                ld,
                family_id,
                image_id,
                guest_svn,
                id_public_key,
                author_key_enabled,
                author_public_key,
                ..
            } => {
                self.id_block = Some(psp::IdBlock {
                    launch_digest: *ld,
                    family_id: *family_id,
                    image_id: *image_id,
                    guest_svn: *guest_svn,
                    policy: 0,
                    id_key_digest: key_digest(id_public_key),
                    author_key_digest: (*author_key_enabled == 1).then(|| key_digest(author_public_key)),
                });
                Ok(())
            }
            // All memory is shared until it is added, and this host has no ACPI tables, device tree or MMIO.
            _ => Ok(()),
        }
    }

    fn add(&mut self, gpa: u64, page_type: PageType, data: &[u8]) -> Result<(), LoadError> {
        self.machine.launch_page(gpa, page_type, &padded(data)).map_err(|error| LoadError::Page { gpa, error })
    }

    fn share(&mut self, gpa: u64, data: &[u8]) -> Result<(), LoadError> {
        if self.machine.host_write(gpa, &padded(data)) { Ok(()) } else { Err(LoadError::NoMemory { gpa }) }
    }

    fn write(&mut self, at: &IGVM_VHS_PARAMETER, bytes: &[u8]) -> Result<(), LoadError> {
        let index = at.parameter_area_index;
        let area = self.areas.get_mut(&index).and_then(|area| area.get_mut(at.byte_offset as usize..));
        let part = area.and_then(|area| area.get_mut(..bytes.len())).ok_or(LoadError::Parameter { area: index })?;
        part.copy_from_slice(bytes);
        Ok(())
    }
}

/// A page with `data` at its beginning and zeros behind.
fn padded(data: &[u8]) -> [u8; PAGE as usize] {
    let mut page = [0; PAGE as usize];
    page[..data.len()].copy_from_slice(data);
    page
}

fn key_digest(key: &IGVM_VHS_SNP_ID_BLOCK_PUBLIC_KEY) -> [u8; 48] {
    let mut bytes = key.curve.to_le_bytes().to_vec();
    bytes.extend_from_slice(&key.qx);
    bytes.extend_from_slice(&key.qy);
    bytes.resize(PUBLIC_KEY, 0);
    Sha384::digest(bytes).into()
}
