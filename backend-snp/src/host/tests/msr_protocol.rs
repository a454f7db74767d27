use core::cell::RefCell;
use core::panic::AssertUnwindSafe;
use std::rc::Rc;
use std::vec::Vec;

use coco_part_api::{Error, ErrorKind, HostState, Stopped};

use crate::abi::nae::HvFeatures;
use crate::abi::vmpl::Vmpl;
use crate::error::SnpError;
use crate::host::{
    GhcbPage, Host, HostChannel, MsrProtocol, hv_features, negotiate, preferred_ghcb, reason, register_ghcb,
    unregister_ghcb,
};
use crate::instr::CallFrame;
use crate::testing::{Memory, MockPort, frame, no_host, number, range, rows};

/// A host that answers everything with one value.
fn says(value: u64) -> MockPort {
    MockPort::new(move |exit| *exit.msr = value)
}

#[test]
fn negotiates_version_2_and_nothing_else() {
    let cases: [(u64, Result<(), SnpError>); 8] = [
        (0x0002_0001_3300_0001, Ok(())),
        (0x0002_0002_3300_0001, Ok(())),
        (0x0009_0000_3300_0001, Ok(())),
        (0x0001_0001_3300_0001, Err(SnpError::VersionRange { min: 1, max: 1 })),
        (0x0009_0003_3300_0001, Err(SnpError::VersionRange { min: 3, max: 9 })),
        (0x0001_0003_3300_0001, Err(SnpError::VersionRange { min: 3, max: 1 })),
        (0x0002_0001_3300_1001, Err(SnpError::UnexpectedResponse { sent: 2, got: 0x0002_0001_3300_1001 })),
        (0x0002_0001_3300_0005, Err(SnpError::UnexpectedResponse { sent: 2, got: 0x0002_0001_3300_0005 })),
    ];
    for (answer, expected) in cases {
        let mut port = says(answer);
        assert_eq!(negotiate(&mut port).map(drop), expected, "{answer:#x}");
        assert_eq!((port.exits.as_slice(), port.msr), (&[0x002][..], 0xabc_0000));
    }
    assert_eq!(SnpError::VersionRange { min: 3, max: 9 }.kind(), ErrorKind::Unsupported);
    assert_eq!(SnpError::VersionRange { min: 3, max: 1 }.kind(), ErrorKind::HostMisbehaved);
}

#[test]
fn demands_the_features_that_are_needed() {
    let needed = HvFeatures::SEV_SNP | HvFeatures::MULTIPLE_VMPLS;
    assert_eq!(hv_features(&mut says(0x2_3081), needed), Ok(HvFeatures::from_bits_retain(0x23)));
    assert_eq!(hv_features(&mut says(0x3081), needed), Err(SnpError::MissingFeatures { missing: 0x20 }));
    // Several levels need SNP and AP creation.
    assert_eq!(hv_features(&mut says(0x2_0081), needed), Err(SnpError::MissingFeatures { missing: 0x3 }));
    let wrong = hv_features(&mut says(0x2_3080), needed);
    assert_eq!(wrong, Err(SnpError::UnexpectedResponse { sent: 0x080, got: 0x2_3080 }));
}

#[test]
fn a_feature_without_what_it_needs_counts_as_absent() {
    // Rows of the table: `needs 0`, `needs 0 and 1`.
    for row in rows(include_str!("../../../facts/ghcb_nae.csv")).iter().filter(|row| row[0] == "hv_feature") {
        let bit = number(&row[1]).unwrap();
        let needs: Vec<u64> = match row[3].split_once("needs ") {
            Some((_, list)) => list.split([',', ' ']).filter_map(number).collect(),
            None => Vec::new(),
        };
        let feature = HvFeatures::from_bits_retain(1 << bit);
        let all = needs.iter().fold(feature, |all, need| all | HvFeatures::from_bits_retain(1 << need));
        let offered = |bits: HvFeatures| says(bits.bits() << 12 | 0x081);
        assert_eq!(hv_features(&mut offered(all), feature), Ok(all), "{row:?}");
        for need in &needs {
            let lacking = all.difference(HvFeatures::from_bits_retain(1 << need));
            let refused = hv_features(&mut offered(lacking), feature);
            assert!(
                matches!(refused, Err(SnpError::MissingFeatures { missing }) if missing & 1 << need != 0),
                "{row:?}"
            );
            let counted = hv_features(&mut offered(lacking), HvFeatures::empty()).unwrap();
            assert!(!counted.contains(feature), "{row:?} without {need}");
        }
    }
    let all = HvFeatures::from_bits_retain(u64::MAX >> 12);
    assert_eq!(hv_features(&mut says(u64::MAX << 12 | 0x081), HvFeatures::SEV_SNP), Ok(all));
}

