//! Which cases share a boot.

use backend_snp::guest::GuestSide;
use image_cases::{About, Selection, cases};

use super::bed::ModelBed;
use crate::snp::{ModelPort, Window};

/// One boot: a host, a number of vCPUs, and what runs in it: cases, one after the other, or pieces of work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Boot {
    /// How the host behaves, by its name.
    pub host: &'static str,
    /// vCPUs of the VM.
    pub vcpus: u8,
    /// Whether programs run at the other levels of vCPU 0.
    pub companions: bool,
    /// Numbers of cases in the list of [`all`].
    pub cases: Vec<usize>,
    /// How often each piece of work is done; 0 if there are cases.
    pub rounds: u64,
}

impl Boot {
    /// One vCPU under an honest host that does each piece of work so often.
    pub const fn work(rounds: u64) -> Self {
        Self { host: image_cases::HONEST, vcpus: 1, companions: false, cases: Vec::new(), rounds }
    }

    /// What its image is told.
    pub fn selection(&self) -> Selection {
        if self.rounds > 0 {
            return Selection::work(self.rounds);
        }
        self.cases.iter().fold(Selection::NONE, |selection, case| selection.with(*case))
    }
}

/// What is known of every case, in the order of the list.
pub fn all() -> Vec<About> {
    cases::<GuestSide<ModelPort<'_>, Window<'_>>, ModelBed<'_>>().map(|case| case.about).collect()
}

/// The boots of the wanted cases that a VM with so many vCPUs can run. Those that share a boot come first, first of all those
/// without companions.
pub fn plan(vcpus: u8, wanted: impl Fn(&About) -> bool) -> Vec<Boot> {
    let all = all();
    let runs = |about: &About| about.vcpus <= vcpus && wanted(about);
    let of = |host, companions, cases| Boot { host, vcpus, companions, cases, rounds: 0 };
    let numbered = || all.iter().enumerate().filter(|(_, about)| runs(about));
    let mut boots = Vec::new();
    for companions in [false, true] {
        let shares = |about: &About| about.shares_boot() && about.companions == companions;
        let shared: Vec<usize> = numbered().filter(|(_, about)| shares(about)).map(|(number, _)| number).collect();
        if !shared.is_empty() {
            boots.push(of(image_cases::HONEST, companions, shared));
        }
    }
    let alone = numbered().filter(|(_, about)| !about.shares_boot());
    boots.extend(alone.map(|(number, about)| of(about.host, about.companions, vec![number])));
    boots
}
