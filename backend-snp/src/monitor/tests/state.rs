use coco_part_api::{CallRegs, Error, ErrorKind, Event, Exit, GuestState};

use super::mock::{Did, VmsaStore};
use super::*;
use crate::SnpError;

#[test]
fn registers_are_read_and_replaced_while_the_level_stands_still() {
    let bench = Bench::new();
    let mut l1 = bench.with_guest();
    let mut context = l1.context(GuestLevel::ONE).unwrap();
    assert_eq!((context.rip, context.cr3), (0x1234, 0x5000));
    context.rip += 2;
    let before = bench.machine.page(VMSA);
    l1.set_context(GuestLevel::ONE, &context).unwrap();
    assert_eq!(l1.context(GuestLevel::ONE).unwrap(), context);
    let after = bench.machine.page(VMSA);
    let changed: std::vec::Vec<usize> = (0..4096).filter(|at| before[*at] != after[*at]).collect();
    assert_eq!(changed, [0x178]);
    assert!(matches!(l1.run(GuestLevel::ONE), Ok(Exit::Spurious)));
    bench.machine.with(|world| assert!(world.vmrun(VMSA), "the gate is open again"));
}

#[test]
fn a_caller_that_waits_can_be_looked_at_and_stays_stopped() {
    let bench = Bench::new();
    let mut l1 = bench.with_guest();
    bench.machine.on_run(|machine| machine.with(|world| assert!(world.calls(VMSA, CALL_AREA, 1, 0x42))));
    let Ok(Exit::Call(call)) = l1.run(GuestLevel::ONE) else { panic!("no call") };
    assert_eq!(l1.context(GuestLevel::ONE).unwrap().gpr[0], 0x42);
    bench.machine.with(|world| assert!(!world.vmrun(VMSA)));
    l1.answer(call, CallRegs::default()).unwrap();
}

#[test]
fn a_level_that_runs_is_in_use() {
    let bench = Bench::new();
    let mut l1 = bench.with_guest();
    bench.machine.with(|world| {
        world.store = VmsaStore::Plain;
        assert!(world.vmrun(VMSA));
    });
    assert_eq!(l1.context(GuestLevel::ONE).unwrap_err().kind(), ErrorKind::InUse);
    assert_eq!(l1.context(GuestLevel::TWO).unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn nothing_is_injected() {
    let bench = Bench::new();
    let mut l1 = bench.with_guest();
    let error = l1.inject(GuestLevel::ONE, Event::Nmi).unwrap_err();
    assert_eq!(error, SnpError::Unsupported { what: "alternate injection" });
    assert_eq!(bench.machine.take_log(), [] as [Did; 0]);
}
