//! Every form of every event: how it is sent, what the host has to see, and what it has to answer.

use core::panic::AssertUnwindSafe;

use coco_part_api::HostState;
use x86_64::PhysAddr;

use crate::abi::ap::{ApCreation, ApRequest};
use crate::abi::exit_codes::ExitCode;
use crate::abi::nae::HvFeatures;
use crate::abi::sev_features::SevFeatures;
use crate::abi::terminate::TerminateReason;
use crate::abi::vmpl::Vmpl;
use crate::error::SnpError;
use crate::host::{
    AddressSize, CpuidRequest, CpuidResult, GhcbPage, HostChannel, MonitorOperands, Paged, PortAccess, PortSize,
    Segment, SharedAddr, TscAndAux,
};
use crate::testing::{Memory, MockPort, frame, range};

/// How the host answers in these tests: RAX, RBX, RCX, RDX.
pub(super) const ANSWER: [u64; 4] = [0xa0a0_a0a0_0000_0001, 5, 0xc0c0_c0c0_0000_0003, 0xd0d0_d0d0_0000_0004];

/// EDX:EAX of [`ANSWER`].
const EDX_EAX: u64 = 0x4_0000_0001;

/// One way to send an event.
pub(super) struct Form {
    pub(super) what: &'static str,
    pub(super) code: u64,
    /// SW_EXITINFO1 and 2.
    pub(super) info: (u64, u64),
    /// The other fields that the host sees.
    pub(super) inputs: &'static [(&'static str, u64)],
    /// What the shared buffer begins with.
    pub(super) buffer: &'static [u8],
    /// The fields besides SW_EXITINFO1 that the answer must have.
    pub(super) outputs: &'static [&'static str],
    /// SW_EXITINFO2 of the answer.
    pub(super) detail: u64,
    /// Sends it, and checks what it makes of the answer.
    pub(super) send: fn(&mut GhcbPage<Memory>, &mut MockPort) -> Result<(), SnpError>,
}

/// An event without anything but its code.
const PLAIN: Form =
    Form { what: "", code: 0, info: (0, 0), inputs: &[], buffer: &[], outputs: &[], detail: 0, send: |_, _| Ok(()) };

/// Address of the shared buffer.
const BUFFER: u64 = super::GHCB + 0x800;

const COM1: PortAccess = PortAccess::new(0x3f8, PortSize::Byte);
const WIDE: PortAccess = PortAccess { port: 0xcf8, size: PortSize::Dword, address: AddressSize::Bits32 };
const WORDS: PortAccess = PortAccess { port: 0x1f0, size: PortSize::Word, address: AddressSize::Bits16 };

/// A device page that is shared.
pub(super) fn device(at: u64) -> SharedAddr {
    SharedAddr::try_new(PhysAddr::new(at), 51, |_| false).unwrap()
}

fn ap(request: ApRequest) -> ApCreation {
    ApCreation { request, vmpl: Vmpl::VMPL2, apic_id: 7, vmsa: frame(0x9000) }
}

/// Fails the test if a good answer is taken for something else.
fn same<T: PartialEq + core::fmt::Debug>(got: Result<T, SnpError>, want: T) -> Result<(), SnpError> {
    assert_eq!(got?, want);
    Ok(())
}

