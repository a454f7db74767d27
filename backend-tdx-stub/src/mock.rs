//! A port that follows a script, and memory that a test can look into.

use std::boxed::Box;
use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use coco_part_api::{Error, ErrorKind, FrameRange, GuestLevel, GuestMemory};
use x86_64::PhysAddr;

use crate::abi::leaves::Leaf;
use crate::abi::regs::Regs;
use crate::port::Port;

/// Bytes of RAM.
pub(crate) const RAM: u64 = 64 << 20;

/// One thing that the code under test has to do next.
enum Step {
    Call { takes: Regs, gives: Regs },
    Enter { takes: Regs, gives: Regs, during: Box<dyn FnOnce()> },
    Reset(GuestLevel),
    Pause,
}

/// A script of TDCALLs: each has to come with exactly these registers. What is left over at the end fails the test.
#[derive(Clone, Default)]
pub(crate) struct Script(Rc<RefCell<VecDeque<Step>>>);

impl Script {
    fn push(&self, step: Step) -> &Self {
        self.0.borrow_mut().push_back(step);
        self
    }

    /// A TDCALL with these operands, which ends with these registers.
    pub(crate) fn call(&self, leaf: Leaf, takes: Regs, gives: Regs) -> &Self {
        self.push(Step::Call { takes: Regs { rax: leaf.to_rax(), ..takes }, gives })
    }

    /// A TDG.VP.ENTER; `during` happens while the level runs.
    pub(crate) fn enter(&self, rcx: u64, rdx: u64, gives: Regs, during: impl FnOnce() + 'static) -> &Self {
        let takes = Regs { rax: Leaf::VP_ENTER.to_rax(), rcx, rdx, ..Regs::default() };
        self.push(Step::Enter { takes, gives, during: Box::new(during) })
    }

    /// The level begins with the values after reset in what the module does not switch.
    pub(crate) fn reset(&self, level: GuestLevel) -> &Self {
        self.push(Step::Reset(level))
    }

    /// A pause.
    pub(crate) fn pause(&self) -> &Self {
        self.push(Step::Pause)
    }

    /// Checks that everything has been done.
    pub(crate) fn done(&self) {
        assert_eq!(self.0.borrow().len(), 0, "steps left over");
    }

    fn next(&self, what: &str) -> Step {
        self.0.borrow_mut().pop_front().unwrap_or_else(|| panic!("{what} beyond the script"))
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        if Rc::strong_count(&self.0) == 1 && !std::thread::panicking() {
            self.done();
        }
    }
}

impl Port for Script {
    fn tdcall(&mut self, regs: &mut Regs) {
        match self.next("TDCALL") {
            Step::Call { takes, gives } => {
                assert_eq!(*regs, takes, "leaf {}", regs.rax);
                *regs = gives;
            }
            Step::Enter { takes, .. } => panic!("TDCALL {regs:x?} instead of entering {takes:x?}"),
            Step::Reset(_) | Step::Pause => panic!("TDCALL {regs:x?} out of turn"),
        }
    }

    fn enter(&mut self, regs: &mut Regs) {
        match self.next("enter") {
            Step::Enter { takes, gives, during } => {
                assert_eq!(*regs, takes);
                during();
                *regs = gives;
            }
            Step::Call { takes, .. } => panic!("enter {regs:x?} instead of {takes:x?}"),
            Step::Reset(_) | Step::Pause => panic!("enter {regs:x?} out of turn"),
        }
    }

    fn reset(&mut self, level: GuestLevel) {
        assert!(
            matches!(self.next("reset"), Step::Reset(wanted) if wanted == level),
            "a reset of {level:?} out of turn"
        );
    }

    fn pause(&mut self) {
        assert!(matches!(self.next("pause"), Step::Pause), "a pause out of turn");
    }
}

/// Memory with an address that can be made to fault.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ram(Rc<RefCell<Contents>>);

#[derive(Debug, Default)]
struct Contents {
    bytes: BTreeMap<u64, u8>,
    broken: Option<u64>,
}

/// An access that did not happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fault;

impl core::fmt::Display for Fault {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("fault")
    }
}

impl core::error::Error for Fault {}

impl Error for Fault {
    fn kind(&self) -> ErrorKind {
        ErrorKind::Inaccessible
    }
}

impl Ram {
    /// From now on accesses to the page of `at` fault.
    pub(crate) fn break_at(&self, at: u64) {
        self.0.borrow_mut().broken = Some(at & !0xfff);
    }

    /// All bytes that are not zero, to compare before with after.
    pub(crate) fn snapshot(&self) -> BTreeMap<u64, u8> {
        self.0.borrow().bytes.iter().filter(|(_, byte)| **byte != 0).map(|(at, byte)| (*at, *byte)).collect()
    }

    fn check(&self, at: PhysAddr, len: u64) -> Result<u64, Fault> {
        let first = at.as_u64();
        let last = first + len.max(1) - 1;
        let broken = self.0.borrow().broken.is_some_and(|page| first & !0xfff <= page && page <= last);
        if last < RAM && !broken { Ok(first) } else { Err(Fault) }
    }
}

impl GuestMemory for Ram {
    type Fault = Fault;

    fn read(&self, at: PhysAddr, into: &mut [u8]) -> Result<(), Fault> {
        let first = self.check(at, into.len() as u64)?;
        let contents = self.0.borrow();
        for (at, byte) in (first..).zip(into) {
            *byte = contents.bytes.get(&at).copied().unwrap_or(0);
        }
        Ok(())
    }

    fn write(&self, at: PhysAddr, from: &[u8]) -> Result<(), Fault> {
        let first = self.check(at, from.len() as u64)?;
        self.0.borrow_mut().bytes.extend((first..).zip(from.iter().copied()));
        Ok(())
    }

    fn zero(&self, range: FrameRange) -> Result<(), Fault> {
        let first = self.check(range.start(), range.bytes())?;
        self.0.borrow_mut().bytes.extend((first..first + range.bytes()).map(|at| (at, 0)));
        Ok(())
    }

    fn swap_u8(&self, at: PhysAddr, value: u8) -> Result<u8, Fault> {
        let mut old = [0];
        self.read(at, &mut old)?;
        self.write(at, &[value])?;
        Ok(old[0])
    }

    fn compare_exchange_u64(&self, at: PhysAddr, expected: u64, new: u64) -> Result<u64, Fault> {
        let old = self.read_value::<u64>(at)?;
        if old == expected {
            self.write_value(at, &new)?;
        }
        Ok(old)
    }
}
