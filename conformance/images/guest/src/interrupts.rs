//! Interrupts: of the timer, and between vCPUs.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use backend_snp::SnpError;
use coco_part_api::VcpuId;
use image_runtime::interrupts::{self, Interrupt};
use image_runtime::link::{LINKS, Link};
use image_runtime::{cpu, println};

use crate::program::demand;
use crate::start::Stop;

/// Ticks until a timer fires, some milliseconds on most machines.
const SOON: u32 = 5_000_000;
/// Ticks after which nobody waits any longer, some seconds.
const PATIENCE: u64 = 1 << 35;

/// Interrupts of one vector that were taken.
struct Taken {
    count: AtomicU32,
    /// When the last one arrived, in ticks.
    at: AtomicU64,
    /// How many the controller did not know, or not let end.
    odd: AtomicU32,
}

impl Taken {
    const fn none() -> Self {
        Self { count: AtomicU32::new(0), at: AtomicU64::new(0), odd: AtomicU32::new(0) }
    }

    fn count(&self) -> u32 {
        self.count.load(Ordering::Acquire)
    }

    /// Takes one, and lets it end.
    fn take(&self, vector: u8) {
        self.at.store(cpu::ticks(), Ordering::Relaxed);
        // Nobody else has the link: interrupts are on where nobody uses it.
        let ended = LINKS.with(|link| {
            let was_in_service = link.is_in_service(vector)?;
            link.end_of_interrupt()?;
            Ok::<_, SnpError>(was_in_service && !link.is_in_service(vector)?)
        });
        if !matches!(ended, Some(Ok(true))) {
            self.odd.fetch_add(1, Ordering::Relaxed);
        }
        self.count.fetch_add(1, Ordering::Release);
    }
}

/// The timer of the first vCPU.
struct Timer;
/// What the first vCPU sends to the second one.
struct Ping;
/// What comes back.
struct Pong;

static TIMER: Taken = Taken::none();
static PINGS: Taken = Taken::none();
static PONGS: Taken = Taken::none();

impl Interrupt for Timer {
    const VECTOR: u8 = 0x41;

    fn arrived() {
        TIMER.take(Self::VECTOR);
    }
}

impl Interrupt for Ping {
    const VECTOR: u8 = 0x51;

    fn arrived() {
        PINGS.take(Self::VECTOR);
    }
}

impl Interrupt for Pong {
    const VECTOR: u8 = 0x62;

    fn arrived() {
        PONGS.take(Self::VECTOR);
    }
}

fn link<T>(work: impl FnOnce(&mut Link) -> Result<T, SnpError>) -> Result<T, Stop> {
    Ok(LINKS.with(work).ok_or(Stop::Wrong("the link is in use"))??)
}

/// Turns the controller of this vCPU on.
pub(crate) fn begin() -> Result<(), Stop> {
    link(Link::enable_interrupts)
}

/// Has the timer interrupt this vCPU soon, and counts from now on.
pub(crate) fn soon() -> Result<Soon, Stop> {
    let before = TIMER.count();
    link(|link| link.interrupt_after(SOON, Timer::VECTOR))?;
    Ok(Soon { before })
}

/// An interrupt that comes.
pub(crate) struct Soon {
    before: u32,
}

impl Soon {
    /// Whether it has come, and ended as it should.
    pub(crate) fn has_come(&self) -> bool {
        TIMER.count() == self.before + 1 && TIMER.odd.load(Ordering::Relaxed) == 0
    }

    /// Waits for it with HLT.
    pub(crate) fn wait(&self) -> Result<(), Stop> {
        halt_until(|| TIMER.count() != self.before);
        demand(self.has_come(), "an interrupt of the timer does not come as it should")
    }
}

/// HLT until something holds, or for as long as anybody waits.
fn halt_until(holds: impl Fn() -> bool) {
    let begun = cpu::ticks();
    while !holds() && cpu::ticks().wrapping_sub(begun) < PATIENCE {
        // SAFETY: interrupts have handlers.
        unsafe { cpu::wait_for_interrupt() };
    }
}

/// The timer, by count and by deadline.
pub(crate) fn timer() -> Result<(), Stop> {
    interrupts::install::<Timer>();
    interrupts::install::<Ping>();
    interrupts::install::<Pong>();
    begin()?;

    let soon = soon()?;
    let begun = cpu::ticks();
    while TIMER.count() == soon.before && cpu::ticks().wrapping_sub(begun) < PATIENCE {
        // SAFETY: interrupts have handlers.
        unsafe { cpu::let_interrupts_in() };
    }
    demand(soon.has_come(), "a timer that counts does not interrupt as it should")?;
    println!("timer: vector {:#x} taken once and ended", Timer::VECTOR);

    let deadline = cpu::ticks() + u64::from(SOON);
    let soon = Soon { before: TIMER.count() };
    link(|link| link.interrupt_at(deadline, Timer::VECTOR))?;
    soon.wait()?;
    demand(TIMER.at.load(Ordering::Relaxed) >= deadline, "a deadline comes too early")?;
    println!("TSC deadline: HLT ended, not before it");
    Ok(())
}

/// The first vCPU interrupts the second one, which interrupts the first one.
pub(crate) fn between_vcpus() -> Result<(), Stop> {
    link(|link| link.interrupt(VcpuId(1), Ping::VECTOR))?;
    halt_until(|| PONGS.count() != 0);
    let seen = [&PINGS, &PONGS].map(|taken| (taken.count(), taken.odd.load(Ordering::Relaxed)));
    demand(seen == [(1, 0); 2], "vCPUs do not interrupt each other as they should")?;
    println!("IPI: vCPU 1 took vector {:#x}, vCPU 0 took vector {:#x}", Ping::VECTOR, Pong::VECTOR);
    Ok(())
}

/// The second vCPU from now on: answers.
pub(crate) fn answer() -> ! {
    let mut answered = 0;
    loop {
        // SAFETY: interrupts have handlers.
        unsafe { cpu::wait_for_interrupt() };
        if PINGS.count() != answered {
            answered = PINGS.count();
            // The first vCPU notices if it does not come.
            let _ = link(|link| link.interrupt(VcpuId(0), Pong::VECTOR));
        }
    }
}
