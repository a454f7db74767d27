//! What the monitor does on its own.

use coco_part_api::{BootPage, ErrorKind, NewVcpu, Origin, Rights, Stopped, VcpuId};

use super::mock::{At, FEATURES_AT, MockError, SECRETS_AT};
use super::*;
use crate::SetupError;
use crate::ledger::Refusal;

#[test]
fn memory_is_handed_over_as_far_as_it_goes() {
    let fixture = Fixture::bare();
    assert!(fixture.all_are(RAM, RAM_FRAMES, OWN));
    assert_eq!(fixture.world.log(), [Op::ValidateFor(range(RAM, RAM_FRAMES), Origin::Monitor)]);
    fixture.world.fail(At::ValidateFor, 0, 700, ErrorKind::HostRefused);
    let stopped = Stopped { done: 700, cause: MockError(ErrorKind::HostRefused) };
    let mut monitor = fixture.monitor(0);
    assert_eq!(monitor.hand_over(range(FRESH, 1024)), Err(SetupError::Backend(stopped)));
    assert!(fixture.all_are(FRESH, 700, OWN) && fixture.all_are(FRESH + (700 << 12), 324, State::NotPrivate));
    assert_eq!(monitor.hand_over(range(FRESH + (700 << 12), 324)), Ok(()));
    let again = monitor.hand_over(range(FRESH, 1));
    assert_eq!(again, Err(SetupError::Ledger(Refusal::Found { at: frame(FRESH), state: OWN })));
}

#[test]
fn a_block_that_cannot_be_put_back_is_quarantined() {
    let fixture = Fixture::bare();
    fixture.world.fail(At::ValidateFor, 0, 512, ErrorKind::Quarantined);
    let stopped = Stopped { done: 512, cause: MockError(ErrorKind::Quarantined) };
    let handed = fixture.monitor(0).hand_over(range(FRESH, 1024));
    assert_eq!(handed, Err(SetupError::Backend(stopped)));
    assert!(fixture.all_are(FRESH, 512, OWN) && fixture.all_are(FRESH + (512 << 12), 512, State::Quarantined));
}

#[test]
fn only_pages_of_the_monitor_are_published() {
    let fixture = Fixture::bare();
    fixture.world.poke(L1 + 0x5000, b"image");
    let mut monitor = fixture.monitor(0);
    assert_eq!(monitor.publish(range(L1 + 0x5000, 2)), Ok(()));
    assert_eq!(
        (fixture.world.peek(L1 + 0x5000, 5), fixture.world.rights(L1 + 0x6000)),
        (b"image".to_vec(), Rights::RAM)
    );
    for at in [RAM, FRESH, L1 + 0x5000] {
        assert!(matches!(monitor.publish(range(at, 1)), Err(SetupError::Ledger(_))));
    }
}

#[test]
fn the_first_vcpu_gets_its_boot_pages_call_area_and_state() {
    let fixture = Fixture::bare();
    fixture.world.clear_log();
    fixture.monitor(0).start_guest(&launch(&CONTEXT)).unwrap();
    assert_eq!(
        fixture.world.instructions(),
        [
            Op::Fill(BootPage::Secrets),
            Op::Publish(range(SECRETS_AT, 1)),
            Op::Fill(BootPage::Features),
            Op::Publish(range(FEATURES_AT, 1)),
            Op::Redeem { is_empty: true },
            Op::Admit(BOOT_STATE),
            Op::Install(BOOT_STATE),
        ]
    );
    assert_eq!(fixture.state(SECRETS_AT), OWN);
    assert_eq!((fixture.state(BOOT_STATE), fixture.state(BOOT_AREA)), (State::VcpuState, State::CallArea));
    assert_eq!(fixture.world.peek(BOOT_AREA, 2), [0, 0]);
    let record = fixture.storage.current(VcpuId(0)).unwrap();
    assert!(record.is_boot && record.state == frame(BOOT_STATE));
}

#[test]
fn a_call_area_of_the_monitor_is_zeroed_and_published() {
    let fixture = Fixture::bare();
    fixture.world.poke(L1 + 0x7000, &[0xcc; 4096]);
    let launch = GuestLaunch { call_area: frame(L1 + 0x7000), ..launch(&CONTEXT) };
    fixture.monitor(0).start_guest(&launch).unwrap();
    assert_eq!(fixture.world.peek(L1 + 0x7000, 4096), [0; 4096]);
    assert_eq!((fixture.state(L1 + 0x7000), fixture.world.rights(L1 + 0x7000)), (State::CallArea, Rights::RAM));
}

