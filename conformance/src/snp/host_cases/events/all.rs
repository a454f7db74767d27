//! The events. Each checks the answer of an honest host: what devices and registers hold is known.

use backend_snp::SnpError;
use backend_snp::abi::ap::{ApCreation, ApRequest};
use backend_snp::abi::firmware_status::{FirmwareStatus, VmmError};
use backend_snp::abi::ghcb::ValidBit;
use backend_snp::abi::nae::HvFeatures;
use backend_snp::abi::sev_features::SevFeatures;
use backend_snp::abi::vmpl::Vmpl;
use backend_snp::host::{
    AddressSize, CpuidRequest, HostChannel, MonitorOperands, Paged, PortAccess, PortSize, Segment, SharedAddr,
};
use coco_part_api::{HostState, Stopped};
use machine::host::{DEVICE_PAGE, LOOPBACK_PORT};
use x86_64::PhysAddr;

use super::Page;
use crate::snp::port::ModelPort;
use crate::world::layout::{FREE, PAGE, frame, page, range};

/// One event of the table below.
pub(super) struct Event {
    pub(super) name: &'static str,
    /// Fields that some answer on the way must have besides SW_EXITINFO1.
    pub(super) outputs: &'static [ValidBit],
    /// Sends it; says whether the values of the answer are right.
    pub(super) send: for<'y> fn(&mut Page<'y>, &mut ModelPort<'y>) -> Result<bool, SnpError>,
}

/// x2APIC ICR: startup interrupt to the own vCPU.
pub(super) const STARTUP_SELF: u64 = 1 << 18 | 0x600;
/// #GP(0), as the host asks for it.
const GENERAL_PROTECTION: SnpError = SnpError::Exception { info: 0x8000_0b0d };

const RAX: ValidBit = ValidBit::RAX;
const RBX: ValidBit = ValidBit::RBX;
const RCX: ValidBit = ValidBit::RCX;
const RDX: ValidBit = ValidBit::RDX;
const DETAIL: ValidBit = ValidBit::SW_EXIT_INFO_2;

/// Pages that the host has from the start: data of the events.
const DATA: u64 = FREE + 8 * PAGE;

/// Where the host puts its certificates.
pub(super) const CERTIFICATES: u64 = page(DATA, 4);

/// The loopback port of the host, by 64-bit code.
const fn loopback(size: PortSize) -> PortAccess {
    PortAccess::new(LOOPBACK_PORT, size)
}

/// A sub-leaf of CPUID with plain state.
pub(super) const fn leaf(leaf: u32, subleaf: u32) -> CpuidRequest {
    CpuidRequest { leaf, subleaf, xcr0: 3, xss: 1 << 11 }
}

/// An address of the host's device.
fn device(offset: u64) -> Result<SharedAddr, SnpError> {
    SharedAddr::try_new(PhysAddr::new(DEVICE_PAGE + offset), 51, |_| false)
}

/// Whether the host refused with #GP.
fn is_gp<T>(result: Result<T, SnpError>) -> Result<bool, SnpError> {
    match result {
        Err(GENERAL_PROTECTION) => Ok(true),
        other => other.map(|_| false),
    }
}