#[test]
fn asks_for_cpuid_register_by_register() {
    for leaf in [0, 1, 7, 0xd, 0x4000_0000, 0x8000_0000, 0x8000_001f, u32::MAX] {
        let mut port = MockPort::new(|exit| {
            let register = *exit.msr >> 30 & 3;
            // Another value per register.
            let leaf = *exit.msr >> 32;
            *exit.msr = (leaf ^ (0x1111 * (register + 1))) << 32 | register << 30 | 0x005;
        });
        let got = MsrProtocol.cpuid(&mut port, leaf).unwrap();
        let want = [0x1111, 0x2222, 0x3333, 0x4444].map(|mark| leaf ^ mark);
        assert_eq!([got.eax, got.ebx, got.ecx, got.edx], want);
        let sent = u64::from(leaf) << 32 | 0x004;
        assert_eq!(port.exits, [0, 1, 2, 3].map(|register| register << 30 | sent));
        assert_eq!(port.msr, 0xabc_0000);
    }
    for (register, answer) in [(0, 0x4000_0005), (1, 0x0000_0005), (2, 0x8000_1005), (3, 0xc000_0004)] {
        let mut port = MockPort::new(move |exit| {
            let asked = *exit.msr >> 30 & 3;
            *exit.msr = if asked == register { answer } else { asked << 30 | 0x005 };
        });
        let sent = register << 30 | 0x004;
        assert_eq!(MsrProtocol.cpuid(&mut port, 0), Err(SnpError::UnexpectedResponse { sent, got: answer }));
    }
}

#[test]
fn a_reset_hold_ends_with_a_startup_interrupt_or_without_reason() {
    for (answer, expected) in [
        (0x1007, Ok(true)),
        (!0xfff | 0x007, Ok(true)),
        (0x007, Ok(false)),
        (0x006, Err(SnpError::UnexpectedResponse { sent: 0x006, got: 0x006 })),
        (0x1005, Err(SnpError::UnexpectedResponse { sent: 0x006, got: 0x1005 })),
    ] {
        let mut port = says(answer);
        assert_eq!(MsrProtocol.ap_reset_hold(&mut port), expected);
        assert_eq!((port.exits.as_slice(), port.msr), (&[0x006][..], 0xabc_0000));
    }
}

#[test]
fn the_preferred_page_is_used_if_it_was_set_aside() {
    let pages = range(0x5000, 0x3000);
    // What the host prefers, and the page that is registered.
    for (preferred, used) in [
        (0x6011, 0x6000),
        (0x5011, 0x5000),
        (0x7011, 0x7000),
        (!0xfff | 0x011, 0x5000),
        (0x8011, 0x5000),
        (0x4011, 0x5000),
        (0x011, 0x5000),
    ] {
        let mut port = MockPort::new(move |exit| match *exit.msr & 0xfff {
            0x010 => *exit.msr = preferred,
            _ => *exit.msr |= 0x013,
        });
        let page = GhcbPage::register_preferred(&mut port, Memory::new(), pages).unwrap();
        assert_eq!(page.frame(), frame(used), "{preferred:#x}");
        assert_eq!((port.exits.as_slice(), port.msr), (&[0x010, used | 0x012][..], used));
    }
    for got in [0x010, 0x013, 0x1015, 0xfff0_0000_0000_1011] {
        let refused = preferred_ghcb(&mut says(got));
        assert_eq!(refused, Err(SnpError::UnexpectedResponse { sent: 0x010, got }));
        assert!(GhcbPage::register_preferred(&mut says(got), Memory::new(), pages).is_err());
    }
    assert_eq!(preferred_ghcb(&mut says(0x1_2011)), Ok(Some(frame(0x1_2000))));
}

