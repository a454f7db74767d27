//! Runs the suite on somebody else's SNP backend: all that its author writes. Here `backend-snp` plays that part.
use backend_snp::monitor::{L1, Seed, Shared};
use backend_snp::{SnpError, guest::GuestSide};
use conformance::snp::{ModelPort, OnSnp, SnpBackend, SnpModel, Window, early_guest_side, guest_side, l1_setup};
use conformance::suite::{Outcome, run};
use conformance::{platform::Home, runner::Cpu, world::VCPUS};

struct Outside;
type Monitor<'y> = L1<'y, ModelPort<'y>, Window<'y>>;
type Guest<'y> = GuestSide<ModelPort<'y>, Window<'y>>;
type Known = Home<OnSnp<Outside>>;

impl SnpBackend for Outside {
    type Error = SnpError;
    type Seed = Seed;
    type Shared = Shared<VCPUS>;
    type Monitor<'y> = Monitor<'y>;
    type Guest<'y> = Guest<'y>;
    const NAME: &'static str = "snp-outside";
    fn shared() -> Self::Shared {
        Shared::new()
    }
    fn monitor<'y>(cpu: Cpu<'y, SnpModel>, all: &'y Self::Shared, home: &'y Known) -> Result<Monitor<'y>, SnpError> {
        L1::start(ModelPort::new(cpu, None), l1_setup(cpu, home, None)?, all)
    }
    fn early_guest<'y>(cpu: Cpu<'y, SnpModel>, _: &'y Known) -> Result<Guest<'y>, SnpError> {
        early_guest_side(cpu)
    }
    fn guest<'y>(cpu: Cpu<'y, SnpModel>, _: &'y Known) -> Result<Guest<'y>, SnpError> {
        guest_side(cpu)
    }
}

fn main() {
    let report = run::<OnSnp<Outside>>(1);
    let failed: Vec<_> = report.cases.iter().filter(|case| case.result == Outcome::Fail).collect();
    println!("{}: {} of {} cases failed", Outside::NAME, failed.len(), report.cases.len());
    failed.iter().for_each(|case| println!("{}: {}", case.id, case.reason));
    std::process::exit(i32::from(!failed.is_empty()));
}
