//! Measurements and reports (tdreport.csv).

use sha2::{Digest, Sha384};

use super::*;
use crate::tdx::host::Policy;
use crate::tdx::status::{INVALID_CPUSVN, INVALID_REPORTMACSTRUCT, OPERAND_BUSY, OPERAND_INVALID};
use crate::tdx::{EptCause, TdExit};

const REPORT: u64 = SCRATCH;
const DATA: u64 = VAPIC;

/// Makes a report over 64 times 7.
fn report(m: &mut Machine) -> [u8; 1024] {
    assert_eq!(l1(m, write(DATA, &[7; 64])), done());
    let regs = Regs { rcx: REPORT, rdx: DATA, ..NONE };
    assert_eq!(call(m, leaf::MR_REPORT, regs).rax, 0);
    m.peek(REPORT, 1024, Some(0)).expect("accepted").try_into().expect("1024 bytes")
}

#[test]
fn a_report_has_its_fields_where_the_table_says() {
    let mut m = machine();
    let r = report(&mut m);
    assert_eq!((r[0], r[1], r[2]), (0x81, 0, 0));
    assert_eq!(r[128..192], [7; 64]);
    assert_eq!(r[256..264], 0x3_01ffu64.to_le_bytes());
    assert_eq!(r[512..520], (1u64 << 28).to_le_bytes());
    assert_eq!(r[528..576], m.mrtd());
    assert_ne!(m.mrtd(), [0; 48]);
    assert_eq!(r[720..912], [0; 192]);
    assert_eq!(r[32..80], Sha384::digest(&r[256..256 + 239])[..]);
    assert_eq!(r[80..128], Sha384::digest(&r[512..])[..]);
    assert!(m.report_is_genuine(&r));
    for at in [0, 130, 300, 600, 240] {
        let mut other = r;
        other[at] ^= 1;
        assert!(!m.report_is_genuine(&other), "{at}");
    }
    assert!(!machine_with(|config| config.seed = 1).report_is_genuine(&r));
}

#[test]
fn report_operands_are_checked() {
    let mut m = machine();
    let status = |m: &mut Machine, rcx, rdx, r8| call(m, leaf::MR_REPORT, Regs { rcx, rdx, r8, ..NONE }).rax;
    for rcx in [REPORT + 512, 1 << 60] {
        assert_eq!(status(&mut m, rcx, DATA, 0), OPERAND_INVALID | 1);
    }
    for rdx in [DATA + 32, 1 << 60] {
        assert_eq!(status(&mut m, REPORT, rdx, 1), OPERAND_INVALID | 2);
    }
    assert_eq!(status(&mut m, REPORT, DATA, 1), OPERAND_INVALID | 8);
    // What is busy are the RTMRs, and the memory for the report is looked at last.
    m.host_state_mut().set_policy(Policy::Busy(1));
    assert_eq!(status(&mut m, 1 << 60, DATA, 0), OPERAND_BUSY | 168);
    assert_eq!(status(&mut m, 1 << 60, DATA, 0), OPERAND_INVALID | 1);
}

#[test]
fn memory_operands_that_are_pending_are_a_td_exit_or_ve() {
    for number in [leaf::MR_REPORT, leaf::MR_RTMR_EXTEND, leaf::MR_VERIFYREPORT, leaf::VP_INVVPID] {
        let operands = match number {
            leaf::MR_REPORT => Regs { rcx: REPORT, rdx: PAGE, ..NONE },
            leaf::VP_INVVPID => Regs { rcx: 1 | 1 << 52, rdx: PAGE, ..NONE },
            _ => Regs { rcx: PAGE, ..NONE },
        };
        let mut m = machine();
        assert!(m.host_add_page(PAGE, false));
        assert_eq!(m.step(CPU0, tdcall(number, operands)), Outcome::Exit);
        let violation = TdExit::EptViolation { level: 0, gpa: PAGE, cause: EptCause::Operand };
        assert_eq!(m.td_exit_info(CPU0), Some(&violation), "leaf {number}");

        let mut m = machine_with(|config| config.attributes = 0);
        assert!(m.host_add_page(PAGE, false));
        let ve = Outcome::Fault(Fault::Ve { reason: 48, gpa: PAGE });
        assert_eq!(l1(&mut m, tdcall(number, operands)), ve, "leaf {number}");
        let info = call(&mut m, leaf::VP_VEINFO_GET, NONE);
        assert_eq!((info.rcx, info.rdx, info.r8, info.r9), (48, 1, 0, PAGE));
    }
}