#[test]
fn a_registration_is_taken_back_with_the_feature_only() {
    let page = frame(0x7000);
    let missing = SnpError::MissingFeatures { missing: 0x100 };
    assert_eq!(unregister_ghcb(&mut no_host(), page, HvFeatures::from_bits_retain(!0x100)), Err(missing));
    let features = HvFeatures::GHCB_UNREGISTER;
    for (got, expected) in [
        (0x7019, Ok(())),
        (0x8019, Err(SnpError::GhcbRefused { asked: 7, got: 8 })),
        (!0xfff | 0x019, Err(SnpError::GhcbRefused { asked: 7, got: u64::MAX >> 12 })),
        (0x7013, Err(SnpError::UnexpectedResponse { sent: 0x7018, got: 0x7013 })),
    ] {
        let mut port = says(got);
        assert_eq!(unregister_ghcb(&mut port, page, features), expected);
        assert_eq!((port.exits.as_slice(), port.msr), (&[0x7018][..], 0xabc_0000));
    }
    // A page that the host keeps can be used as before.
    let registered = |answer| {
        let mut port = MockPort::new(move |exit| *exit.msr = if *exit.msr & 0xfff == 0x012 { 0x7013 } else { answer });
        let ghcb = GhcbPage::register(&mut port, Memory::new(), page).unwrap();
        (ghcb, port)
    };
    let (ghcb, mut port) = registered(0x7019);
    assert_eq!(ghcb.unregister(&mut port, features).map_err(|(_, error)| error), Ok(page));
    let (ghcb, mut port) = registered(!0xfff | 0x019);
    let (kept, error) = ghcb.unregister(&mut port, features).unwrap_err();
    assert_eq!((kept.frame(), error.kind()), (page, ErrorKind::HostRefused));
}

#[test]
fn the_registered_page_is_the_one_that_was_asked_for() {
    assert_eq!(register_ghcb(&mut says(0x7013), frame(0x7000)), Ok(()));
    let other = register_ghcb(&mut says(0x8013), frame(0x7000)).unwrap_err();
    assert_eq!((other, other.kind()), (SnpError::GhcbRefused { asked: 7, got: 8 }, ErrorKind::HostMisbehaved));
    let none = register_ghcb(&mut says(!0xfff | 0x013), frame(0x7000)).unwrap_err();
    assert_eq!(none.kind(), ErrorKind::HostRefused);
    let wrong = register_ghcb(&mut says(0x7012), frame(0x7000)).unwrap_err();
    assert_eq!(wrong, SnpError::UnexpectedResponse { sent: 0x7012, got: 0x7012 });
}

#[test]
fn changes_one_small_page_per_exit() {
    let mut port = says(0x015);
    MsrProtocol.page_state(&mut port, range(0x1f_f000, 0x3000), HostState::Private).unwrap();
    assert_eq!(port.exits, [0x0010_0000_001f_f014, 0x0010_0000_0020_0014, 0x0010_0000_0020_1014]);
    assert_eq!(port.msr, 0xabc_0000);
    let mut port = says(0x015);
    MsrProtocol.page_state(&mut port, range(0xf_ffff_ffff_f000, 0x1000), HostState::Shared).unwrap();
    assert_eq!(port.exits, [0x002f_ffff_ffff_f014]);
}

#[test]
fn stops_at_the_page_that_the_host_fails() {
    for (answer, cause) in [
        (0x8000_0000_0000_0015, SnpError::PageState { code: 0x8000_0000 }),
        (0x0000_0001_0000_0015, SnpError::PageState { code: 1 }),
        (0x1015, SnpError::UnexpectedResponse { sent: 0x0010_0000_0000_a014, got: 0x1015 }),
        (0x014, SnpError::UnexpectedResponse { sent: 0x0010_0000_0000_a014, got: 0x014 }),
        (0, SnpError::UnexpectedResponse { sent: 0x0010_0000_0000_a014, got: 0 }),
    ] {
        let mut port = MockPort::new(move |exit| *exit.msr = if exit.count == 2 { answer } else { 0x015 });
        let stopped = MsrProtocol.page_state(&mut port, range(0x8000, 0x5000), HostState::Private);
        assert_eq!(stopped, Err(Stopped { done: 2, cause }));
        assert_eq!((port.exits.len(), port.msr), (3, 0xabc_0000));
    }
}

