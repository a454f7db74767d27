//! What a VMSA must hold when a guest hands it over.

use coco_part_api::svsm::CallResult;
use coco_part_api::{GuestMemory, HasMemory};
use machine::vmsa;
use x86_64::PhysAddr;

use super::{LIST, Snp, with_vcpus};
use crate::suite::create::case;
use crate::suite::create::vcpus::{Plan, agree_private, create, fill, one_entry, read_page};
use crate::suite::probe::{Probe, as_guest, put, refused_in, validate};
use crate::suite::{Bench, Case, Check, Stop, same};
use crate::world::layout::FREE;

/// SVME, NXE, LMA, LME, SCE.
const GOOD_EFER: u64 = vmsa::EFER_SVME | 0xd01;
/// GUEST_INTERCEPT words of a VMSA (`vmsa`).
const INTERCEPTS: usize = 0x920;
/// SECURE_AVIC_CTL (`vmsa`).
const SECURE_AVIC: usize = 0x300;

/// The cases of this file.
pub(super) fn cases() -> Vec<Case<Snp>> {
    vec![
        case!(
            "V2-run-bit-clear",
            "V2",
            ["VC-04"],
            HostileGuest,
            "a VMSA without EFER.SVME is refused and changes nothing",
            run_bit_clear
        ),
        case!(
            "V2-features",
            "V2",
            ["VC-05", "EV-01", "EV-07"],
            HostileGuest,
            "a VMSA with other SEV_FEATURES than the VM runs with is refused and changes nothing",
            features
        ),
        case!(
            "V2-events-and-intercepts",
            "V2",
            ["VC-17", "VC-18"],
            HostileGuest,
            "a VMSA with a pending event, interrupt control, intercepts or a vTOM is refused and changes nothing",
            events_and_intercepts
        ),
        case!(
            "V2-large-boundary",
            "V2",
            ["VC-08"],
            HostileGuest,
            "a VMSA at a multiple of 2 MiB is refused and changes nothing",
            large_boundary
        ),
    ]
}

/// Creates that differ from a good one in one quadword of the VMSA. The image is good again after each.
fn bad_fields(bench: &mut Bench<Snp>, fields: &[(&str, usize, u64)]) -> Check {
    let plan = Plan::of(1);
    let good = [
        (vmsa::EFER, GOOD_EFER),
        (vmsa::SEV_FEATURES, vmsa::features::SNP_ACTIVE),
        (vmsa::VINTR_CTRL, 0),
        (vmsa::VIRTUAL_TOM, 0),
        (vmsa::EVENT_INJ, 0),
        (INTERCEPTS, 0),
        (INTERCEPTS + 0x18, 0),
        (SECURE_AVIC, 0),
    ];
    let place = move |(offset, value): (usize, u64)| (plan.state + offset as u64, value);
    let probes = fields.iter().map(|(what, offset, value)| Probe {
        what: (*what).to_owned(),
        words: good.into_iter().chain([(*offset, *value)]).map(place).collect(),
        regs: plan.create(),
        want: CallResult::INVALID_PARAMETER,
    });
    let mut world = bench.world(with_vcpus(bench, 2));
    refused_in(&mut world, probes.collect(), move |l2| fill(l2, plan))?;
    // And the good one is good.
    let options = with_vcpus(bench, 2);
    as_guest(bench, options, move |mut l2| {
        fill(&mut l2, plan)?;
        put(&l2, &good.map(place))?;
        same("the good one", create(&mut l2, plan)?, CallResult::SUCCESS)
    })
    .map(|_| ())
}

fn run_bit_clear(bench: &mut Bench<Snp>) -> Check {
    let clear = GOOD_EFER & !vmsa::EFER_SVME;
    bad_fields(bench, &[("EFER without SVME", vmsa::EFER, clear), ("EFER of zero", vmsa::EFER, 0)])
}

fn features(bench: &mut Bench<Snp>) -> Check {
    let bits = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 14, 16, 17, 21, 22, 62, 63];
    let names: Vec<String> = bits.iter().map(|bit| format!("SEV_FEATURES bit {bit}")).collect();
    let other = |bit: u64| vmsa::features::SNP_ACTIVE ^ 1 << bit;
    let fields: Vec<(&str, usize, u64)> =
        names.iter().zip(bits).map(|(name, bit)| (name.as_str(), vmsa::SEV_FEATURES, other(bit))).collect();
    bad_fields(bench, &fields)
}

fn events_and_intercepts(bench: &mut Bench<Snp>) -> Check {
    bad_fields(
        bench,
        &[
            ("VINTR_CTRL.busy", vmsa::VINTR_CTRL, vmsa::VINTR_CTRL_BUSY),
            ("VINTR_CTRL with a vector", vmsa::VINTR_CTRL, 1 << 8 | 0x80 << 32),
            ("an event to inject", vmsa::EVENT_INJ, 1 << 31 | 0x80),
            ("vTOM", vmsa::VIRTUAL_TOM, 1 << 40),
        ],
    )
}

fn large_boundary(bench: &mut Bench<Snp>) -> Check {
    let (good, plan) = (Plan::of(1), Plan { state: FREE, ..Plan::of(1) });
    let mut world = bench.world(with_vcpus(bench, 2));
    let probe = Probe {
        what: "a VMSA at a multiple of 2 MiB".to_owned(),
        words: Vec::new(),
        regs: plan.create(),
        want: CallResult::INVALID_PARAMETER,
    };
    refused_in(&mut world, vec![probe], move |l2| {
        agree_private(l2, FREE, 1)?;
        same("validate", one_entry(l2, LIST, validate(FREE))?, CallResult::SUCCESS)?;
        fill(l2, good)?;
        // The guest's side refuses to write one there, too.
        let image = read_page(l2, good.state)?;
        l2.port.memory().write(PhysAddr::new(FREE), &image).map_err(|error| Stop::Wrong(error.to_string()))
    })
}
