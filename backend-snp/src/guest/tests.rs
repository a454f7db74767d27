use core::mem::offset_of;
use std::boxed::Box;

use coco_part_api::svsm::{CORE, CallId, QUERY_PROTOCOL};
use coco_part_api::{
    Binding, CallMonitor, CallRegs, Context, DataForm, Error, ErrorKind, GuestLevel, GuestPort, HostState, Level,
    NewVcpu, VcpuId,
};

use super::{GuestSide, Placement};
use crate::abi::secrets::SecretsPage;
use crate::abi::sev_features::SevFeatures;
use crate::abi::vmpl::Vmpl;
use crate::error::SnpError;
use crate::features::Policy;
use crate::instr::{Fault, RmpCode};
use crate::message::MessagePages;
use crate::testing::{EXIT_CODE, Exit, INFO_1, INFO_2, Memory, MockPort, RAM, frame, no_host, range, reply};

const SECRETS: u64 = 0x1000;
const SCRATCH: u64 = 0x2000;
const CALL_AREA: u64 = 0x3000;
const GHCB: u64 = 0x4000;

/// The secrets page of a guest at `vmpl`, as L1 fills it.
fn secrets(memory: &Memory, vmpl: u8) {
    let at = SECRETS as usize;
    memory.bytes()[at] = 3;
    memory.set_word(at + offset_of!(SecretsPage, svsm_base), 0x8_0000);
    memory.set_word(at + offset_of!(SecretsPage, svsm_size), 0x1_0000);
    memory.set_word(at + offset_of!(SecretsPage, svsm_caa), CALL_AREA);
    memory.bytes()[at + offset_of!(SecretsPage, svsm_max_version)] = 1;
    memory.bytes()[at + offset_of!(SecretsPage, svsm_guest_vmpl)] = vmpl;
    for number in vmpl..=3 {
        memory.bytes()[at + 0x20 + 32 * usize::from(number)..][..32].fill(0x50 + number);
    }
}

fn find(port: &mut MockPort, memory: &Memory) -> Result<Placement, SnpError> {
    Placement::find(port, memory, frame(SECRETS), frame(SCRATCH))
}

