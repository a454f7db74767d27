//! Reports that a guest prints, verified as somebody outside of the machine would.

use backend_snp::abi::report::{GuestPolicy, PlatformInfo};
use backend_snp::abi::vmpl::Vmpl;
use backend_snp::evidence::{Product, Report, Tcb};
use backend_snp::launch::Igvm;
use backend_snp::verify::{Expectations, Root, Verdict, Verifier, Wanted};
use coco_part_api::{GuestLevel, Level, REPORT_DATA, report_data};
use machine::psp::REPORT_LEN;
use machine::psp::certs::{ARK_DER, ASK_DER, VCEK_DER};
use machine::psp::platform::REPORTED_TCB;

use crate::hex;

/// Most reports of one run.
const MOST: usize = 16;
/// When the certificates have to be valid. The chain of the machine is made of public test keys, so no clock is asked.
const TIME_S: u64 = 1_800_000_000;

/// What every report of a guest has to say that was loaded from one file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Launch {
    digest: [u8; 48],
    policy: GuestPolicy,
}

impl Launch {
    pub(super) fn of(file: &Igvm<'_>) -> Self {
        Self { digest: *file.digest().bytes(), policy: file.policy() }
    }
}

/// A report with the nonce that it is said to be for.
#[derive(Clone, Debug)]
struct Evidence {
    level: Vmpl,
    report: [u8; REPORT_LEN],
    nonce: [u8; REPORT_DATA],
}

/// The evidence on a console: of one level, a line `report: HEX` and then a line `nonce: HEX`.
#[derive(Debug, Default)]
pub(super) struct Collector {
    /// Of each level, the report that waits for its nonce.
    open: [Option<Box<[u8; REPORT_LEN]>>; 4],
    found: Vec<Evidence>,
    /// What is wrong with the lines themselves, at first.
    fault: Option<String>,
}

impl Collector {
    /// Looks at a line that `level` wrote.
    pub(super) fn line(&mut self, level: Vmpl, text: &str) {
        let done = if let Some(hex) = text.strip_prefix("report: ") {
            self.report(level, hex)
        } else if let Some(hex) = text.strip_prefix("nonce: ") {
            self.nonce(level, hex)
        } else {
            Ok(())
        };
        self.fault = self.fault.take().or(done.err());
    }

    fn report(&mut self, level: Vmpl, hex: &str) -> Result<(), String> {
        let report = hex::decode(hex).ok_or_else(|| format!("{level:?}: a report is {REPORT_LEN} bytes in hex"))?;
        self.open[usize::from(level.number())] = Some(Box::new(report));
        Ok(())
    }

    fn nonce(&mut self, level: Vmpl, hex: &str) -> Result<(), String> {
        let nonce = hex::decode(hex).ok_or_else(|| format!("{level:?}: a nonce is {REPORT_DATA} bytes in hex"))?;
        let report = self.open[usize::from(level.number())].take();
        let report = report.ok_or_else(|| format!("{level:?}: a nonce without a report"))?;
        if self.found.len() == MOST {
            return Err(format!("more than {MOST} reports"));
        }
        self.found.push(Evidence { level, report: *report, nonce });
        Ok(())
    }

    /// Verifies all reports. Gives lines to show, and one sentence if one is refused or not whole, or none came and one is
    /// needed.
    pub(super) fn verify(&self, launch: Launch, is_needed: bool) -> (Vec<String>, Result<(), String>) {
        let mut lines = Vec::new();
        if let Some(fault) = &self.fault {
            return (lines, Err(fault.clone()));
        }
        if self.open.iter().any(Option::is_some) {
            return (lines, Err("a report without its nonce".to_owned()));
        }
        if is_needed && self.found.is_empty() {
            return (lines, Err("the guest gave no report; --no-report allows that".to_owned()));
        }
        for evidence in &self.found {
            let level = evidence.level;
            let verdict = evidence.judge(launch);
            if !verdict.is_accepted() {
                lines.extend(verdict.to_string().lines().map(str::to_owned));
                return (lines, Err(format!("the report of {level:?} is refused")));
            }
            lines.push(format!(
                "report of {level:?} accepted: chain and signature, level, nonce, and measurement {}",
                hex::encode(&launch.digest)
            ));
        }
        (lines, Ok(()))
    }
}

impl Evidence {
    fn judge(&self, launch: Launch) -> Verdict {
        let tcb = Tcb {
            fmc: None,
            boot_loader: REPORTED_TCB.boot_loader,
            tee: REPORTED_TCB.tee,
            snp: REPORTED_TCB.snp,
            microcode: REPORTED_TCB.microcode,
        };
        let expectations = Expectations {
            root: Root::Named(ARK_DER),
            time_s: TIME_S,
            minimum: &[(Product::Milan, tcb)],
            vmpl: self.level,
            policy: launch.policy,
            report_data: self.expected_data(),
            measurement: Wanted::Is(launch.digest),
            host_data: Wanted::Is([0; 32]),
            id_key_digest: Wanted::Is([0; 48]),
            platform: PlatformInfo::ECC_EN | PlatformInfo::ALIAS_CHECK_COMPLETE,
        };
        Verifier::new(&[ARK_DER, ASK_DER, VCEK_DER], expectations).verify(&self.report)
    }

    /// A report that the level asked for itself has the nonce, one that came through L1 the digest of level and nonce.
    fn expected_data(&self) -> [u8; REPORT_DATA] {
        let level = GuestLevel::try_from(self.level.number()).map_or(Level::Monitor, Level::Guest);
        let digest = report_data(level, &self.nonce, &[]);
        let is_digest = Report::parse(&self.report).is_ok_and(|report| *report.report_data() == digest);
        if is_digest { digest } else { self.nonce }
    }
}
