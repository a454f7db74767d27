//! Registers and events of a stopped level.

use coco_part_api::{Error as _, ErrorKind, Event, GuestMemory, GuestState, Segment};

use super::*;
use crate::abi::fields::SegmentRegister;
use crate::abi::guest_state::EnterGuestState;
use crate::abi::status::Status;

/// Reads of a whole context that find `context`.
fn reads(script: &Script, context: &Context) {
    use SegmentRegister::{Cs, Ds, Es, Fs, Gs, Ldtr, Ss, Tr};
    for (field, value) in [
        (VmcsField::CR0, context.cr0 & 0x8005_001f | 0x20),
        (VmcsField::CR0_SHADOW, context.cr0),
        (VmcsField::CR4, context.cr4 | 0x2040),
        (VmcsField::CR4_SHADOW, context.cr4 | 0x40),
        (VmcsField::CR3, context.cr3),
        (VmcsField::EFER, context.efer),
        (VmcsField::PAT, context.pat),
    ] {
        read(script, ONE, field, value);
    }
    let segments: [(SegmentRegister, Segment); 8] = [
        (Cs, context.cs),
        (Ss, context.ss),
        (Ds, context.ds),
        (Es, context.es),
        (Fs, context.fs),
        (Gs, context.gs),
        (Ldtr, context.ldtr),
        (Tr, context.tr),
    ];
    for (register, segment) in segments {
        let attributes = u64::from(segment.attributes);
        read(script, ONE, register.selector(), segment.selector.into());
        read(script, ONE, register.access_rights(), attributes & 0xff | (attributes & 0xf00) << 4);
        read(script, ONE, register.limit(), segment.limit.into());
        read(script, ONE, register.base(), segment.base);
    }
    read(script, ONE, VmcsField::GDTR_BASE, context.gdtr.base);
    read(script, ONE, VmcsField::GDTR_LIMIT, context.gdtr.limit.into());
    read(script, ONE, VmcsField::IDTR_BASE, context.idtr.base);
    read(script, ONE, VmcsField::IDTR_LIMIT, context.idtr.limit.into());
}

/// What `kernel()` reads back as: MCE is the module's and always seen set.
fn seen() -> Context {
    Context { cr4: kernel().cr4 | 0x40, ..kernel() }
}

#[test]
fn a_context_reads_back_as_the_level_sees_it() {
    let (mut l1, script, _ram) = ready();
    reads(&script, &kernel());
    assert_eq!(l1.context(ONE), Ok(seen()));
}

#[test]
fn setting_a_context_writes_what_differs() {
    let (mut l1, script, ram) = ready();
    let mut to = Context { cr3: 0x6000, rip: 0x20_0000, ..seen() };
    to.gpr[0] = 9;
    reads(&script, &kernel());
    write(&script, ONE, VmcsField::CR3, 0x6000, u64::MAX);
    l1.set_context(ONE, &to).unwrap();
    let state: EnterGuestState = ram.read_value(PhysAddr::new(REGISTERS)).unwrap();
    assert_eq!((state.rip, state.gpr), (0x20_0000, to.gpr));
}

#[test]
fn a_context_that_cannot_be_costs_no_call() {
    let (mut l1, _script, ram) = ready();
    let before = ram.snapshot();
    let error = l1.set_context(ONE, &Context { cr4: 0, ..kernel() }).unwrap_err();
    assert_eq!((error.kind(), ram.snapshot()), (ErrorKind::BadState, before));
}

#[test]
fn a_value_that_the_module_refuses_puts_everything_back() {
    let (mut l1, script, ram) = ready();
    let before = ram.snapshot();
    let to = Context { cr3: 0x6000, pat: 0, ..seen() };
    reads(&script, &kernel());
    write(&script, ONE, VmcsField::CR3, 0x6000, u64::MAX);
    let takes = Regs { rdx: FieldId::vmcs(ONE, VmcsField::PAT).0, r8: 0, r9: u64::MAX, ..Regs::default() };
    let refused = Status::METADATA_FIELD_VALUE_NOT_VALID;
    script.call(Leaf::VP_WR, takes, status(refused.0));
    for (field, value, mask) in vmcs::fields(&seen()) {
        write(&script, ONE, field, value, mask);
    }
    let error = l1.set_context(ONE, &to).unwrap_err();
    assert_eq!(error, Error::FieldRefused { field: VmcsField::PAT, value: 0, status: refused });
    assert_eq!((error.kind(), ram.snapshot()), (ErrorKind::BadState, before));
    assert!(l1.slot.is_installed(ONE));
}