/// A guest at VMPL2 over private and shared memory and a host.
fn guest(host: impl FnMut(Exit<'_>, &Memory, &Memory) + 'static) -> (GuestSide<MockPort, Memory>, Memory, Memory) {
    let (private, shared) = (Memory::new(), Memory::new());
    secrets(&private, 2);
    let mut host = host;
    let (mine, theirs) = (private.clone(), shared.clone());
    let mut port = MockPort::new(move |exit| match *exit.msr {
        msr if msr == GHCB | 0x012 => *exit.msr = GHCB | 0x013,
        _ => host(exit, &mine, &theirs),
    });
    let placement = find(&mut port, &private).unwrap();
    let side = GuestSide::new(port, private.clone(), shared.clone(), &placement, VcpuId(5), placement.call_area());
    (side, private, shared)
}

#[test]
fn finds_every_level_that_page_and_machine_agree_on() {
    for (number, level) in (1..=3).zip(GuestLevel::ALL) {
        let memory = Memory::new();
        secrets(&memory, number);
        let mut port = MockPort { vmpl: number, sev_status: 0x2_0007, ..no_host() };
        let placement = find(&mut port, &memory).unwrap();
        assert_eq!((placement.level(), placement.vmpl().number()), (level, number));
        assert_eq!(placement.features(), SevFeatures::SNP_ACTIVE | SevFeatures::SMT_PROTECTION);
        assert_eq!(placement.call_area(), frame(CALL_AREA));
        assert_eq!(placement.monitor(), range(0x8_0000, 0x1_0000));
        assert!(port.adjusted.iter().all(|(at, rights)| *at == SCRATCH && rights.permissions().is_empty()));
    }
}

#[test]
fn refuses_a_level_that_the_machine_contradicts() {
    for told in 1..=3 {
        for own in (0..=3).filter(|own| *own != told) {
            let memory = Memory::new();
            secrets(&memory, told);
            let error = find(&mut MockPort { vmpl: own, ..no_host() }, &memory).unwrap_err();
            assert!(matches!(error, SnpError::LevelMismatch { told: kept, .. } if kept == told), "{own} {told}");
            assert_eq!(error.kind(), ErrorKind::HostMisbehaved);
        }
    }
}

#[test]
fn a_probe_that_tells_nothing_is_an_error() {
    let memory = Memory::new();
    secrets(&memory, 2);
    let vc = Fault::Vc { code: 0x404 };
    for (said, expected) in [
        (Ok(RmpCode::FAIL_INPUT), SnpError::Rmpadjust { code: RmpCode::FAIL_INPUT }),
        (Ok(RmpCode::FAIL_SIZEMISMATCH), SnpError::Rmpadjust { code: RmpCode::FAIL_SIZEMISMATCH }),
        (Ok(RmpCode(77)), SnpError::Rmpadjust { code: RmpCode(77) }),
        (Err(vc), SnpError::Fault(vc)),
    ] {
        assert_eq!(find(&mut MockPort { rmpadjust: Some(said), ..no_host() }, &memory), Err(expected));
    }
}

#[test]
fn refuses_secrets_that_cannot_be() {
    type Change = fn(&Memory, usize);
    let bad = |field| SnpError::BadSecrets { field };
    let cases: [(Change, SnpError); 13] = [
        (|memory, at| memory.bytes()[at] = 0, bad("version")),
        (|memory, at| memory.bytes()[at] = 1, bad("version")),
        (|memory, at| memory.bytes()[at] = 5, bad("version")),
        (|memory, at| memory.bytes()[at + 3] = 1, bad("version")),
        (|memory, at| memory.set_word(at + 0x148, 0), SnpError::NoSvsm),
        (|memory, at| memory.bytes()[at + 0x15c] = 0, bad("svsm_guest_vmpl")),
        (|memory, at| memory.bytes()[at + 0x15c] = 4, bad("svsm_guest_vmpl")),
        (|memory, at| memory.set_word(at + 0x150, CALL_AREA + 8), bad("svsm_caa")),
        (|memory, at| memory.set_word(at + 0x150, 1 << 52), bad("svsm_caa")),
        (|memory, at| memory.set_word(at + 0x140, 0x8_0010), bad("svsm_base")),
        (|memory, at| memory.set_word(at + 0x140, u64::MAX << 12), bad("svsm_base")),
        (|memory, at| memory.set_word(at + 0x148, u64::MAX), bad("svsm_base")),
        (|memory, at| memory.bytes()[at + 0x158] = 0, bad("svsm_max_version")),
    ];
    for (change, expected) in cases {
        let memory = Memory::new();
        secrets(&memory, 2);
        change(&memory, SECRETS as usize);
        let mut port = no_host();
        assert_eq!(find(&mut port, &memory), Err(expected));
        assert!(port.adjusted.is_empty(), "nothing was probed");
    }
}

#[test]
fn refuses_features_that_are_missing_or_not_understood() {
    let memory = Memory::new();
    secrets(&memory, 2);
    for sev_status in [0, 0x3, 0x6, 0x7 | 1 << 3, 0x7 | 1 << 16, 0x7 | 1 << 19, 0x7 | 1 << 63] {
        let error = find(&mut MockPort { sev_status, ..no_host() }, &memory).unwrap_err();
        assert_eq!((error, error.kind()), (Policy::GUEST.check(sev_status).unwrap_err(), ErrorKind::Unsupported));
    }
    find(&mut MockPort { sev_status: 0x7 | 1 << 5 | 1 << 7, ..no_host() }, &memory).unwrap();
}

const CALL: CallRegs = CallRegs::call(CallId::new(CORE, QUERY_PROTOCOL), 1, 2, 3);

#[test]
fn a_call_is_served_when_only_l1_can_have_cleared_the_mark() {
    let (mut side, private, _) = guest(|exit, private, _| {
        assert_eq!(*exit.msr, 0x016);
        assert_eq!(private.byte(CALL_AREA as usize), 1);
        private.bytes()[CALL_AREA as usize] = 0;
        let regs = exit.regs.unwrap();
        assert_eq!((regs.rax, regs.rcx, regs.rdx, regs.r8, regs.r9), (6, 1, 2, 3, 0));
        (regs.rax, regs.rcx) = (0, 9);
        *exit.msr = 0x017;
    });
    assert_eq!(side.call(CALL).unwrap(), CallRegs { rax: 0, rcx: 9, rdx: 2, r8: 3, r9: 0 });
    assert_eq!((private.byte(CALL_AREA as usize), side.port.msr), (0, 0xabc_0000));
}

#[test]
fn success_from_the_host_alone_is_not_served() {
    for answer in [0x017, 0x005, 0x5_0000_0017, 0x016] {
        let (mut side, private, _) = guest(move |exit, _, _| {
            exit.regs.unwrap().rax = 0;
            *exit.msr = answer;
        });
        let error = side.call(CALL).unwrap_err();
        assert_eq!((error, error.kind()), (SnpError::NotServed, ErrorKind::HostMisbehaved), "{answer:#x}");
        assert_eq!(private.byte(CALL_AREA as usize), 0, "a late L1 finds no call");
    }
}

#[test]
fn a_served_call_with_a_wrong_answer_is_in_doubt_and_not_to_be_repeated() {
    for (answer, got) in [(0x005, 0x005), (0x015, 0x015), (0x5_0000_0017, 5)] {
        let (mut side, _, _) = guest(move |exit, private, _| {
            private.bytes()[CALL_AREA as usize] = 0;
            *exit.msr = answer;
        });
        let error = side.call(CALL).unwrap_err();
        assert_eq!((error, error.kind()), (SnpError::SwitchInDoubt { got }, ErrorKind::HostRefused));
    }
}

#[test]
fn a_call_uses_the_call_area_that_is_set() {
    let (mut side, _, _) = guest(|exit, private, _| {
        assert_eq!((private.byte(0x9000), private.byte(CALL_AREA as usize)), (1, 0));
        private.bytes()[0x9000] = 0;
        *exit.msr = 0x017;
    });
    side.set_call_area(frame(0x9000));
    side.call(CALL).unwrap();
    assert_eq!(side.call_area(), frame(0x9000));
    side.set_call_area(frame(RAM as u64));
    let exits = side.port.exits.len();
    assert_eq!(side.call(CALL).unwrap_err().kind(), ErrorKind::Inaccessible);
    assert_eq!((side.port.exits.len(), side.port.msr), (exits, 0xabc_0000), "nothing left for the host");
}

#[test]
fn agrees_by_register_first_and_by_page_later() {
    let (mut side, _, _) = guest(|exit, _, shared| match *exit.msr {
        GHCB => {
            assert_eq!(shared.word(GHCB as usize + EXIT_CODE), 0x8000_0010);
            shared.set_word(GHCB as usize + 0x800, 0x1_0002);
            reply(shared, GHCB, 0, 0);
        }
        msr => {
            assert_eq!(msr & 0xfff, 0x014);
            *exit.msr = 0x015;
        }
    });
    side.agree(range(0x8000, 0x2000), HostState::Shared).unwrap();
    assert_eq!(side.port.exits.len(), 2);
    side.use_ghcb(frame(GHCB)).unwrap();
    side.agree(range(0x8000, 0x2000), HostState::Private).unwrap();
    assert_eq!(side.port.exits.len(), 4);
}

const CONTEXT: Context = Context::long_mode(0x1234, 0x5678, 0x9000);

fn new(state: u64) -> NewVcpu<'static> {
    NewVcpu { id: VcpuId(9), context: &CONTEXT, state: frame(state), call_area: frame(0x9000) }
}

