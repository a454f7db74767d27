//! The events of devices and processor, as the honest host serves and refuses them.

use super::super::ghcb::{CPL, RAX, RBX, RCX, RDX, SHARED_BUFFER, SW_SCRATCH, XCR0, XSS};
use super::super::nae::event;
use super::super::{DEVICE_PAGE, LOOPBACK_PORT, PortWrite};
use super::*;
use crate::op::Stop;

const MISSING: (u64, u64) = (2, 4);
const SCRATCH: (u64, u64) = (2, 3);
const INVALID: (u64, u64) = (2, 5);
const NO_EVENT: (u64, u64) = (2, 6);
const DONE: (u64, u64) = (0, 0);
const GP: (u64, u64) = (1, 0x8000_0b0d);

/// Address of the shared buffer.
const BUFFER: u64 = GHCB + SHARED_BUFFER as u64;
/// SW_SCRATCH at its beginning.
const AT_BUFFER: Fields<'static> = &[(SW_SCRATCH, BUFFER)];
/// 8-bit values, 64-bit addresses.
const BYTES: u64 = 1 << 4 | 1 << 9;
const IN: u64 = 1 << 0;
const STRING: u64 = 1 << 2;
const REP: u64 = 1 << 3;

fn port(number: u16, info: u64) -> u64 {
    u64::from(number) << 16 | info
}