#[test]
fn runs_a_level_and_checks_the_answer() {
    for level in Vmpl::ALL {
        let mut port = says(0x017);
        MsrProtocol.run_vmpl(&mut port, level).unwrap();
        assert_eq!((port.exits[0], port.msr), (u64::from(level.number()) << 32 | 0x016, 0xabc_0000));
    }
    let sent = 0x2_0000_0016;
    for (answer, error, kind) in [
        (0x5_0000_0017, SnpError::RunVmpl { code: 5 }, ErrorKind::HostRefused),
        (0x005, SnpError::UnexpectedResponse { sent, got: 0x005 }, ErrorKind::HostMisbehaved),
        (0x015, SnpError::UnexpectedResponse { sent, got: 0x015 }, ErrorKind::HostMisbehaved),
        (sent, SnpError::UnexpectedResponse { sent, got: sent }, ErrorKind::HostMisbehaved),
        (0x1017, SnpError::UnexpectedResponse { sent, got: 0x1017 }, ErrorKind::HostMisbehaved),
    ] {
        let given = MsrProtocol.run_vmpl(&mut says(answer), Vmpl::VMPL2).unwrap_err();
        assert_eq!((given, given.kind()), (error, kind));
    }
}

#[test]
fn a_call_loads_and_stores_the_registers() {
    let mut port = MockPort::new(|exit| {
        let regs = exit.regs.unwrap();
        assert_eq!(*regs, CallFrame { rax: 1, rcx: 2, rdx: 3, r8: 4, r9: 5 });
        *regs = CallFrame { rax: 6, rcx: 7, rdx: 8, r8: 9, r9: 10 };
        *exit.msr = 0x017;
    });
    let mut frame = CallFrame { rax: 1, rcx: 2, rdx: 3, r8: 4, r9: 5 };
    MsrProtocol.call_vmpl0(&mut port, &mut frame, || Ok(())).unwrap();
    assert_eq!(frame, CallFrame { rax: 6, rcx: 7, rdx: 8, r8: 9, r9: 10 });
    assert_eq!((port.exits.as_slice(), port.msr), (&[0x016][..], 0xabc_0000));
}

#[test]
fn without_its_mark_a_call_does_not_leave_and_the_register_is_as_before() {
    let mut port = MockPort::new(|_| panic!("no exit without the mark"));
    let refused = MsrProtocol.call_vmpl0(&mut port, &mut CallFrame::default(), || Err(SnpError::NotServed));
    assert_eq!((refused, port.msr), (Err(SnpError::NotServed), 0xabc_0000));
}

#[test]
fn a_host_that_goes_on_after_the_end_gets_the_same_request_again() {
    let seen = Rc::new(RefCell::new(Vec::new()));
    let log = Rc::clone(&seen);
    let mut port = MockPort::new(move |exit| {
        log.borrow_mut().push(*exit.msr);
        *exit.msr = 0x0_1234;
    });
    let end = AssertUnwindSafe(|| MsrProtocol.terminate(&mut port, reason(0x5a)));
    assert!(std::panic::catch_unwind(end).is_err());
    let seen = seen.borrow();
    assert_eq!(seen.len(), 1001);
    assert!(seen.iter().all(|&msr| msr == 0x5a_c100));
}

#[test]
fn what_needs_a_page_says_so_without_one() {
    let mut host = Host::<Memory>::Msr(MsrProtocol);
    let asked = host.guest_request(&mut no_host(), frame(0x1000), frame(0x2000)).unwrap_err();
    assert_eq!((asked, asked.kind()), (SnpError::NoGhcbPage, ErrorKind::Unsupported));
}
