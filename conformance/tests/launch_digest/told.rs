//! What a file says, as both readers tell it.

use backend_snp::abi::launch::PageType;
use backend_snp::launch::igvm::{Contents, Igvm, Parameter, Step};
use igvm::{IgvmDirectiveHeader as Directive, IgvmFile, IsolationType};
use igvm_defs::{IGVM_VHS_PARAMETER, IgvmPageDataType as DataType};
use zerocopy::IntoBytes;

/// What a step or directive is about, in words that both have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    Pages(PageType, u64, Vec<u8>),
    Shared(u64, Vec<u8>),
    Vmsa(u16, u64, Vec<u8>),
    Area(u32, u64, Vec<u8>),
    Parameter(Parameter, u32, u32),
    Insert(u32, u64),
    Required(u64, u64),
    ErrorRange(u64, u64),
}

pub(crate) fn ours(file: &[u8]) -> Vec<Told> {
    let igvm = Igvm::try_new(file).unwrap_or_else(|error| panic!("{error}"));
    let pages = |contents: Contents<'_>, bytes: u64| {
        (0..bytes / 0x1000).flat_map(|index| *contents.page(index)).collect::<Vec<u8>>()
    };
    igvm.steps()
        .map(|step| match step {
            Step::Pages { page_type, range, contents } => {
                Told::Pages(page_type, range.start().as_u64(), pages(contents, range.bytes()))
            }
            Step::Shared { range, contents } => Told::Shared(range.start().as_u64(), pages(contents, range.bytes())),
            Step::Vmsa { vp_index, frame, contents } => {
                Told::Vmsa(vp_index, frame.start_address().as_u64(), contents.to_vec())
            }
            Step::Area { index, bytes, contents } => Told::Area(index, bytes, pages(contents, bytes)),
            Step::Parameter { parameter, area, offset } => Told::Parameter(parameter, area, offset),
            Step::Insert { area, range, .. } => Told::Insert(area, range.start().as_u64()),
            Step::Required { range } => Told::Required(range.start().as_u64(), range.bytes()),
            Step::ErrorRange { range } => Told::ErrorRange(range.start().as_u64(), range.bytes()),
        })
        .collect()
}

pub(crate) fn theirs(file: &IgvmFile) -> Vec<Told> {
    let padded = |data: &[u8], bytes: u64| {
        let mut data = data.to_vec();
        data.resize(bytes as usize, 0);
        data
    };
    let told = |parameter, at: &IGVM_VHS_PARAMETER| Told::Parameter(parameter, at.parameter_area_index, at.byte_offset);
    let directives = file.directives().iter();
    directives
        .filter_map(|directive| {
            Some(match directive {
                Directive::PageData { gpa, flags, data, .. } if flags.shared() => {
                    Told::Shared(*gpa, padded(data, 0x1000))
                }
                Directive::PageData { gpa, flags, data_type, data, .. } => {
                    let page_type = match *data_type {
                        DataType::SECRETS => PageType::Secrets,
                        DataType::CPUID_DATA | DataType::CPUID_XF => PageType::Cpuid,
                        _ if flags.unmeasured() => PageType::Unmeasured,
                        _ => PageType::Normal,
                    };
                    Told::Pages(page_type, *gpa, padded(data, 0x1000))
                }
                Directive::SnpVpContext { gpa, vp_index, vmsa, .. } => {
                    Told::Vmsa(*vp_index, *gpa, vmsa.as_bytes().to_vec())
                }
                Directive::ParameterArea { number_of_bytes, parameter_area_index, initial_data } => {
                    Told::Area(*parameter_area_index, *number_of_bytes, padded(initial_data, *number_of_bytes))
                }
                Directive::VpCount(at) => told(Parameter::VpCount, at),
                Directive::EnvironmentInfo(at) => told(Parameter::EnvironmentInfo, at),
                Directive::Srat(at) => told(Parameter::Srat, at),
                Directive::Madt(at) => told(Parameter::Madt, at),
                Directive::Slit(at) => told(Parameter::Slit, at),
                Directive::Pptt(at) => told(Parameter::Pptt, at),
                Directive::MmioRanges(at) => told(Parameter::MmioRanges, at),
                Directive::MemoryMap(at) => told(Parameter::MemoryMap, at),
                Directive::CommandLine(at) => told(Parameter::CommandLine, at),
                Directive::DeviceTree(at) => told(Parameter::DeviceTree, at),
                Directive::ParameterInsert(insert) => Told::Insert(insert.parameter_area_index, insert.gpa),
                Directive::RequiredMemory { gpa, number_of_bytes, .. } => {
                    Told::Required(*gpa, u64::from(*number_of_bytes))
                }
                Directive::ErrorRange { gpa, size_bytes, .. } => Told::ErrorRange(*gpa, u64::from(*size_bytes)),
                // No step of loading.
                Directive::SnpIdBlock { .. } => return None,
                other => panic!("not for SNP: {other:?}"),
            })
        })
        .collect()
}

pub(crate) fn assert_same_steps(what: &str, file: &[u8]) {
    let read = IgvmFile::new_from_binary(file, Some(IsolationType::Snp)).expect("igvm reads the file");
    assert!(ours(file) == theirs(&read), "{what}: other steps");
}