#[test]
fn shared_memory_operands_have_to_be_mapped() {
    let mut m = machine();
    let op = tdcall(leaf::MR_REPORT, Regs { rcx: REPORT, rdx: PAGE | SHARED, ..NONE });
    assert_eq!(m.step(CPU0, op), Outcome::Exit);
    let violation = TdExit::EptViolation { level: 0, gpa: PAGE | SHARED, cause: EptCause::Operand };
    assert_eq!(m.td_exit_info(CPU0), Some(&violation));
}

#[test]
fn a_report_may_go_to_shared_memory() {
    let mut m = machine_with(|config| config.shared = alloc::vec![(PAGE, 0x1000)]);
    assert_eq!(call(&mut m, leaf::MR_REPORT, Regs { rcx: PAGE | SHARED, rdx: DATA, ..NONE }).rax, 0);
    let mut kind = [0];
    m.host_read(PAGE, &mut kind);
    assert_eq!(kind, [0x81]);
}

#[test]
fn verify_takes_genuine_macs_only() {
    let mut m = machine();
    report(&mut m);
    let verify = |m: &mut Machine| call(m, leaf::MR_VERIFYREPORT, Regs { rcx: REPORT, ..NONE }).rax;
    assert_eq!(verify(&mut m), 0);
    let mut other = m.clone();
    assert_eq!(l1(&mut other, write(REPORT + 130, &[8])), done());
    assert_eq!(verify(&mut other), INVALID_REPORTMACSTRUCT);
    assert_eq!(l1(&mut m, write(REPORT + 16, &[8])), done());
    assert_eq!(verify(&mut m), INVALID_CPUSVN);
    for rcx in [REPORT + 128, REPORT | SHARED] {
        assert_eq!(call(&mut m, leaf::MR_VERIFYREPORT, Regs { rcx, ..NONE }).rax, OPERAND_INVALID | 1);
    }
}

#[test]
fn rtmrs_are_extended_by_hashing() {
    let mut m = machine();
    assert_eq!(l1(&mut m, write(DATA, &[9; 48])), done());
    let extend = |m: &mut Machine, rcx, rdx| call(m, leaf::MR_RTMR_EXTEND, Regs { rcx, rdx, ..NONE }).rax;
    assert_eq!(extend(&mut m, DATA, 2), 0);
    let mut expected = [0; 96];
    expected[48..].fill(9);
    assert_eq!(m.rtmr(2).map(|rtmr| rtmr[..] == Sha384::digest(expected)[..]), Some(true));
    assert_eq!(report(&mut m)[816..864], m.rtmr(2).unwrap());
    assert_eq!(extend(&mut m, DATA + 8, 2), OPERAND_INVALID | 1);
    assert_eq!(extend(&mut m, DATA | SHARED, 2), OPERAND_INVALID | 1);
    assert_eq!(extend(&mut m, DATA, 4), OPERAND_INVALID | 2);
    m.host_state_mut().set_policy(Policy::Busy(1));
    assert_eq!(extend(&mut m, DATA, 4), OPERAND_INVALID | 2);
    assert_eq!(extend(&mut m, DATA, 2), OPERAND_BUSY | 168);
    let rtmr2 = m.rtmr(2).unwrap();
    let field = call(&mut m, leaf::VM_RD, Regs { rdx: 0x1310_0003_0000_0040 + 2 * 6, ..NONE }).r8;
    assert_eq!(field.to_le_bytes(), rtmr2[..8]);
}

#[test]
fn mrtd_depends_on_every_page_and_address() {
    let measure = |pages: &[(u64, u8)]| {
        let mut m = Machine::new(Config::default());
        for (gpa, fill) in pages {
            assert_eq!(m.launch_page(*gpa, &[*fill; 4096]), Ok(()));
        }
        assert_eq!(m.launch_finish(), Ok(()));
        assert_eq!(m.launch_finish(), Err(crate::tdx::LaunchError::Finished));
        assert_eq!(m.launch_page(0x9_0000, &[0; 4096]), Err(crate::tdx::LaunchError::Finished));
        m.mrtd()
    };
    let base = measure(&[(0x1000, 1), (0x2000, 2)]);
    for other in [&[(0x1000, 1), (0x2000, 3)], &[(0x1000, 1), (0x3000, 2)], &[(0x2000, 2), (0x1000, 1)]] {
        assert_ne!(base, measure(other));
    }
    let mut m = Machine::new(Config::default());
    assert_eq!(m.launch_page(0x1000, &[0; 4096]), Ok(()));
    assert_eq!(m.launch_page(0x1000, &[0; 4096]), Err(crate::tdx::LaunchError::Mapped));
    assert_eq!(m.launch_page(0x1008, &[0; 4096]), Err(crate::tdx::LaunchError::BadAddress));
    assert_eq!(m.launch_page(SHARED, &[0; 4096]), Err(crate::tdx::LaunchError::BadAddress));
}
