//! What the processors share: the machine, and what was derived from it.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;

use machine::{Frames, Machine, PAGE_SIZE, Reached, RunKey, Vcpu};
use spin::{Mutex, Once};

use crate::console::{self, Line};
use crate::cpu::{self, Cpu, Extended};
use crate::ending::{Ending, end, quit};
use crate::frames::{MEMORY, Page};
use crate::nested::{Mapping, Tables};

/// The one world.
pub(crate) static WORLD: Once<Mutex<World>> = Once::new();

/// Pages of ciphertext that are kept. Guests rarely look at one.
const CIPHERTEXTS: usize = 256;

/// The machine with its nested tables.
pub(crate) struct World {
    pub(crate) machine: Machine,
    pub(crate) tables: [Tables; 4],
    /// Some guest page is backed by a system page of another number: then a change of a system page may concern any.
    is_moved: bool,
    /// Copies of private pages as they look without the C-bit, by system page.
    ciphertexts: BTreeMap<u64, u64>,
    /// By VMSA; a page that becomes one again is another.
    extended: BTreeMap<RunKey, Box<Extended>>,
    lines: [Line; 4],
    /// For whom wants figures: what each VMPL has run for.
    figures: Option<[Run; 4]>,
}

/// What a VMPL has run for, on all processors.
#[derive(Clone, Copy, Debug, Default)]
struct Run {
    has_begun: bool,
    ticks: u64,
}

impl World {
    /// The world of a machine that is launched.
    pub(crate) fn new(machine: Machine, figures: bool) -> Self {
        Self {
            figures: figures.then(Default::default),
            machine,
            tables: core::array::from_fn(|_| Tables::new()),
            is_moved: false,
            ciphertexts: BTreeMap::new(),
            extended: BTreeMap::new(),
            lines: Default::default(),
        }
    }

    /// Maps what a level has reached on processor `me`, for that level alone, in one half of its tables.
    pub(crate) fn map(&mut self, me: u8, vmpl: u8, gpa: u64, private: bool, reached: Reached) {
        let page = gpa / PAGE_SIZE;
        self.is_moved |= page != reached.spa_page;
        let to = if reached.ciphertext { self.ciphertext(me, gpa, reached) } else { MEMORY.address(reached.spa_page) };
        let mapping = Mapping { to, write: reached.write && !reached.ciphertext, execute: reached.execute };
        if let Some(tables) = self.tables.get(usize::from(vmpl))
            && !tables.map(gpa, private, mapping)
        {
            end(Ending::Broken, format_args!("no nested table reaches {gpa:#x}"));
        }
    }

    /// A page that shows what the host sees of a private one.
    fn ciphertext(&mut self, me: u8, gpa: u64, reached: Reached) -> u64 {
        if let Some(at) = self.ciphertexts.get(&reached.spa_page) {
            return *at;
        }
        let oldest = (self.ciphertexts.len() >= CIPHERTEXTS).then(|| self.ciphertexts.pop_first()).flatten();
        let slot = match oldest {
            Some((_, at)) => {
                // It may be mapped somewhere.
                self.forget_all();
                cpu::drive_out_others(me);
                at
            }
            None => Page::leak(),
        };
        let mut bytes = [0; PAGE_SIZE as usize];
        self.machine.host_read(gpa & !(PAGE_SIZE - 1), &mut bytes);
        // SAFETY: the page is ours, and a guest at most reads it.
        unsafe { core::ptr::copy_nonoverlapping(bytes.as_ptr(), slot as *mut u8, bytes.len()) };
        self.ciphertexts.insert(reached.spa_page, slot);
        slot
    }

    fn forget_all(&self) {
        self.tables.iter().for_each(Tables::clear);
    }

    /// Forgets a page at all levels; true if one had it mapped.
    fn forget(&self, page: u64) -> bool {
        let gpa = page.wrapping_mul(PAGE_SIZE);
        self.tables.iter().fold(false, |was, tables| tables.unmap(gpa) | was)
    }

    /// After the machine has done anything: drops what does not hold any more, on all processors, and passes on what was said.
    /// `writer` is the VMPL whose request the host served, if it did.
    pub(crate) fn settle(&mut self, me: u8, writer: Option<u8>) {
        let changes = self.machine.take_changes();
        let mut was_mapped = false;
        if self.is_moved && !changes.system.is_empty() {
            self.forget_all();
            was_mapped = true;
        }
        for (first, count) in changes.system.into_iter().chain(changes.guest) {
            for page in first..first.saturating_add(count) {
                was_mapped |= self.forget(page);
            }
        }
        if was_mapped {
            cpu::drive_out_others(me);
        }
        for id in (0..self.machine.config().vcpus).filter(|id| *id != me) {
            if self.machine.is_wanted(Vcpu(id)) {
                cpu::kick(id);
            }
        }
        for event in self.machine.take_trace() {
            console::trace(format_args!("{event}"));
        }
        self.pass_on(me, writer);
    }

