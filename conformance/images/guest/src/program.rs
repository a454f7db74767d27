//! What this guest shows, in order: its level, memory, interrupts, another vCPU, a shared page, evidence, what every fault brings,
//! code at CPL 3, and registers.

use core::fmt;
use core::sync::atomic::{AtomicBool, Ordering};

use coco_part_api::range::{LARGE, SMALL};
use coco_part_api::{
    After, Attest, CreateVcpu, FrameRange, GuestMemory, Identify, Level, NewVcpu, REPORT_DATA, Validate, VcpuId,
};
use image_runtime::exceptions::Frame;
use image_runtime::probe::{self, Caught};
use image_runtime::space::PRIVATE;
use image_runtime::{cpu, end, println, user as runtime_user, vcpu};
use spin::Once;
use x86_64::VirtAddr;
use x86_64::structures::paging::PhysFrame;

use crate::start::{EXCEPTION, Guest, Machine, Stop, range};
use crate::{interrupts, registers, user};

/// Where all memory can be executed: nowhere.
pub(crate) const CODE: Option<VirtAddr> = None;

/// Bytes of a report.
const REPORT: usize = 1184;
/// Bytes that are validated to be looked at, in large pages where the machine has some.
const SHOWN: u64 = 2 * LARGE;
/// How often the first vCPU looks for the second one, with a pause in between.
const PATIENCE: u32 = 1 << 30;

const UNDEFINED: Caught = Caught { vector: 6, error: 0 };
pub(crate) const GENERAL_PROTECTION: Caught = Caught { vector: 13, error: 0 };
/// Exceptions that SNP adds have the exit code as their error code.
const CPUID: Caught = Caught { vector: 29, error: 0x72 };
const NOT_VALIDATED: Caught = Caught { vector: 29, error: 0x404 };

/// Everything, in order.
pub(crate) fn run(machine: &mut Machine, guest: &mut Guest) -> Result<(), Stop> {
    level(machine, guest)?;
    memory(machine, guest)?;
    interrupts::timer()?;
    if machine.start.vcpus > 1 {
        second_vcpu(machine, guest)?;
        interrupts::between_vcpus()?;
    }
    shared_page(machine, guest)?;
    evidence(guest)?;
    faults(machine, guest)?;
    user::show(machine)?;
    registers::show(machine, guest)
}

/// What the probes found before, L1 has confirmed.
fn level(machine: &Machine, guest: &Guest) -> Result<(), Stop> {
    let Level::Guest(level) = guest.level() else { return Err(Stop::Wrong("the level is the monitor's")) };
    println!("level {} on {} of {}", level.number(), guest.vcpu(), machine.start.vcpus);
    demand(level == machine.placement.level(), "L1 names another level")
}

/// New memory reads as zeros, and what is validated twice is told.
fn memory(machine: &Machine, guest: &mut Guest) -> Result<(), Stop> {
    let new = range(machine.start.free_end, machine.start.free_end + SHOWN)?;
    guest.validate(new).map_err(|stopped| stopped.cause)?;
    demand(is_zero(machine, new)?, "new memory is not zero")?;
    let again = guest.validate(FrameRange::of(new.first()));
    demand(again.is_err(), "a page was validated twice")?;
    println!("validated {} KiB at {:#x}, all zero", new.bytes() / 1024, new.start());
    small_of_large(machine, guest, new)
}

/// One small page of a large one goes and comes back, and the others do not notice.
fn small_of_large(machine: &Machine, guest: &mut Guest, new: FrameRange) -> Result<(), Stop> {
    let private = machine.space.private();
    let inaccessible = |_| Stop::Wrong("validated memory does not answer");
    let pages = new.small_blocks().zip(1_u64..).take((LARGE / SMALL) as usize);
    for (page, number) in pages.clone() {
        private.write_value(page.start(), &number).map_err(inaccessible)?;
    }
    let gone = FrameRange::of(new.skip(GONE).ok_or(Stop::Wrong("2 MiB are less"))?.first());
    guest.rescind(gone, After::Shared).map_err(|stopped| stopped.cause)?;
    guest.validate(gone).map_err(|stopped| stopped.cause)?;
    demand(is_zero(machine, gone)?, "a page of a large one that came back is not zero")?;
    for (page, number) in pages {
        let found: u64 = private.read_value(page.start()).map_err(inaccessible)?;
        demand(found == if number == GONE + 1 { 0 } else { number }, "a page changes with another one of 2 MiB")?;
    }
    println!("page {:#x} of 2 MiB was shared and is private again; the others keep what they hold", gone.start());
    Ok(())
}

/// Which of them goes.
const GONE: u64 = 0x123;

/// What the second vCPU needs to be this guest's.
struct Second {
    machine: spin::Mutex<&'static mut Machine>,
    call_area: PhysFrame,
}

static SECOND: Once<Second> = Once::new();
static HAS_REPORTED: AtomicBool = AtomicBool::new(false);

fn second_vcpu(machine: &mut Machine, guest: &mut Guest) -> Result<(), Stop> {
    let id = VcpuId(1);
    let state = machine.arena.take_state_frame().ok_or(Stop::Memory("a state frame"))?;
    let call_area = machine.arena.take(1).ok_or(Stop::Memory("a call area"))?.first();
    let context = machine.context(second_entry, u64::from(id.0))?;
    let own = machine.part(SECOND_FRAMES)?;
    SECOND.call_once(|| Second { machine: spin::Mutex::new(own), call_area });
    guest.create_vcpu(NewVcpu { id, context: &context, state, call_area })?;
    for _ in 0..PATIENCE {
        if HAS_REPORTED.load(Ordering::Acquire) {
            return Ok(());
        }
        core::hint::spin_loop();
    }
    Err(Stop::Wrong("the second vCPU does not report"))
}