/// All forms.
pub(super) const FORMS: &[Form] = &[
    Form { code: 0x27, outputs: &["RAX"], send: |ghcb, port| same(ghcb.read_dr7(port), ANSWER[0]), ..PLAIN },
    Form { code: 0x37, inputs: &[("RAX", 0x155)], send: |ghcb, port| ghcb.write_dr7(port, 0x155), ..PLAIN },
    Form { code: 0x6e, outputs: &["RAX", "RDX"], send: |ghcb, port| same(ghcb.rdtsc(port), EDX_EAX), ..PLAIN },
    Form {
        code: 0x6f,
        inputs: &[("RCX", 9)],
        outputs: &["RAX", "RDX"],
        send: |ghcb, port| same(ghcb.rdpmc(port, 9), EDX_EAX),
        ..PLAIN
    },
    Form {
        what: "leaf without extended state",
        code: 0x72,
        inputs: &[("RAX", 7), ("RCX", 1)],
        outputs: &["RAX", "RBX", "RCX", "RDX"],
        send: |ghcb, port| {
            let request = CpuidRequest { leaf: 7, subleaf: 1, xcr0: 0xee, xss: 0xdd };
            same(ghcb.cpuid(port, request), CpuidResult { eax: 1, ebx: 5, ecx: 3, edx: 4 })
        },
        ..PLAIN
    },
    Form {
        what: "extended state, sub-leaf 0",
        code: 0x72,
        inputs: &[("RAX", 0xd), ("RCX", 0), ("XCR0", 7)],
        outputs: &["RAX", "RBX", "RCX", "RDX"],
        send: |ghcb, port| {
            let request = CpuidRequest { leaf: 0xd, subleaf: 0, xcr0: 7, xss: 0xdd };
            same(ghcb.cpuid(port, request), CpuidResult { eax: 1, ebx: 5, ecx: 3, edx: 4 })
        },
        ..PLAIN
    },
    Form {
        what: "extended state, sub-leaf 1",
        code: 0x72,
        inputs: &[("RAX", 0xd), ("RCX", 1), ("XCR0", 7), ("XSS", 0x800)],
        outputs: &["RAX", "RBX", "RCX", "RDX"],
        send: |ghcb, port| {
            let request = CpuidRequest { leaf: 0xd, subleaf: 1, xcr0: 7, xss: 0x800 };
            same(ghcb.cpuid(port, request), CpuidResult { eax: 1, ebx: 5, ecx: 3, edx: 4 })
        },
        ..PLAIN
    },
    Form {
        what: "IN of 8 bits",
        code: 0x7b,
        info: (0x03f8_0211, 0),
        outputs: &["RAX"],
        send: |ghcb, port| same(ghcb.port_in(port, COM1), 1),
        ..PLAIN
    },
    Form {
        what: "OUT of 32 bits",
        code: 0x7b,
        info: (0x0cf8_0140, 0),
        inputs: &[("RAX", 0x8765_4321)],
        send: |ghcb, port| ghcb.port_out(port, WIDE, 0x8765_4321),
        ..PLAIN
    },
    Form {
        what: "REP INS of three 16-bit values",
        code: 0x7b,
        info: (0x01f0_00ad, 3),
        inputs: &[("SW_SCRATCH", BUFFER)],
        send: |ghcb, port| {
            let mut data = [0; 6];
            ghcb.port_in_string(port, WORDS, &mut data)?;
            same(Ok(data), [0xb0, 0xb1, 0xb2, 0xb3, 0xb4, 0xb5])
        },
        ..PLAIN
    },
    Form {
        what: "one OUTS of 8 bits from FS",
        code: 0x7b,
        info: (0x03f8_1214, 1),
        inputs: &[("SW_SCRATCH", BUFFER)],
        buffer: &[0x5a],
        send: |ghcb, port| ghcb.port_out_string(port, COM1, Segment::Fs, &[0x5a]),
        ..PLAIN
    },
    Form {
        what: "REP OUTS of two 32-bit values from DS",
        code: 0x7b,
        info: (0x0cf8_0d4c, 2),
        inputs: &[("SW_SCRATCH", BUFFER)],
        buffer: &[1, 2, 3, 4, 5, 6, 7, 8],
        send: |ghcb, port| ghcb.port_out_string(port, WIDE, Segment::Ds, &[1, 2, 3, 4, 5, 6, 7, 8]),
        ..PLAIN
    },
    Form {
        what: "RDMSR",
        code: 0x7c,
        inputs: &[("RCX", 0xc001_0015)],
        outputs: &["RAX", "RDX"],
        send: |ghcb, port| same(ghcb.read_msr(port, 0xc001_0015), EDX_EAX),
        ..PLAIN
    },
    Form {
        what: "WRMSR",
        code: 0x7c,
        info: (1, 0),
        inputs: &[("RCX", 0x1b), ("RAX", 0x9abc_def0), ("RDX", 0x1234_5678)],
        send: |ghcb, port| ghcb.write_msr(port, 0x1b, 0x1234_5678_9abc_def0),
        ..PLAIN
    },
    Form {
        code: 0x81,
        // CPL is byte 3 of its quadword.
        inputs: &[("RAX", 0xabc), ("CPL", 3 << 24)],
        outputs: &["RAX"],
        send: |ghcb, port| same(ghcb.vmmcall(port, 0xabc, 3), ANSWER[0]),
        ..PLAIN
    },
    Form {
        code: 0x87,
        outputs: &["RAX", "RCX", "RDX"],
        send: |ghcb, port| same(ghcb.rdtscp(port), TscAndAux { tsc: EDX_EAX, aux: 3 }),
        ..PLAIN
    },
    Form { code: 0x89, send: |ghcb, port| ghcb.wbinvd(port), ..PLAIN },
    Form {
        what: "with the address",
        code: 0x8a,
        info: (0x7_7040, 0),
        inputs: &[("RAX", 0xffff_8000_0000_0040), ("RCX", 1), ("RDX", 2)],
        send: |ghcb, port| {
            let at = Some(PhysAddr::new(0x7_7040));
            ghcb.monitor(port, MonitorOperands { at, rax: 0xffff_8000_0000_0040, ecx: 1, edx: 2 })
        },
        ..PLAIN
    },
    Form {
        what: "without the address",
        code: 0x8a,
        inputs: &[("RAX", 0x40), ("RCX", 0), ("RDX", 0)],
        send: |ghcb, port| ghcb.monitor(port, MonitorOperands { rax: 0x40, ..MonitorOperands::default() }),
        ..PLAIN
    },
    Form { code: 0x8b, inputs: &[("RAX", 0x10), ("RCX", 1)], send: |ghcb, port| ghcb.mwait(port, 0x10, 1), ..PLAIN },
    Form {
        code: 0x8000_0001,
        info: (0xfec0_0ffc, 4),
        inputs: &[("SW_SCRATCH", BUFFER)],
        send: |ghcb, port| {
            let mut data = [0; 4];
            ghcb.mmio_read(port, device(0xfec0_0ffc), &mut data)?;
            same(Ok(data), [0xb0, 0xb1, 0xb2, 0xb3])
        },
        ..PLAIN
    },
    Form {
        code: 0x8000_0002,
        info: (0xfec0_0000, 2032),
        inputs: &[("SW_SCRATCH", BUFFER)],
        buffer: &[0x66; 2032],
        send: |ghcb, port| ghcb.mmio_write(port, device(0xfec0_0000), &[0x66; 2032]),
        ..PLAIN
    },
    Form { code: 0x8000_0003, send: |ghcb, port| ghcb.nmi_complete(port), ..PLAIN },
    Form {
        what: "spurious",
        code: 0x8000_0004,
        outputs: &["SW_EXITINFO2"],
        send: |ghcb, port| same(ghcb.ap_reset_hold(port), false),
        ..PLAIN
    },
    Form {
        what: "started",
        code: 0x8000_0004,
        outputs: &["SW_EXITINFO2"],
        detail: 1 << 63,
        send: |ghcb, port| same(ghcb.ap_reset_hold(port), true),
        ..PLAIN
    },
    Form {
        code: 0x8000_0010,
        inputs: &[("SW_SCRATCH", BUFFER)],
        buffer: &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0x80, 0, 0, 0, 0, 0x10, 0],
        outputs: &["SW_EXITINFO2"],
        send: |ghcb, port| {
            ghcb.page_state(port, range(0x8000, 0x1000), HostState::Private).map_err(|stopped| stopped.cause)
        },
        ..PLAIN
    },
    Form {
        code: 0x8000_0011,
        info: (0x1000, 0x2000),
        outputs: &["SW_EXITINFO2"],
        detail: 0x2_0000_0016,
        send: |ghcb, port| {
            same(ghcb.guest_request(port, frame(0x1000), frame(0x2000)).map(|status| status.bits()), 0x2_0000_0016)
        },
        ..PLAIN
    },
    Form {
        what: "with pages",
        code: 0x8000_0012,
        info: (0x1000, 0x2000),
        inputs: &[("RAX", 0x8000), ("RBX", 4)],
        outputs: &["SW_EXITINFO2"],
        detail: 0x16,
        send: |ghcb, port| {
            let data = Some(range(0x8000, 0x4000));
            let done = ghcb.extended_guest_request(port, frame(0x1000), frame(0x2000), data)?;
            assert!(matches!(done, Paged::Done(status) if status.bits() == 0x16));
            Ok(())
        },
        ..PLAIN
    },
    Form {
        what: "with too few pages",
        code: 0x8000_0012,
        info: (0x1000, 0x2000),
        inputs: &[("RAX", 0), ("RBX", 0)],
        outputs: &["SW_EXITINFO2", "RBX"],
        detail: 1 << 32,
        send: |ghcb, port| {
            same(ghcb.extended_guest_request(port, frame(0x1000), frame(0x2000), None), Paged::PagesNeeded(5))
        },
        ..PLAIN
    },
    Form {
        what: "at the next INIT",
        code: 0x8000_0013,
        info: (0x7_0002_0000, 0x9000),
        inputs: &[("RAX", 1)],
        send: |ghcb, port| ghcb.ap_creation(port, &ap(ApRequest::CreateOnInit { features: SevFeatures::SNP_ACTIVE })),
        ..PLAIN
    },
    Form {
        what: "now",
        code: 0x8000_0013,
        info: (0x7_0002_0001, 0x9000),
        inputs: &[("RAX", 1)],
        send: |ghcb, port| ghcb.ap_creation(port, &ap(ApRequest::Create { features: SevFeatures::SNP_ACTIVE })),
        ..PLAIN
    },
    Form {
        what: "destroy",
        code: 0x8000_0013,
        info: (0x7_0002_0002, 0x9000),
        send: |ghcb, port| ghcb.ap_creation(port, &ap(ApRequest::Destroy)),
        ..PLAIN
    },
    Form {
        code: 0x8000_0015,
        info: (0x3_000c_00fd, 0),
        send: |ghcb, port| ghcb.send_ipi(port, 0x3_000c_00fd),
        ..PLAIN
    },
    Form {
        code: 0x8000_0017,
        inputs: &[("RAX", 0)],
        outputs: &["RAX"],
        send: |ghcb, port| match ghcb.apic_ids(port, None, &mut []) {
            // The answer of these tests is no number of pages.
            Err(SnpError::PagesNeeded { given: 0, needed: 0xa0a0_a0a0_0000_0001 }) => Ok(()),
            other => other.map(|pages| panic!("{pages:?}")),
        },
        ..PLAIN
    },
    Form {
        code: 0x8000_0018,
        info: (3, 0),
        outputs: &["SW_EXITINFO1"],
        send: |ghcb, port| ghcb.run_vmpl(port, Vmpl::VMPL3),
        ..PLAIN
    },
    Form {
        code: 0x8000_fffd,
        outputs: &["SW_EXITINFO2"],
        detail: 0x33,
        send: |ghcb, port| {
            let features = HvFeatures::from_bits_retain(0x33);
            same(ghcb.hv_features(port, HvFeatures::SEV_SNP), features)
        },
        ..PLAIN
    },
    Form {
        code: 0x8000_fffe,
        info: (0x5a7, 0),
        send: |ghcb, port| {
            // It never returns: the port panics after so many halts.
            let reason = TerminateReason::try_new(7, 0x5a).unwrap();
            let end = std::panic::catch_unwind(AssertUnwindSafe(|| ghcb.terminate(port, reason)));
            assert!(end.is_err());
            Ok(())
        },
        ..PLAIN
    },
    Form {
        code: 0x8000_ffff,
        info: (0x404, 0),
        send: |ghcb, port| ghcb.unsupported_event(port, ExitCode::PAGE_NOT_VALIDATED),
        ..PLAIN
    },
];
