use coco_part_api::{Context, CreateVcpu, Error, ErrorKind, NewVcpu, VcpuId};

use super::{CALL_AREA, Lie, Memory, RAM, frame, shim};
use crate::ShimError;

const STATE: u64 = 0x5000;
const AREA: u64 = 0x6000;
const CONTEXT: Context = Context::long_mode(0x1234, 0x8000, 0x7000);

fn new(state: u64, call_area: u64) -> NewVcpu<'static> {
    NewVcpu { id: VcpuId(9), context: &CONTEXT, state: frame(state), call_area: frame(call_area) }
}

fn is_zero(memory: &Memory, at: u64) -> bool {
    memory.0.borrow()[at as usize..][..4096].iter().all(|&byte| byte == 0)
}

#[test]
fn creates_starts_stops_and_deletes() {
    let (mut shim, world, memory) = shim();
    memory.0.borrow_mut()[AREA as usize] = 1;
    shim.create_vcpu(new(STATE, AREA)).unwrap();
    assert!(world.get().running.contains(&9));
    let call = world.get().calls[0];
    assert_eq!((call.rax, call.rcx, call.rdx, call.r8), (2, STATE, AREA, 9));
    assert_eq!(memory.0.borrow()[AREA as usize], 0);
    assert!(!is_zero(&memory, STATE));
    shim.destroy_vcpu(VcpuId(9), frame(STATE)).unwrap();
    assert!(world.get().vcpus.is_empty() && world.get().running.is_empty());
    assert!(is_zero(&memory, STATE));
}

#[test]
fn refuses_frames_that_are_taken_or_outside_the_map() {
    let (mut shim, world, _) = shim();
    let cases = [
        (CALL_AREA, AREA, ErrorKind::InUse),
        (STATE, CALL_AREA, ErrorKind::InUse),
        (STATE, STATE, ErrorKind::InUse),
        (RAM, AREA, ErrorKind::OutOfRange),
        (STATE, RAM, ErrorKind::OutOfRange),
    ];
    for (state, area, kind) in cases {
        assert_eq!(shim.create_vcpu(new(state, area)).unwrap_err().kind(), kind, "{state:#x} {area:#x}");
    }
    assert!(world.get().calls.is_empty());
}

#[test]
fn leaves_nothing_in_a_frame_that_l1_refuses() {
    for (result, kind) in [
        (0x8000_0003, ErrorKind::OutOfRange),
        (0x8000_0005, ErrorKind::InvalidArgument),
        (0x8000_1003, ErrorKind::InUse),
        (0x8000_4444, ErrorKind::Refused),
    ] {
        let (mut shim, world, memory) = shim();
        world.get().lies.push_back(Lie::Result(result));
        assert_eq!(shim.create_vcpu(new(STATE, AREA)).unwrap_err().kind(), kind);
        assert!(is_zero(&memory, STATE) && world.get().running.is_empty());
    }
}

#[test]
fn does_not_touch_a_frame_that_l1_may_have_kept() {
    let (mut shim, world, memory) = shim();
    world.get().lies.push_back(Lie::Result(0x8000_0006));
    let error = shim.create_vcpu(new(STATE, AREA)).unwrap_err();
    assert!(matches!(error, ShimError::FrameInDoubt { at, .. } if at.as_u64() == STATE), "{error:?}");
    assert_eq!(error.kind(), ErrorKind::Refused);
    assert!(!is_zero(&memory, STATE), "an access would fault if the frame is not the guest's");
    assert!(world.get().running.is_empty());
}

#[test]
fn deletes_again_what_the_host_does_not_start() {
    let (mut shim, world, memory) = shim();
    world.get().start_fails = true;
    assert_eq!(shim.create_vcpu(new(STATE, AREA)).unwrap_err(), ShimError::Port(super::Fault(ErrorKind::HostRefused)));
    assert!(world.get().vcpus.is_empty());
    assert!(is_zero(&memory, STATE));
    world.get().start_fails = false;
    shim.create_vcpu(new(STATE, AREA)).unwrap();
}

#[test]
fn says_so_when_the_frame_stays_with_l1() {
    let (mut shim, world, memory) = shim();
    world.get().start_fails = true;
    world.get().lies.extend([Lie::Regs(0, 0, 0), Lie::Result(0x8000_1003)]);
    let error = shim.create_vcpu(new(STATE, AREA)).unwrap_err();
    assert!(matches!(error, ShimError::LeftBehind { at, .. } if at.as_u64() == STATE));
    assert_eq!(error.kind(), ErrorKind::HostRefused);
    assert!(!is_zero(&memory, STATE), "the frame is L1's and was not touched");
}

#[test]
fn a_lost_answer_leaves_no_vcpu_behind() {
    let (mut shim, world, memory) = shim();
    world.get().lies.push_back(Lie::AnswerLost);
    assert_eq!(shim.create_vcpu(new(STATE, AREA)).unwrap_err().kind(), ErrorKind::HostRefused);
    assert!(world.get().vcpus.is_empty() && world.get().running.is_empty());
    assert!(is_zero(&memory, STATE));
}

#[test]
fn waits_while_l1_is_busy() {
    let (mut shim, world, _) = shim();
    world.get().lies.extend([Lie::Result(0x8000_0007), Lie::NotServed, Lie::Result(0x8000_0007)]);
    shim.create_vcpu(new(STATE, AREA)).unwrap();
    assert_eq!(world.get().calls.len(), 4);
    world.get().habit = Some(Lie::Result(0x8000_0007));
    assert_eq!(shim.destroy_vcpu(VcpuId(9), frame(STATE)).unwrap_err().kind(), ErrorKind::Busy);
}

#[test]
fn deleting_an_unknown_or_running_frame_fails() {
    let (mut shim, world, memory) = shim();
    let error = shim.destroy_vcpu(VcpuId(9), frame(STATE)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    shim.create_vcpu(new(STATE, AREA)).unwrap();
    world.get().lies.push_back(Lie::Result(0x8000_1003));
    assert_eq!(shim.destroy_vcpu(VcpuId(9), frame(STATE)).unwrap_err().kind(), ErrorKind::InUse);
    assert!(!is_zero(&memory, STATE), "the frame is still L1's");
}