/// Frames that the second vCPU has for itself.
const SECOND_FRAMES: u64 = 8;

/// The second vCPU: its number and the end of its stack for exceptions.
extern "sysv64" fn second_entry(id: u64, exception_stack: u64) -> ! {
    // Below 16.
    let id = VcpuId(id as u32);
    // SAFETY: the first vCPU took this stack for this vCPU, which is started once.
    unsafe { vcpu::begin(id, VirtAddr::new_truncate(exception_stack)) };
    let side = SECOND.get().map(|second| second.machine.lock().side(id, second.call_area));
    if let Some(Ok(guest)) = side {
        println!("hello from {}", guest.vcpu());
        if interrupts::begin().is_ok() {
            HAS_REPORTED.store(true, Ordering::Release);
        }
    }
    interrupts::answer()
}

/// Brings L1 onto this vCPU and this guest back, twice: a page is given away and taken back.
pub(crate) fn visit_l1(machine: &mut Machine, guest: &mut Guest) -> Result<(), Stop> {
    let page = machine.arena.take(1).ok_or(Stop::Memory("a page to give away"))?;
    guest.rescind(page, After::Shared).map_err(|stopped| stopped.cause)?;
    Ok(guest.validate(page).map_err(|stopped| stopped.cause)?)
}

/// A page goes to the host and comes back empty.
fn shared_page(machine: &mut Machine, guest: &mut Guest) -> Result<(), Stop> {
    let page = machine.arena.take(1).ok_or(Stop::Memory("a page to share"))?;
    let (private, shared) = (machine.space.private(), machine.space.shared());
    let inaccessible = |_| Stop::Wrong("a page does not answer");
    private.write_value(page.start(), &PATTERN).map_err(inaccessible)?;
    guest.rescind(page, After::Shared).map_err(|stopped| stopped.cause)?;
    shared.write_value(page.start(), &PATTERN).map_err(inaccessible)?;
    let seen: u64 = shared.read_value(page.start()).map_err(inaccessible)?;
    demand(seen == PATTERN, "a shared page does not keep what is written")?;
    guest.validate(page).map_err(|stopped| stopped.cause)?;
    demand(is_zero(machine, page)?, "a page that came back is not zero")?;
    println!("page {:#x} was shared and is private again, all zero", page.start());
    Ok(())
}

const PATTERN: u64 = 0x5a5a_0123_4567_a5a5;

/// A report over a number that nobody could know before.
fn evidence(guest: &mut Guest) -> Result<(), Stop> {
    let mut nonce = [0; REPORT_DATA];
    for word in nonce.chunks_exact_mut(8) {
        word.copy_from_slice(&cpu::random().ok_or(Stop::Wrong("the processor gives no random number"))?.to_le_bytes());
    }
    let mut report = [0; REPORT];
    let evidence = guest.attest(&nonce, &mut report)?;
    println!("report: {}", Hex(report.get(..evidence.len).unwrap_or_default()));
    println!("nonce: {}", Hex(&nonce));
    Ok(())
}

struct Hex<'a>(&'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Each fault on purpose.
fn faults(machine: &mut Machine, guest: &mut Guest) -> Result<(), Stop> {
    let page = machine.arena.take(1).ok_or(Stop::Memory("a page to lose"))?;
    let at = PRIVATE.as_u64() + page.start().as_u64();
    expect("an undefined opcode", probe::undefined(), UNDEFINED)?;
    expect("PVALIDATE", probe::pvalidate(at), GENERAL_PROTECTION)?;
    expect("CPUID", probe::cpuid(), CPUID)?;
    guest.rescind(page, After::Unassigned).map_err(|stopped| stopped.cause)?;
    expect("a page that is not validated", probe::read_byte(at), NOT_VALIDATED)
}

pub(crate) fn expect(what: &str, found: Option<Caught>, expected: Caught) -> Result<(), Stop> {
    match found {
        Some(Caught { vector, error }) => println!("{what}: exception {vector}, code {error:#x}"),
        None => println!("{what}: no exception"),
    }
    demand(found == Some(expected), "an exception is not the expected one")
}

fn is_zero(machine: &Machine, range: FrameRange) -> Result<bool, Stop> {
    let memory = machine.space.private();
    for block in range.small_blocks() {
        let mut bytes = [0xff; 4096];
        memory.read(block.start(), &mut bytes).map_err(|_| Stop::Wrong("validated memory does not answer"))?;
        if bytes.iter().any(|byte| *byte != 0) {
            return Ok(false);
        }
    }
    Ok(true)
}

pub(crate) fn demand(holds: bool, else_wrong: &'static str) -> Result<(), Stop> {
    if holds { Ok(()) } else { Err(Stop::Wrong(else_wrong)) }
}

/// An exception of a probe or of code at CPL 3, or the end.
pub(crate) fn exception(frame: &mut Frame) {
    if runtime_user::caught(frame) || probe::caught(frame) {
        return;
    }
    let Frame { vector, error, rip, .. } = *frame;
    println!("exception {vector} with code {error:#x} at {rip:#x}, CR2 {:#x}", cpu::fault_address());
    end::terminate(EXCEPTION)
}