#[test]
fn writes_an_image_that_can_run_at_the_own_level() {
    let (mut side, private, shared) = guest(|_, _, _| panic!("no exit"));
    side.write_image(&new(0x7000), GuestLevel::TWO).unwrap();
    assert_eq!(private.word(0x7000 + 0xd0), 0x1d01);
    assert_eq!(private.byte(0x70ca), 2);
    assert_eq!(private.word(0x7000 + 0x3b0), 1);
    assert_eq!(private.word(0x7000 + 0x178), 0x1234);
    assert!(shared.bytes().iter().all(|&byte| byte == 0), "registers in shared memory");
    let aligned = side.write_image(&new(0), GuestLevel::TWO).unwrap_err();
    assert_eq!(aligned.kind(), ErrorKind::Misaligned);
    side.features |= SevFeatures::SECURE_TSC;
    assert_eq!(side.write_image(&new(0x7000), GuestLevel::TWO).unwrap_err().kind(), ErrorKind::Unsupported);
}

#[test]
fn starts_and_stops_by_ap_creation() {
    let (mut side, _, _) = guest(|exit, _, shared| {
        let word = |at| shared.word(GHCB as usize + at);
        let request = if exit.count == 1 { 1 } else { 2 };
        assert_eq!((word(EXIT_CODE), word(INFO_1), word(INFO_2)), (0x8000_0013, 9 << 32 | 2 << 16 | request, 0x7000));
        let refuses = exit.count == 3;
        reply(shared, GHCB, if refuses { 2 } else { 0 }, 5);
    });
    assert_eq!(side.start(VcpuId(9), frame(0x7000), GuestLevel::TWO), Err(SnpError::NoGhcbPage));
    side.use_ghcb(frame(GHCB)).unwrap();
    side.start(VcpuId(9), frame(0x7000), GuestLevel::TWO).unwrap();
    side.stop(VcpuId(9), frame(0x7000), GuestLevel::TWO).unwrap();
    let refused = side.stop(VcpuId(9), frame(0x7000), GuestLevel::TWO).unwrap_err();
    assert_eq!((refused, refused.kind()), (SnpError::MalformedRequest { code: 5 }, ErrorKind::HostRefused));
}