/// Every event that comes back. Strings come before single values: one that fails on its way leaves bytes in the port.
pub(super) const EVENTS: &[Event] = &[
    Event {
        name: "port, string",
        outputs: &[],
        send: |ghcb, port| {
            let sent: [u8; 2032] = core::array::from_fn(|index| index as u8);
            ghcb.port_out_string(port, loopback(PortSize::Word), Segment::Ds, &sent)?;
            let mut got = [0; 2032];
            let (most, last) = got.split_at_mut(2031);
            ghcb.port_in_string(port, loopback(PortSize::Byte), most)?;
            ghcb.port_in_string(port, loopback(PortSize::Byte), last)?;
            Ok(got == sent)
        },
    },
    Event {
        name: "port, one value",
        outputs: &[RAX],
        send: |ghcb, port| {
            ghcb.port_out(port, loopback(PortSize::Dword), 0x8765_4321)?;
            let low = ghcb.port_in(port, loopback(PortSize::Byte))?;
            let middle = ghcb.port_in(port, loopback(PortSize::Word))?;
            let nowhere = PortAccess { port: 0x60, size: PortSize::Word, address: AddressSize::Bits16 };
            let rest = ghcb.port_in(port, loopback(PortSize::Byte))?;
            Ok([low, middle, rest, ghcb.port_in(port, nowhere)?] == [0x21, 0x6543, 0x87, 0xffff])
        },
    },
    Event {
        name: "MSR",
        outputs: &[RAX, RDX],
        send: |ghcb, port| {
            ghcb.write_msr(port, 0x277, 0x1122_3344_5566_7788)?;
            Ok(ghcb.read_msr(port, 0x277)? == 0x1122_3344_5566_7788
                && is_gp(ghcb.read_msr(port, 0x1234))?
                && is_gp(ghcb.write_msr(port, 0x1234, 0))?)
        },
    },
    Event {
        name: "CPUID",
        outputs: &[RAX, RBX, RCX, RDX],
        send: |ghcb, port| {
            let sev = ghcb.cpuid(port, leaf(0x8000_001f, 0))?;
            // The size depends on XCR0, and on XSS for sub-leaf 1.
            let [small, large] = [3, 7].map(|xcr0| CpuidRequest { xcr0, ..leaf(0xd, 0) });
            let sizes =
                [ghcb.cpuid(port, small)?.ebx, ghcb.cpuid(port, large)?.ebx, ghcb.cpuid(port, leaf(0xd, 1))?.ebx];
            Ok(sev.ebx & 0x3f == 51 && sizes == [0x240, 0x340, 0x250])
        },
    },
    Event {
        name: "device memory",
        outputs: &[],
        send: |ghcb, port| {
            let sent: [u8; 2032] = core::array::from_fn(|index| !index as u8);
            ghcb.mmio_write(port, device(0x810)?, &sent)?;
            let (mut all, mut last) = ([0; 2032], [0; 1]);
            ghcb.mmio_read(port, device(0x810)?, &mut all)?;
            ghcb.mmio_read(port, device(0xfff)?, &mut last)?;
            Ok(all == sent && last[0] == sent[2031])
        },
    },
    Event {
        name: "time stamp counter",
        outputs: &[RAX, RCX, RDX],
        send: |ghcb, port| {
            ghcb.write_msr(port, 0xc000_0103, 0x77)?;
            let (first, second) = (ghcb.rdtsc(port)?, ghcb.rdtscp(port)?);
            Ok(first < second.tsc && second.aux == 0x77)
        },
    },
    Event {
        name: "performance counter",
        outputs: &[RAX, RDX],
        send: |ghcb, port| Ok(ghcb.rdpmc(port, 0)? < ghcb.rdpmc(port, 5)? && is_gp(ghcb.rdpmc(port, 6))?),
    },
    Event {
        name: "DR7",
        outputs: &[RAX],
        send: |ghcb, port| {
            ghcb.write_dr7(port, 0x555)?;
            Ok(ghcb.read_dr7(port)? == 0x555)
        },
    },
    Event {
        name: "VMMCALL",
        outputs: &[RAX],
        send: |ghcb, port| {
            // The host knows no call, and none is for user code.
            let [kernel, user] = [ghcb.vmmcall(port, 1, 0)?, ghcb.vmmcall(port, 1, 3)?];
            Ok([kernel as i64, user as i64] == [-1000, -1])
        },
    },
    Event { name: "WBINVD", outputs: &[], send: |ghcb, port| ghcb.wbinvd(port).map(|()| true) },
    Event {
        name: "MONITOR",
        outputs: &[],
        send: |ghcb, port| {
            ghcb.monitor(port, MonitorOperands { rax: DATA, ..MonitorOperands::default() })?;
            ghcb.mwait(port, 0, 1).map(|()| true)
        },
    },
    Event { name: "NMI complete", outputs: &[], send: |ghcb, port| ghcb.nmi_complete(port).map(|()| true) },
    Event {
        name: "reset hold",
        outputs: &[DETAIL],
        send: |ghcb, port| {
            ghcb.send_ipi(port, STARTUP_SELF)?;
            ghcb.ap_reset_hold(port)
        },
    },
    Event {
        name: "startup interrupt by MSR",
        outputs: &[DETAIL],
        send: |ghcb, port| {
            ghcb.write_msr(port, 0x830, STARTUP_SELF)?;
            ghcb.ap_reset_hold(port)
        },
    },
    Event {
        name: "list of vCPUs",
        outputs: &[RAX],
        send: |ghcb, port| {
            let mut ids = [u32::MAX; 8];
            let needed = ghcb.apic_ids(port, None, &mut ids)?;
            let listed = ghcb.apic_ids(port, Some(range(DATA, PAGE)), &mut ids)?;
            // One vCPU.
            Ok(needed == Paged::PagesNeeded(1) && listed == Paged::Done(1) && ids[..2] == [0, u32::MAX])
        },
    },
    Event {
        name: "features",
        outputs: &[DETAIL],
        send: |ghcb, port| Ok(ghcb.hv_features(port, HvFeatures::MULTIPLE_VMPLS)?.contains(HvFeatures::APIC_ID_LIST)),
    },
    Event {
        name: "page state",
        outputs: &[DETAIL],
        send: |ghcb, port| {
            let pages = range(page(DATA, 32), 2 * PAGE);
            let stopped = |stopped: Stopped<SnpError>| stopped.cause;
            ghcb.page_state(port, pages, HostState::Private).map_err(stopped)?;
            ghcb.page_state(port, pages, HostState::Shared).map_err(stopped).map(|()| true)
        },
    },
    Event {
        name: "guest request",
        outputs: &[DETAIL],
        send: |ghcb, port| {
            // A page of zeros is no message: the firmware says so, through the host.
            let status = ghcb.guest_request(port, frame(page(DATA, 1)), frame(page(DATA, 2)))?;
            Ok(status.vmm() == VmmError::SUCCESS && status.firmware() != FirmwareStatus::SUCCESS)
        },
    },
    Event {
        name: "extended guest request",
        outputs: &[DETAIL, RBX],
        send: |ghcb, port| {
            let (request, response) = (frame(page(DATA, 1)), frame(page(DATA, 2)));
            let Paged::PagesNeeded(needed) = ghcb.extended_guest_request(port, request, response, None)? else {
                return Ok(false);
            };
            let data = range(CERTIFICATES, needed * PAGE);
            let answer = ghcb.extended_guest_request(port, request, response, Some(data))?;
            Ok(matches!(answer, Paged::Done(status) if status.firmware() != FirmwareStatus::SUCCESS))
        },
    },
    Event {
        name: "AP creation",
        outputs: &[],
        send: |ghcb, port| {
            let creation = |request| ApCreation { request, vmpl: Vmpl::VMPL3, apic_id: 0, vmsa: frame(page(DATA, 3)) };
            let features = SevFeatures::SNP_ACTIVE;
            ghcb.ap_creation(port, &creation(ApRequest::CreateOnInit { features }))?;
            ghcb.ap_creation(port, &creation(ApRequest::Destroy)).map(|()| true)
        },
    },
];
