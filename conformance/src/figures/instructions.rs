//! Instructions of the monitor's handlers and of the verbs, counted by callgrind.
//!
//! The real monitor runs over the real backends on ports whose instructions do nothing: no machine model, no coroutines. What
//! the port's functions and the zeroing of pages cost is left out; everything else counts, the copying of lists and registers
//! with it. A handler is counted from the registers of a call to those of its answer.
//!
//! Counts are those of this build: they depend on the compiler, and no other computer or run changes them much or at all.

mod callgrind;
mod null;
mod snp;
mod tdx;
mod verbs;
mod vm;
mod work;

use std::env;
use std::ffi::OsStr;

use coco_part_api::svsm::list::MOST;

use self::callgrind::Callgrind;
pub use self::work::{Job, Vendor, Work};
use super::Figure;

/// Entries of the longest list in the buffer of a call area.
const LONGEST: u64 = MOST as u64 - 1;
/// Pages that the verbs work on.
const PAGES: u64 = 16;

/// The handlers of the monitor: from the registers of a call to those of its answer.
const HANDLER: &str = "l1_monitor::service::serve*";
/// What [`counted`] is given.
const COUNTED: &str = "conformance::figures::instructions::counted";

/// One row: what it is called, what it counts, and the most that this project wants.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// Stable name.
    pub name: &'static str,
    /// What is counted.
    pub what: &'static str,
    /// The aim.
    pub aim: Option<u64>,
    count: Count,
}

/// How a row is counted.
#[derive(Clone, Copy, Debug)]
enum Count {
    /// The handler of a call.
    Handler(Job),
    /// What the handler of a list costs more for each entry beyond the first.
    Further(Job),
    /// A step of the monitor's loop: the switch, the handler, the answer.
    Step(Job),
    /// Thousandths of the first in the second.
    Ratio(Job, Job),
}

const fn job(work: Work, vendor: Vendor, entries: u64) -> Job {
    Job { work, vendor, entries }
}

/// All rows, in the order of the table.
pub const ROWS: &[Row] = &[
    Row {
        name: "instr_validate_one_snp",
        what: "instructions of a call that validates one 4 KiB page",
        aim: Some(600),
        count: Count::Handler(job(Work::Validate, Vendor::Snp, 1)),
    },
    Row {
        name: "instr_validate_further_snp",
        what: "instructions for each further page that goes on where the one before ends",
        aim: Some(80),
        count: Count::Further(job(Work::Validate, Vendor::Snp, LONGEST)),
    },
    Row {
        name: "instr_validate_apart_snp",
        what: "instructions for each further page that lies elsewhere",
        aim: None,
        count: Count::Further(job(Work::Scattered, Vendor::Snp, LONGEST)),
    },
    Row {
        name: "instr_create_vcpu_snp",
        what: "instructions of a call that creates a vCPU",
        aim: None,
        count: Count::Handler(job(Work::Create, Vendor::Snp, 0)),
    },
    Row {
        name: "instr_refused_snp",
        what: "instructions of a call that is refused: unknown protocol",
        aim: None,
        count: Count::Handler(job(Work::Refused, Vendor::Snp, 0)),
    },
    Row {
        name: "instr_step_snp",
        what: "instructions to find that call, refuse it and write the answer",
        aim: None,
        count: Count::Step(job(Work::Refused, Vendor::Snp, 0)),
    },
    Row {
        name: "instr_validate_one_tdx",
        what: "instructions of a call that validates one 4 KiB page",
        aim: None,
        count: Count::Handler(job(Work::Validate, Vendor::Tdx, 1)),
    },
    Row {
        name: "instr_validate_further_tdx",
        what: "instructions for each further page that goes on where the one before ends",
        aim: None,
        count: Count::Further(job(Work::Validate, Vendor::Tdx, LONGEST)),
    },
    Row {
        name: "instr_validate_apart_tdx",
        what: "instructions for each further page that lies elsewhere",
        aim: None,
        count: Count::Further(job(Work::Scattered, Vendor::Tdx, LONGEST)),
    },
    Row {
        name: "instr_create_vcpu_tdx",
        what: "instructions of a call that creates a vCPU",
        aim: None,
        count: Count::Handler(job(Work::Create, Vendor::Tdx, 0)),
    },
    Row {
        name: "instr_step_tdx",
        what: "instructions to find a call of an unknown protocol, refuse it and write the answer",
        aim: None,
        count: Count::Step(job(Work::Refused, Vendor::Tdx, 0)),
    },
    Row {
        name: "traits_permille_snp",
        what: "verbs through the traits, in thousandths of the backend's own functions",
        aim: Some(1050),
        count: Count::Ratio(job(Work::Traits, Vendor::Snp, PAGES), job(Work::Inherent, Vendor::Snp, PAGES)),
    },
];

impl Row {
    /// What is done to count it.
    pub fn jobs(&self) -> Vec<Job> {
        match self.count {
            Count::Handler(job) | Count::Step(job) => vec![job],
            Count::Further(job) => vec![job, Job { entries: 1, ..job }],
            Count::Ratio(first, second) => vec![first, second],
        }
    }

    fn count(&self, callgrind: &Callgrind<'_>) -> Result<u64, String> {
        let collect = match self.count {
            Count::Handler(_) | Count::Further(_) => HANDLER,
            Count::Step(_) | Count::Ratio(..) => COUNTED,
        };
        let counts: Vec<u64> =
            self.jobs().iter().map(|job| callgrind.count(collect, &job.words()?)).collect::<Result<_, String>>()?;
        match (self.count, counts.as_slice()) {
            (Count::Handler(_) | Count::Step(_), [count]) => Ok(*count),
            // Rounded up, as a cost is.
            (Count::Further(job), [all, one]) => Ok(all.saturating_sub(*one).div_ceil(job.entries - 1)),
            (Count::Ratio(..), [first, second]) => Ok((first * 1000).div_ceil(*second)),
            _ => Err(format!("{} was counted {} times", self.name, counts.len())),
        }
    }
}

/// Takes all rows. Machines without valgrind cannot.
///
/// # Errors
/// Valgrind is missing, as the first thing that is found out; or a piece of work did not get to its end.
pub fn measure() -> Result<Vec<Figure>, String> {
    let program = env::current_exe().map_err(|error| format!("this program is not found: {error}"))?;
    let callgrind = Callgrind::new(OsStr::new("valgrind"), &program)?;
    let figure = |row: &Row| {
        let value = row.count(&callgrind)?;
        Ok(Figure { name: row.name, what: row.what, value, floor: 0, aim: row.aim })
    };
    ROWS.iter().map(figure).collect()
}

/// Does a piece of work. What is done in here is counted where a whole step or the verbs are.
#[inline(never)]
fn counted(work: &mut dyn FnMut()) {
    work();
}