    /// Console and result.
    fn pass_on(&mut self, me: u8, writer: Option<u8>) {
        for write in self.machine.take_port_writes() {
            let vmpl = writer.unwrap_or(0);
            match write.port {
                image_layout::CONSOLE_PORT => {
                    // One character.
                    let byte = write.value as u8;
                    if let Some(line) = self.lines.get_mut(usize::from(vmpl)) {
                        line.push(vmpl, byte);
                    }
                }
                image_layout::MARK_PORT => {
                    console::say(format_args!("mark {} vcpu={me} {}", write.value, self.counted()));
                }
                image_layout::RESULT_PORT => self.finish(write.value),
                _ => {}
            }
        }
    }

    fn figures(&mut self, vmpl: u8) -> Option<&mut Run> {
        self.figures.as_mut()?.get_mut(usize::from(vmpl))
    }

    /// A VMPL is about to run on some processor.
    pub(crate) fn is_entered(&mut self, vmpl: u8) {
        if let Some(run) = self.figures(vmpl)
            && !core::mem::replace(&mut run.has_begun, true)
        {
            console::say(format_args!("VMPL{vmpl} begins"));
        }
    }

    /// A VMPL has run on a processor.
    pub(crate) fn has_run(&mut self, vmpl: u8, cpu: &Cpu) {
        if let Some(run) = self.figures(vmpl) {
            run.ticks = run.ticks.wrapping_add(cpu.ticks);
        }
    }

    /// Prints what is left of lines.
    pub(crate) fn flush(&mut self) {
        for (vmpl, line) in (0..).zip(&mut self.lines) {
            if !line.is_empty() {
                line.flush(vmpl);
            }
        }
    }

    /// What all levels have executed so far.
    fn counted(&self) -> String {
        let sum = self.machine.total_counters();
        let mut text = format!(
            "pvalidate={} rmpadjust={} vmgexit={} vmrun={}",
            sum.pvalidate, sum.rmpadjust, sum.vmgexit, sum.vmruns
        );
        for (vmpl, run) in (0..).zip(self.figures.iter().flatten()) {
            text += &format!(" ticks{vmpl}={}", run.ticks);
        }
        text
    }

    /// A level said how it ended.
    fn finish(&mut self, result: u32) -> ! {
        self.flush();
        for violation in self.machine.violations() {
            console::say(format_args!("violation {violation}"));
        }
        console::say(format_args!("counters {}", self.counted()));
        console::say(format_args!("result {result}"));
        quit(if result == 0 { Ending::Success } else { Ending::Failure })
    }

    /// Puts the extended state of a VMSA into the registers, and that of the one before away.
    pub(crate) fn switch_extended(&mut self, cpu: &mut Cpu, key: RunKey, xcr0: u64) {
        if cpu.extended == Some(key) {
            return;
        }
        self.put_extended_away(cpu);
        self.extended.entry(key).or_insert_with(|| Extended::new(xcr0)).restore();
        cpu.extended = Some(key);
    }

    /// Stores the extended state that is in the registers, so that another processor can have it.
    pub(crate) fn put_extended_away(&mut self, cpu: &mut Cpu) {
        if let Some(state) = cpu.extended.take().and_then(|old| self.extended.get_mut(&old)) {
            state.save();
        }
    }

    /// Copies from guest memory as a level sees it; false if it may not.
    pub(crate) fn read(&self, vmpl: u8, gpa: u64, private: bool, out: &mut [u8]) -> bool {
        let Some(reached) = self.machine.reaches(vmpl, gpa, private, machine::Reach::Read) else { return false };
        if reached.ciphertext {
            return false;
        }
        // The range stays in the page, or `Frames` gives zeros.
        MEMORY.read(reached.spa_page, (gpa % PAGE_SIZE) as usize, out);
        true
    }

    /// Copies to guest memory as a level sees it; false if it may not.
    pub(crate) fn write(&self, vmpl: u8, gpa: u64, private: bool, bytes: &[u8]) -> bool {
        let Some(reached) = self.machine.reaches(vmpl, gpa, private, machine::Reach::Write) else { return false };
        MEMORY.write(reached.spa_page, (gpa % PAGE_SIZE) as usize, bytes);
        true
    }
}