#[test]
fn a_level_whose_state_cannot_be_put_back_does_not_run() {
    let (mut l1, script, _ram) = ready();
    reads(&script, &kernel());
    let takes = Regs { rdx: FieldId::vmcs(ONE, VmcsField::CR3).0, r8: 0x6000, r9: u64::MAX, ..Regs::default() };
    script.call(Leaf::VP_WR, takes, status(Status::METADATA_FIELD_NOT_WRITABLE.0));
    let takes = Regs { rdx: FieldId::vmcs(ONE, VmcsField::CR0_SHADOW).0, r8: kernel().cr0, ..takes };
    script.call(Leaf::VP_WR, takes, status(Status::METADATA_FIELD_NOT_WRITABLE.0));
    assert!(l1.set_context(ONE, &Context { cr3: 0x6000, ..seen() }).is_err());
    assert_eq!(l1.context(ONE), Err(Error::NoVcpu { level: ONE }));
}

#[test]
fn a_level_without_a_vcpu_has_no_registers_and_takes_no_event() {
    let (mut l1, _script, _ram) = l1();
    assert_eq!(l1.context(ONE).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(l1.set_context(ONE, &kernel()).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(l1.inject(ONE, Event::Nmi).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(l1.inject(GuestLevel::THREE, Event::Nmi).unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn an_interrupt_goes_into_the_virtual_apic_and_raises_rvi() {
    let (mut l1, _script, ram) = ready();
    for vector in [0x51, 0x30, 0xff, 0x51] {
        l1.inject(ONE, Event::Interrupt(vector)).unwrap();
    }
    let irr = |index: u64| ram.read_value::<u32>(PhysAddr::new(VAPIC + 0x200 + 0x10 * index)).unwrap();
    assert_eq!((irr(1), irr(2), irr(7)), (1 << 16, 1 << 17, 1 << 31));
    let state: EnterGuestState = ram.read_value(PhysAddr::new(REGISTERS)).unwrap();
    assert_eq!((state.rvi, state.svi), (0xff, 0));
    assert_eq!(l1.inject(ONE, Event::Interrupt(31)), Err(Error::BadVector { vector: 31 }));
}

#[test]
fn exceptions_are_delivered_by_the_next_entry() {
    let (mut l1, script, _ram) = ready();
    read(&script, ONE, VmcsField::ENTRY_INTERRUPTION, 0);
    write(&script, ONE, VmcsField::ENTRY_ERROR_CODE, 0x18, u64::MAX);
    write(&script, ONE, VmcsField::ENTRY_INTERRUPTION, 0x8000_0b0d, u64::MAX);
    l1.inject(ONE, Event::GeneralProtection(0x18)).unwrap();
    read(&script, ONE, VmcsField::ENTRY_INTERRUPTION, 0);
    write(&script, ONE, VmcsField::ENTRY_INTERRUPTION, 0x8000_0306, u64::MAX);
    l1.inject(ONE, Event::InvalidOpcode).unwrap();
}

#[test]
fn an_older_event_is_not_overwritten() {
    let (mut l1, script, _ram) = ready();
    read(&script, ONE, VmcsField::ENTRY_INTERRUPTION, 0x8000_0b0d);
    assert_eq!(l1.inject(ONE, Event::InvalidOpcode), Err(Error::EventPending { level: ONE }));
}

#[test]
fn an_nmi_waits_while_the_level_cannot_take_it() {
    let (mut l1, script, _ram) = ready();
    for blocked in [1, 2, 8] {
        read(&script, ONE, VmcsField::INTERRUPTIBILITY, blocked);
        assert_eq!(l1.inject(ONE, Event::Nmi).unwrap_err().kind(), ErrorKind::Busy);
    }
    read(&script, ONE, VmcsField::INTERRUPTIBILITY, 0);
    read(&script, ONE, VmcsField::ENTRY_INTERRUPTION, 0);
    write(&script, ONE, VmcsField::ENTRY_INTERRUPTION, 0x8000_0202, u64::MAX);
    l1.inject(ONE, Event::Nmi).unwrap();
}