#[test]
fn takes_the_own_key_out_of_the_secrets_page() {
    let pages = MessagePages::new(frame(0x5000), frame(0x6000)).unwrap();
    let (mut side, private, _) = guest(|_, _, _| panic!("no exit"));
    private.bytes()[SECRETS as usize + 0xa8] = 4;
    private.bytes()[SECRETS as usize + 0xc0] = 1;
    assert!(side.attest(&[0; 64], &mut [0; 4096]).is_none(), "only L1 can attest yet");
    side.open_channel(frame(SECRETS), pages).unwrap();
    let key = |number: usize| private.bytes()[SECRETS as usize + 0x20 + 32 * number..][..32].to_vec();
    assert_eq!((key(2), key(3)), ([0; 32].to_vec(), [0x53; 32].to_vec()));
    assert_eq!(side.open_channel(frame(SECRETS), pages), Err(SnpError::ChannelClosed));
    let small = side.attest(&[0; 64], &mut [0; 1183]).unwrap().unwrap_err();
    assert_eq!(small, SnpError::BufferTooSmall { needed: 1184, given: 1183 });
    assert_eq!(side.attest(&[0; 64], &mut [0; 1184]), Some(Err(SnpError::NoGhcbPage)));
}

#[test]
fn attests_under_the_own_key() {
    use aes_gcm::{AeadInOut, Aes256Gcm, KeyInit};
    let iv = |number: u8| core::array::from_fn::<u8, 12, _>(|at| if at == 0 { number } else { 0 });
    let (mut side, _, _) = guest(move |_, _, shared| {
        // The firmware: report data and VMPL back, number one higher, type one higher.
        let mut page = Box::new([0; 0x1000]);
        page.copy_from_slice(&shared.bytes()[0x5000..0x6000]);
        let tag: [u8; 16] = page[..16].try_into().unwrap();
        let cipher = Aes256Gcm::new(&[0x52; 32].into());
        let (head, body) = page.split_at_mut(0x60);
        let text = &mut body[..0x60];
        cipher.decrypt_inout_detached(&iv(head[0x20]).into(), &head[0x30..], text.into(), &tag.into()).unwrap();
        let asked: [u8; 0x44] = body[..0x44].try_into().unwrap();
        let payload = &mut body[..0x4c0];
        payload.fill(0);
        payload[4..6].copy_from_slice(&[0xa0, 0x04]);
        payload[0x50..0x54].copy_from_slice(&asked[0x40..]);
        payload[0x70..0xb0].copy_from_slice(&asked[..64]);
        head[0x20] += 1;
        head[0x34] += 1;
        head[0x36..0x38].copy_from_slice(&[0xc0, 0x04]);
        let tag = cipher.encrypt_inout_detached(&iv(head[0x20]).into(), &head[0x30..], payload.into()).unwrap();
        head[..16].copy_from_slice(&tag);
        shared.bytes()[0x6000..0x7000].copy_from_slice(&page[..]);
        reply(shared, GHCB, 0, 0);
    });
    side.use_ghcb(frame(GHCB)).unwrap();
    side.open_channel(frame(SECRETS), MessagePages::new(frame(0x5000), frame(0x6000)).unwrap()).unwrap();
    let mut out = [0xff; 2000];
    let evidence = side.attest(&[0x33; 64], &mut out).unwrap().unwrap();
    assert_eq!((evidence.len, evidence.names), (1184, Level::Guest(GuestLevel::TWO)));
    assert_eq!((evidence.bound_by, evidence.data), (Binding::Hardware, DataForm::Verbatim));
    assert_eq!((out[0x30], &out[0x50..0x90], out[1184]), (2, &[0x33; 64][..], 0xff));
    assert_eq!(side.vmpl, Vmpl::VMPL2);
}