#[test]
fn every_input_of_an_event_needs_its_valid_bit() {
    let mut bench = Bench::with_guest(Policy::Honest);
    // Each event with all that it needs; without any one of them it is malformed.
    let rows: [((u64, u64, u64), Fields<'_>); 14] = [
        ((event::DR7_WRITE, 0, 0), &[(RAX, 0x401)]),
        ((event::RDPMC, 0, 0), &[(RCX, 0)]),
        ((event::CPUID, 0, 0), &[(RAX, 7), (RCX, 0)]),
        ((event::CPUID, 0, 0), &[(RAX, 0xd), (RCX, 0), (XCR0, 7)]),
        ((event::CPUID, 0, 0), &[(RAX, 0xd), (RCX, 1), (XCR0, 7), (XSS, 0)]),
        ((event::IOIO, port(0x80, BYTES), 0), &[(RAX, 1)]),
        ((event::IOIO, port(0x80, BYTES | STRING | IN), 1), AT_BUFFER),
        ((event::MSR, 0, 0), &[(RCX, 0x1b)]),
        ((event::MSR, 1, 0), &[(RCX, 0x1b), (RAX, 1), (RDX, 2)]),
        ((event::VMMCALL, 0, 0), &[(RAX, 1), (CPL, 0)]),
        ((event::MONITOR, 0, 0), &[(RAX, 0), (RCX, 0), (RDX, 0)]),
        ((event::MWAIT, 0, 0), &[(RAX, 0), (RCX, 0)]),
        ((event::MMIO_READ, DEVICE_PAGE, 8), AT_BUFFER),
        ((event::MMIO_WRITE, DEVICE_PAGE, 8), AT_BUFFER),
    ];
    for (request, fields) in rows {
        assert_eq!(bench.event(request, fields), DONE, "{request:x?}");
        for left_out in 0..fields.len() {
            let mut rest = fields.to_vec();
            rest.remove(left_out);
            assert_eq!(bench.event(request, &rest), MISSING, "{request:x?} without {left_out}");
        }
    }
}

#[test]
fn events_without_inputs_are_done() {
    let mut bench = Bench::with_guest(Policy::Honest);
    for code in [event::INVD, event::WBINVD, event::NMI_COMPLETE, event::HV_IPI] {
        assert_eq!(bench.event((code, 0, 0), &[]), DONE);
        assert_eq!((bench.field(RAX), bench.field(RBX), bench.field(RCX), bench.field(RDX)), (None, None, None, None));
    }
    for code in [0x77, 0x8000_0014, 0x8000_0016, 0x8000_001a, 0x8000_001b, 0x8000_001c, 0x8000_001d, 0] {
        assert_eq!(bench.event((code, 0, 0), &[]), NO_EVENT, "{code:#x}");
    }
}

#[test]
fn ports_are_logged_and_one_leads_back() {
    let mut bench = Bench::with_guest(Policy::Honest);
    let word = 1 << 5 | 1 << 9;
    assert_eq!(bench.event((event::IOIO, port(LOOPBACK_PORT, word), 0), &[(RAX, 0x1234_5678)]), DONE);
    assert_eq!(bench.event((event::IOIO, port(LOOPBACK_PORT, BYTES | IN), 0), &[]), DONE);
    assert_eq!((bench.field(RAX), bench.field(RBX)), (Some(0x78), None));
    assert_eq!(bench.event((event::IOIO, port(LOOPBACK_PORT, word | IN), 0), &[]), DONE);
    assert_eq!(bench.field(RAX), Some(0xff56));
    let dword = 1 << 6 | 1 << 8;
    assert_eq!(bench.event((event::IOIO, port(0x60, dword | IN), 0), &[]), DONE);
    assert_eq!(bench.field(RAX), Some(0xffff_ffff));
    let write = PortWrite { port: LOOPBACK_PORT, size: 2, value: 0x5678 };
    assert_eq!(bench.machine.host_state().port_writes(), [write]);
}

#[test]
fn strings_go_through_the_scratch_area() {
    let mut bench = Bench::with_guest(Policy::Honest);
    let words = 1 << 5 | 1 << 9 | STRING | REP;
    // In the middle of the buffer.
    bench.write(BOOT, BUFFER + 0x100, &[1, 2, 3, 4, 5, 6, 7]);
    let middle = &[(SW_SCRATCH, BUFFER + 0x100)];
    assert_eq!(bench.event((event::IOIO, port(LOOPBACK_PORT, words), 3), middle), DONE);
    let values: Vec<u32> = bench.machine.host_state().port_writes().iter().map(|write| write.value).collect();
    assert_eq!(values, [0x0201, 0x0403, 0x0605]);
    assert_eq!(bench.event((event::IOIO, port(LOOPBACK_PORT, words | IN), 2), AT_BUFFER), DONE);
    // Two values, and what was there behind them.
    assert_eq!(bench.read(BOOT, BUFFER, 6), [1, 2, 3, 4, 0, 0]);
    assert_eq!(bench.field(RAX), None);
}

#[test]
fn a_string_fits_its_scratch_area() {
    let mut bench = Bench::with_guest(Policy::Honest);
    let bytes = port(LOOPBACK_PORT, BYTES | STRING | REP | IN);
    assert_eq!(bench.event((event::IOIO, bytes, 2032), AT_BUFFER), DONE);
    for (count, scratch) in [(2033, BUFFER), (2032, BUFFER + 1), (1, GHCB + 0xff0), (1, BUFFER - 1), (1, PAGE), (1, 0)]
    {
        assert_eq!(bench.event((event::IOIO, bytes, count), &[(SW_SCRATCH, scratch)]), SCRATCH, "{count} {scratch:#x}");
    }
    assert_eq!(bench.event((event::IOIO, bytes, u64::MAX), AT_BUFFER), SCRATCH);
    for (info, count) in [(0, 0), (BYTES | 1 << 5, 0), (BYTES | REP, 0), (BYTES | STRING, 2), (BYTES | STRING | REP, 0)]
    {
        assert_eq!(bench.event((event::IOIO, info, count), &[(RAX, 0), (SW_SCRATCH, BUFFER)]), INVALID, "{info:#x}");
    }
    assert_eq!(bench.machine.host_state().port_writes(), []);
}

#[test]
fn device_memory_is_a_page_of_registers_or_what_the_host_has_there() {
    let mut bench = Bench::with_guest(Policy::Honest);
    bench.write(BOOT, BUFFER, &[1, 2, 3, 4]);
    assert_eq!(bench.event((event::MMIO_WRITE, DEVICE_PAGE + 0xffc, 4), AT_BUFFER), DONE);
    // Two bytes of the page, then nothing behind it.
    assert_eq!(bench.event((event::MMIO_READ, DEVICE_PAGE + 0xffe, 4), AT_BUFFER), DONE);
    assert_eq!(bench.read(BOOT, BUFFER, 4), [3, 4, 0xff, 0xff]);
    // A shared page is memory.
    bench.write(BOOT, PAGE + 8, &[7, 8]);
    assert_eq!(bench.event((event::MMIO_READ, PAGE + 8, 2), AT_BUFFER), DONE);
    assert_eq!(bench.read(BOOT, BUFFER, 2), [7, 8]);
    assert_eq!(bench.event((event::MMIO_WRITE, PAGE + 16, 2), AT_BUFFER), DONE);
    assert_eq!(bench.read(BOOT, PAGE + 16, 2), [7, 8]);
}

#[test]
fn device_accesses_have_a_length_a_place_and_an_address() {
    let mut bench = Bench::with_guest(Policy::Honest);
    for code in [event::MMIO_READ, event::MMIO_WRITE] {
        for len in [1, 2032] {
            assert_eq!(bench.event((code, DEVICE_PAGE, len), AT_BUFFER), DONE);
        }
        for (address, len) in [
            (DEVICE_PAGE, 0),
            (DEVICE_PAGE, 2033),
            (DEVICE_PAGE, u64::MAX),
            (1 << 52, 1),
            ((1 << 52) - 1, 2),
            (u64::MAX, 8),
            (1 << 51 | PAGE, u64::MAX),
            // Pages of the guest, also at the end of an access.
            (PRIVATE_PAGE, 8),
            (PRIVATE_PAGE - 1, 2),
        ] {
            assert_eq!(bench.event((code, address, len), AT_BUFFER), INVALID, "{address:#x} {len:#x}");
        }
        for scratch in [BUFFER + 1, BUFFER - 8, PAGE] {
            assert_eq!(bench.event((code, DEVICE_PAGE, 2032), &[(SW_SCRATCH, scratch)]), SCRATCH);
        }
    }
}

#[test]
fn a_few_msrs_hold_what_was_written() {
    let mut bench = Bench::with_guest(Policy::Honest);
    let read = |bench: &mut Bench, number| {
        let status = bench.event((event::MSR, 0, 0), &[(RCX, number)]);
        (status, bench.field(RAX), bench.field(RDX))
    };
    assert_eq!(read(&mut bench, 0x1b), (DONE, Some(0xfee0_0d00), Some(0)));
    let value = &[(RCX, 0x277), (RAX, 0xffff_ffff_0000_0001), (RDX, 2)];
    assert_eq!(bench.event((event::MSR, 1, 0), value), DONE);
    assert_eq!(read(&mut bench, 0x277), (DONE, Some(1), Some(2)));
    // Only one direction, or none.
    for (info, number) in [(0, 0x830), (1, 0x10), (0, 0x1234), (1, 0x1234)] {
        assert_eq!(bench.event((event::MSR, info, 0), &[(RCX, number), (RAX, 0), (RDX, 0)]), GP);
    }
    assert_eq!(bench.event((event::MSR, 2, 0), &[(RCX, 0x1b)]), INVALID);
    assert_eq!(bench.event((event::MSR, u64::MAX, 0), &[(RCX, 0x1b)]), INVALID);
}

#[test]
fn timer_and_ipi_interrupt_the_level_that_asked() {
    let mut bench = Bench::with_guest_and_vcpus(Policy::Honest, 2);
    let write = |bench: &mut Bench, number, value: u64| {
        let fields = &[(RCX, number), (RAX, value & 0xffff_ffff), (RDX, value >> 32)];
        assert_eq!(bench.event((event::MSR, 1, 0), fields), DONE, "{number:#x}");
    };
    bench.machine.set_clock(1000);
    // Off: an IPI to oneself is a wake-up, as ever.
    write(&mut bench, 0x830, 0x41);
    assert_eq!((bench.machine.pending_interrupt(BOOT), bench.machine.take_posted()), (None, 0));
    // On, in deadline mode, with vector 0x40.
    write(&mut bench, 0x80f, 0x1ff);
    write(&mut bench, 0x832, 2 << 17 | 0x40);
    write(&mut bench, 0x6e0, 5000);
    bench.machine.set_clock(4999);
    assert_eq!((bench.machine.pending_interrupt(BOOT), bench.machine.take_posted()), (None, 0));
    bench.machine.set_clock(5000);
    assert_eq!((bench.machine.pending_interrupt(BOOT), bench.machine.take_posted()), (Some(0x40), 1));
    assert_eq!((bench.machine.take_interrupt(BOOT), bench.machine.take_interrupt(BOOT)), (Some(0x40), None));
    bench.machine.give_interrupt_back(BOOT, 0x40);
    assert_eq!(bench.machine.take_interrupt(BOOT), Some(0x40));
    write(&mut bench, 0x80b, 0);
    write(&mut bench, 0x830, 0x41);
    assert_eq!(bench.machine.take_posted(), 1);
    assert_eq!(bench.machine.take_interrupt(BOOT), Some(0x41));
    // Another level of the same vCPU has a controller of its own, and nobody else's time is touched.
    assert_eq!(bench.event((event::MSR, 0, 0), &[(RCX, 0x10)]), DONE);
    assert_eq!(bench.field(RAX), Some(5000));
    assert_eq!(bench.event((event::MSR, 0, 0), &[(RCX, 0x802)]), DONE);
    assert_eq!(bench.field(RAX), Some(0));
}

#[test]
fn dr7_and_tsc_aux_are_kept_for_each_vcpu() {
    let mut bench = Bench::with_guest_and_vcpus(Policy::Honest, 2);
    assert_eq!(bench.event((event::DR7_READ, 0, 0), &[]), DONE);
    assert_eq!(bench.field(RAX), Some(0x400));
    assert_eq!(bench.event((event::DR7_WRITE, 0, 0), &[(RAX, 0x155)]), DONE);
    assert_eq!(bench.event((event::DR7_READ, 0, 0), &[]), DONE);
    assert_eq!((bench.field(RAX), bench.field(RDX)), (Some(0x155), None));
    assert_eq!(bench.event((event::MSR, 1, 0), &[(RCX, 0xc000_0103), (RAX, 9), (RDX, 8)]), DONE);
    assert_eq!(bench.event((event::RDTSCP, 0, 0), &[]), DONE);
    assert_eq!(bench.field(RCX), Some(9));
    assert_eq!(bench.create(Vcpu(1), 0, 1, OTHER_VMSA_0), (0, 0));
    bench.enter(Vcpu(1));
    bench.send_msr(Vcpu(1), GHCB_2 | 0x012);
    bench.enter(Vcpu(1));
    bench.fill(Vcpu(1), GHCB_2, (event::DR7_READ, 0, 0), &[]);
    bench.vmgexit(Vcpu(1));
    bench.enter(Vcpu(1));
    assert_eq!(bench.read_u64(Vcpu(1), GHCB_2 + RAX as u64), 0x400);
}

#[test]
fn clocks_go_on_and_counters_that_do_not_exist_are_refused() {
    let mut bench = Bench::with_guest(Policy::Honest);
    let mut last = 0;
    for (code, fields) in
        [(event::RDTSC, &[][..]), (event::RDTSCP, &[]), (event::RDPMC, &[(RCX, 5)]), (event::RDTSC, &[])]
    {
        assert_eq!(bench.event((code, 0, 0), fields), DONE);
        let now = bench.field(RDX).unwrap() << 32 | bench.field(RAX).unwrap();
        assert!(now > last);
        last = now;
    }
    assert_eq!(bench.event((event::RDPMC, 0, 0), &[(RCX, 6)]), GP);
}

#[test]
fn a_call_that_nobody_knows_says_so() {
    let mut bench = Bench::with_guest(Policy::Honest);
    assert_eq!(bench.event((event::VMMCALL, 0, 0), &[(RAX, 1), (CPL, 0)]), DONE);
    assert_eq!(bench.field(RAX), Some(-1000_i64 as u64));
    // `fill` writes from the byte of CPL on.
    assert_eq!(bench.event((event::VMMCALL, 0, 0), &[(RAX, 1), (CPL, 3)]), DONE);
    assert_eq!(bench.field(RAX), Some(u64::MAX));
}

#[test]
fn keeps_the_jump_table_of_whoever_asks() {
    let mut bench = Bench::with_guest(Policy::Honest);
    assert_eq!(bench.event((event::AP_JUMP_TABLE, 1, 0), &[]), DONE);
    assert_eq!(bench.event((event::AP_JUMP_TABLE, 0, 0x9000), &[]), DONE);
    assert_eq!(bench.event((event::AP_JUMP_TABLE, 1, 0), &[]), (0, 0x9000));
    assert_eq!(bench.event((event::AP_JUMP_TABLE, 1, 5), &[]), INVALID);
    assert_eq!(bench.event((event::AP_JUMP_TABLE, 2, 0), &[]), INVALID);
}

#[test]
fn an_ipi_by_event_ends_a_reset_hold() {
    let mut bench = Bench::with_guest_and_vcpus(Policy::Honest, 2);
    assert_eq!(bench.create(Vcpu(1), 0, 1, OTHER_VMSA_0), (0, 0));
    bench.enter(Vcpu(1));
    bench.send_msr(Vcpu(1), 0x006);
    assert_eq!(bench.machine.host(Vcpu(1)), HostStep::Parked);
    assert_eq!(bench.event((event::HV_IPI, 1 << 32 | 0x600, 0), &[]), DONE);
    bench.enter(Vcpu(1));
    assert_eq!(bench.ghcb_msr(Vcpu(1)), 0x1007);
}

#[test]
fn what_the_guest_cannot_handle_is_its_end() {
    let mut bench = Bench::with_guest(Policy::Honest);
    bench.fill(BOOT, GHCB, (event::UNSUPPORTED_EVENT, 0x404, 0), &[]);
    bench.vmgexit(BOOT);
    assert_eq!(bench.machine.host(BOOT), HostStep::Stopped(Stop::Refused));
}

#[test]
fn a_registration_is_taken_back_where_the_feature_says_so() {
    let mut bench = Bench::with_guest(Policy::LieFeatures(0x133));
    assert_eq!(bench.msr(GHCB_2 | 0x018), !0xfff | 0x019);
    assert_eq!(bench.machine.host_state().ghcb(BOOT, 0), Some(GHCB));
    assert_eq!(bench.msr(GHCB | 0x018), GHCB | 0x019);
    assert_eq!(bench.machine.host_state().ghcb(BOOT, 0), None);
    assert_eq!(bench.event((event::WBINVD, 0, 0), &[]), (2, 1));
    let mut bench = Bench::with_guest(Policy::Honest);
    bench.send_msr(BOOT, GHCB | 0x018);
    assert_eq!(bench.machine.host(BOOT), HostStep::Stopped(Stop::Refused));
}

#[test]
fn wants_the_ghcb_somewhere() {
    assert_eq!(Bench::new(Policy::Honest).msr(0x010), !0xfff | 0x011);
    assert_eq!(Bench::new(Policy::PreferGhcb(0x204)).msr(0x010), 0x20_4011);
}

#[test]
fn lies_about_strings_lists_and_single_fields() {
    let mut bench = Bench::with_guest(Policy::StringCount(u64::MAX));
    let bytes = port(0x60, BYTES | STRING | IN);
    assert_eq!(bench.event((event::IOIO, bytes, 1), AT_BUFFER), (0, u64::MAX));
    assert_eq!(bench.read(BOOT, GHCB + 0xff0 - 8, 8), [0xff; 8]);
    assert_eq!(bench.read(BOOT, GHCB + 0xff0, 8), [0; 8]);
    let mut bench = Bench::with_guest(Policy::LieListCount(u32::MAX));
    assert_eq!(bench.event((event::APIC_ID_LIST, PAGE, 0), &[(RAX, 1)]), DONE);
    assert_eq!(bench.read(BOOT, PAGE, 8), [0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0]);
    let mut bench = Bench::with_guest(Policy::DemandListPages(77));
    assert_eq!(bench.event((event::APIC_ID_LIST, PAGE, 0), &[(RAX, 1)]), DONE);
    assert_eq!((bench.field(RAX), bench.read(BOOT, PAGE, 4)), (Some(77), alloc::vec![0; 4]));
    let mut bench = Bench::with_guest(Policy::ClearValidBit(63));
    assert_eq!(bench.event((event::RDTSC, 0, 0), &[]), DONE);
    assert!(bench.field(RAX).is_none() && bench.field(RDX).is_some());
    // A bit that is none does nothing.
    let mut bench = Bench::with_guest(Policy::ClearValidBit(200));
    assert_eq!(bench.event((event::RDTSC, 0, 0), &[]), DONE);
    assert!(bench.field(RAX).is_some());
}
