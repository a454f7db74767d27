//! Directives: what adds pages, makes parameter areas, or says something about memory.

use coco_part_api::range::{LARGE, SMALL};
use igvm_defs::{
    IGVM_VHS_ERROR_RANGE, IGVM_VHS_PAGE_DATA, IGVM_VHS_PARAMETER, IGVM_VHS_PARAMETER_AREA, IGVM_VHS_PARAMETER_INSERT,
    IGVM_VHS_REQUIRED_MEMORY, IGVM_VHS_SNP_ID_BLOCK, IGVM_VHS_VBS_MEASUREMENT, IGVM_VHS_VP_CONTEXT, IgvmPageDataType,
    IgvmVariableHeaderType as Type,
};

use super::file::Header;
use super::places::place;
use super::walk::{Walk, unknown};
use super::{IgvmError, Parameter, PlaceFault, Step};
use crate::abi::launch::{IdBlock, PageType};

impl<'a> Walk<'a> {
    pub(super) fn directive(&mut self, header: &Header<'a>) -> Result<Option<Step<'a>>, IgvmError> {
        let parameter = match header.kind {
            Type::IGVM_VHT_PAGE_DATA => return self.page_data(header),
            Type::IGVM_VHT_PARAMETER_AREA => return self.area(header).map(Some),
            Type::IGVM_VHT_PARAMETER_INSERT => return self.insert(header),
            Type::IGVM_VHT_VP_CONTEXT => return self.vp_context(header),
            Type::IGVM_VHT_REQUIRED_MEMORY => return self.required(header),
            Type::IGVM_VHT_ERROR_RANGE => return self.error_range(header),
            Type::IGVM_VHT_SNP_ID_BLOCK => return self.id_block(header).map(|()| None),
            Type::IGVM_VHT_VBS_MEASUREMENT => {
                let skipped =
                    self.not_ours::<IGVM_VHS_VBS_MEASUREMENT>(header, |measurement| measurement.compatibility_mask);
                return skipped.map(|()| None);
            }
            Type::IGVM_VHT_VP_COUNT_PARAMETER => Parameter::VpCount,
            Type::IGVM_VHT_SRAT => Parameter::Srat,
            Type::IGVM_VHT_MADT => Parameter::Madt,
            Type::IGVM_VHT_SLIT => Parameter::Slit,
            Type::IGVM_VHT_PPTT => Parameter::Pptt,
            Type::IGVM_VHT_MMIO_RANGES => Parameter::MmioRanges,
            Type::IGVM_VHT_MEMORY_MAP => Parameter::MemoryMap,
            Type::IGVM_VHT_COMMAND_LINE => Parameter::CommandLine,
            Type::IGVM_VHT_DEVICE_TREE => Parameter::DeviceTree,
            Type::IGVM_VHT_ENVIRONMENT_INFO_PARAMETER => Parameter::EnvironmentInfo,
            _ => return unknown(header).map(|()| None),
        };
        let IGVM_VHS_PARAMETER { parameter_area_index: area, byte_offset: offset } = header.read()?;
        let bytes = self.areas.find(header.at, area)?.bytes;
        // Both are far below 2^64.
        if u64::from(offset) + parameter.least_bytes() > bytes {
            return Err(IgvmError::ParameterOffset { at: header.at, offset });
        }
        Ok(Some(Step::Parameter { parameter, area, offset }))
    }

    fn page_data(&mut self, header: &Header<'a>) -> Result<Option<Step<'a>>, IgvmError> {
        let at = header.at;
        let IGVM_VHS_PAGE_DATA { gpa, compatibility_mask, file_offset, flags, data_type, reserved } = header.read()?;
        if reserved != 0 || flags.reserved() != 0 {
            return Err(header.reserved());
        }
        if !self.is_ours(at, compatibility_mask)? {
            return Ok(None);
        }
        let page_type = match data_type {
            IgvmPageDataType::NORMAL if flags.unmeasured() => PageType::Unmeasured,
            IgvmPageDataType::NORMAL => PageType::Normal,
            IgvmPageDataType::SECRETS => PageType::Secrets,
            IgvmPageDataType::CPUID_DATA | IgvmPageDataType::CPUID_XF => PageType::Cpuid,
            found => return Err(IgvmError::PageDataType { at, found: found.0 }),
        };
        if data_type != IgvmPageDataType::NORMAL && (flags.is_2mb_page() || flags.shared()) {
            return Err(IgvmError::PageFlags { at, flags: flags.into() });
        }
        let bytes = if flags.is_2mb_page() { LARGE } else { SMALL };
        let range = place(at, gpa, bytes)?;
        if !gpa.is_multiple_of(bytes) {
            return Err(IgvmError::Place { at, gpa, bytes, fault: PlaceFault::Unaligned });
        }
        let contents = self.contents(at, file_offset, bytes)?;
        self.places.add(at, range)?;
        Ok(Some(if flags.shared() {
            Step::Shared { range, contents }
        } else {
            Step::Pages { page_type, range, contents }
        }))
    }

    /// Areas have no mask: they are everybody's.
    fn area(&mut self, header: &Header<'a>) -> Result<Step<'a>, IgvmError> {
        let at = header.at;
        let IGVM_VHS_PARAMETER_AREA { number_of_bytes: bytes, parameter_area_index: index, file_offset } =
            header.read()?;
        if bytes == 0 || !bytes.is_multiple_of(SMALL) {
            return Err(IgvmError::AreaSize { at, bytes });
        }
        let contents = self.contents(at, file_offset, bytes)?;
        self.areas.declare(at, index, bytes, contents)?;
        Ok(Step::Area { index, bytes, contents })
    }

    fn insert(&mut self, header: &Header<'a>) -> Result<Option<Step<'a>>, IgvmError> {
        let at = header.at;
        let IGVM_VHS_PARAMETER_INSERT { gpa, compatibility_mask, parameter_area_index: index } = header.read()?;
        if !self.is_ours(at, compatibility_mask)? {
            return Ok(None);
        }
        let area = self.areas.find(at, index)?;
        let range = place(at, gpa, area.bytes)?;
        self.places.add(at, range)?;
        area.insert();
        Ok(Some(Step::Insert { area: index, range, contents: area.contents }))
    }

    fn vp_context(&mut self, header: &Header<'a>) -> Result<Option<Step<'a>>, IgvmError> {
        let at = header.at;
        let IGVM_VHS_VP_CONTEXT { gpa, compatibility_mask, file_offset, vp_index, reserved } = header.read()?;
        if reserved != 0 {
            return Err(header.reserved());
        }
        if !self.is_ours(at, compatibility_mask)? {
            return Ok(None);
        }
        let range = place(at, gpa.get(), SMALL)?;
        // Offset 0 is no page of zeros here: that is no VMSA.
        let contents = self.file.data(file_offset, SMALL).and_then(|page| page.first_chunk());
        let contents = contents.ok_or(IgvmError::Contents { at, offset: file_offset, bytes: SMALL })?;
        self.places.add(at, range)?;
        Ok(Some(Step::Vmsa { vp_index, frame: range.first(), contents }))
    }

    /// Memory that is required may be filled by other headers too.
    fn required(&mut self, header: &Header<'a>) -> Result<Option<Step<'a>>, IgvmError> {
        let IGVM_VHS_REQUIRED_MEMORY { gpa, compatibility_mask, number_of_bytes, flags, reserved } = header.read()?;
        if reserved != 0 || flags.reserved() != 0 {
            return Err(header.reserved());
        }
        if !self.is_ours(header.at, compatibility_mask)? {
            return Ok(None);
        }
        Ok(Some(Step::Required { range: place(header.at, gpa, number_of_bytes.into())? }))
    }

    fn error_range(&mut self, header: &Header<'a>) -> Result<Option<Step<'a>>, IgvmError> {
        let IGVM_VHS_ERROR_RANGE { gpa, compatibility_mask, size_bytes } = header.read()?;
        if !self.is_ours(header.at, compatibility_mask)? {
            return Ok(None);
        }
        let range = place(header.at, gpa, size_bytes.into())?;
        self.places.add(header.at, range)?;
        Ok(Some(Step::ErrorRange { range }))
    }

    fn id_block(&mut self, header: &Header<'a>) -> Result<(), IgvmError> {
        let at = header.at;
        let block: IGVM_VHS_SNP_ID_BLOCK = header.read()?;
        if block.reserved != [0; 3] || block.author_key_enabled > 1 {
            return Err(header.reserved());
        }
        if !self.is_ours(at, block.compatibility_mask)? {
            return Ok(());
        }
        if block.version != IdBlock::VERSION {
            return Err(IgvmError::IdBlockVersion { found: block.version });
        }
        match self.id_block.replace(header.body) {
            Some(_) => Err(IgvmError::IdBlockTwice { at }),
            None => Ok(()),
        }
    }
}
