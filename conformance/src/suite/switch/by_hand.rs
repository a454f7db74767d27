//! A guest that a case starts itself, under an L1 that is a few lines of the case.

use std::cell::RefCell;
use std::rc::Rc;

use coco_part_api::{
    AdmitVcpu, BootGuest, BootInfo, BootPage, Context, Error, Grant, Grants, GuestLevel, Identify, Origin, Rights,
    Source, Stopped, Terms, Validate,
};

use crate::platform::{Home, Platform};
use crate::runner::{Body, Cpu};
use crate::suite::{Check, Stop};
use crate::world::layout::{
    BOOT_STATE, CALL_AREA, FEATURES, FREE, GUEST, MONITOR, MONITOR_BYTES, PAGE, SECRETS, frame, range,
};
use crate::world::{Gate, L1, L2, Options, World};

/// Level of the guest.
pub(crate) const LEVEL: GuestLevel = GuestLevel::TWO;
/// Entry address of a guest that has nothing yet.
const ENTRY_EARLY: u64 = 0x5000;

/// What became of the guest's program.
#[derive(Clone, Debug, Default)]
pub(crate) struct Log {
    /// Reached when it is over.
    pub(crate) over: Gate,
    complaints: Rc<RefCell<Vec<String>>>,
}

impl Log {
    /// What it complained about first.
    pub(crate) fn check(&self) -> Check {
        self.complaints.borrow().first().map_or(Ok(()), |complaint| Err(complaint.clone().into()))
    }
}

/// Gives the program of the guest, to which [`start_guest`] hands the first vCPU.
pub(crate) fn on_early_guest<P: Platform>(
    world: &mut World<P>,
    options: &Options<P>,
    body: impl for<'y> FnOnce(L2<'y, P>) -> Check + 'static,
) -> Log {
    let guest = range(GUEST, options.guest_bytes);
    let home = Rc::new(Home {
        ram: vec![range(MONITOR, MONITOR_BYTES), guest],
        guest_ram: vec![guest],
        levels: options.levels.clone(),
        options: options.clone(),
    });
    let log = Log::default();
    let (record, mut body) = (log.clone(), Some(body));
    world.runner.at_entry(
        ENTRY_EARLY,
        Box::new(move |start| {
            let (home, log, body) = (Rc::clone(&home), record.clone(), body.take()?);
            Some(Box::new(move |cpu: Cpu<'_, P::Model>| {
                let check = match P::early_guest(cpu, &home) {
                    Ok(port) => body(L2 { port, cpu, start, home: &home }),
                    Err(error) => Err(Stop::Wrong(format!("the guest does not start: {error}"))),
                };
                if let Err(stop) = check {
                    log.complaints.borrow_mut().push(format!("guest: {stop:?}"));
                }
                log.over.pass();
            }) as Body<P::Model>)
        }),
    );
    log
}

fn stopped<E: Error>(stopped: Stopped<E>) -> Stop {
    Stop::Wrong(format!("after {} frames: {}", stopped.done, stopped.cause))
}

/// Gives the guest its memory and boot pages, and makes its first vCPU on this one. It runs with the next `run`.
pub(crate) fn start_guest<P: Platform>(l1: &mut L1<'_, P>) -> Check {
    let wrong = |error: P::Error| Stop::Wrong(error.to_string());
    let ram = Grants::one(LEVEL, Rights::RAM);
    // Pages that L1 fills are its own first, the others are the guest's at once.
    let first = range(GUEST, CALL_AREA - GUEST);
    l1.backend.validate(first).map_err(stopped)?;
    l1.backend.validate_for(range(CALL_AREA, FREE - CALL_AREA), &ram, Origin::Monitor).map_err(stopped)?;
    let monitor = range(MONITOR, MONITOR_BYTES);
    let info = BootInfo { level: LEVEL, call_area: frame(CALL_AREA), monitor };
    for page in <P::Monitor<'_> as BootGuest>::PAGES {
        let at = match page {
            BootPage::Secrets => SECRETS,
            BootPage::Features => FEATURES,
        };
        l1.backend.fill(*page, frame(at), &info).map_err(wrong)?;
        l1.backend.publish(range(at, PAGE), &ram).map_err(stopped)?;
    }
    let terms = Terms { level: LEVEL, target: l1.backend.vcpu(), call_area: frame(CALL_AREA) };
    let proof = l1.backend.redeem(Default::default()).map_err(|_| "nothing was cut, and yet it is not redeemed")?;
    let context = Context::long_mode(ENTRY_EARLY, 0, 0);
    let seed = l1.backend.admit(frame(BOOT_STATE), Source::Context(&context), &terms, &proof).map_err(wrong)?;
    l1.backend.install(seed).map_err(|(_, error)| wrong(error))
}