#[test]
fn a_launch_that_fails_leaves_no_vcpu() {
    for at in [At::Fill, At::Publish, At::Admit, At::Install] {
        let fixture = Fixture::bare();
        fixture.world.fail(at, 0, 0, ErrorKind::Refused);
        let error = fixture.monitor(0).start_guest(&launch(&CONTEXT)).unwrap_err();
        assert_eq!(error, SetupError::Backend(Stopped::at_start(MockError(ErrorKind::Refused))));
        assert_eq!((fixture.state(BOOT_STATE), fixture.storage.registered()), (State::Monitor, 0));
        assert!(!fixture.world.is_state(BOOT_STATE));
        assert!(!fixture.ledger().survey(range(0, FRAMES)).has(State::Changing));
    }
}

#[test]
fn an_admitted_frame_that_cannot_be_undone_is_quarantined() {
    let fixture = Fixture::bare();
    fixture.world.fail(At::Install, 0, 0, ErrorKind::Refused);
    fixture.world.fail(At::Retire, 0, 0, ErrorKind::InUse);
    assert!(fixture.monitor(0).start_guest(&launch(&CONTEXT)).is_err());
    assert_eq!((fixture.state(BOOT_STATE), fixture.storage.registered()), (State::Quarantined, 0));
}

#[test]
fn a_state_frame_that_the_backend_gave_up_is_quarantined() {
    let fixture = Fixture::bare();
    fixture.world.fail(At::Admit, 0, 0, ErrorKind::Quarantined);
    assert!(fixture.monitor(0).start_guest(&launch(&CONTEXT)).is_err());
    assert_eq!((fixture.state(BOOT_STATE), fixture.storage.registered()), (State::Quarantined, 0));

    let state = L1 + 0x9000;
    let new = NewVcpu { id: VcpuId(1), context: &CONTEXT, state: frame(state), call_area: frame(state) };
    fixture.world.fail(At::CreateVcpu, 0, 0, ErrorKind::Quarantined);
    let stopped = Stopped::at_start(MockError(ErrorKind::Quarantined));
    assert_eq!(fixture.monitor(0).start_secondary(new), Err(SetupError::Backend(stopped)));
    assert_eq!(fixture.state(state), State::Quarantined);
    assert!(matches!(fixture.monitor(0).start_secondary(new), Err(SetupError::Ledger(_))));
}

#[test]
fn refuses_a_launch_from_pages_that_are_not_the_monitors() {
    let fixture = Fixture::bare();
    let base = launch(&CONTEXT);
    let bad = [
        GuestLaunch { state: frame(RAM + 0x5000), ..base },
        GuestLaunch { state: frame(FRESH), ..base },
        GuestLaunch { call_area: frame(FRESH), ..base },
        GuestLaunch { call_area: frame(BOOT_STATE), ..base },
    ];
    for launch in bad {
        // Boot pages are handed over once; what comes behind them is what is refused here.
        let fixture = Fixture::bare();
        assert!(matches!(fixture.monitor(0).start_guest(&launch), Err(SetupError::Ledger(_))));
        assert_eq!(fixture.storage.registered(), 0);
    }
    let missing = GuestLaunch { pages: &[], ..base };
    assert_eq!(fixture.monitor(0).start_guest(&missing), Err(SetupError::Missing(BootPage::Secrets)));
}

#[test]
fn a_vcpu_of_the_monitor_keeps_its_state_frame_out_of_everybodys_reach() {
    let fixture = Fixture::new();
    let state = L1 + 0x9000;
    let new = |at| NewVcpu { id: VcpuId(1), context: &CONTEXT, state: frame(at), call_area: frame(at) };
    let mut monitor = fixture.monitor(0);
    fixture.world.fail(At::CreateVcpu, 0, 0, ErrorKind::HostRefused);
    assert!(monitor.start_secondary(new(state)).is_err());
    assert_eq!(fixture.state(state), State::Monitor);
    assert_eq!(monitor.start_secondary(new(state)), Ok(()));
    assert_eq!(fixture.state(state), State::VcpuState);
    assert!(matches!(monitor.start_secondary(new(state)), Err(SetupError::Ledger(_))));
    assert!(matches!(monitor.start_secondary(new(RAM + 0x5000)), Err(SetupError::Ledger(_))));
    assert_eq!(fixture.refuses(svsm::DELETE_VCPU, state, 0, 0), CallResult::INVALID_PARAMETER);
}
