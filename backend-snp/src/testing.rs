//! A scripted machine for unit tests: memory with two views, and a port whose exits a closure serves as the host.

use core::cell::{Ref, RefCell, RefMut};
use core::fmt;
use std::boxed::Box;
use std::rc::Rc;
use std::string::String;
use std::vec;
use std::vec::Vec;

use coco_part_api::vcpu::frame_at;
use coco_part_api::{Error, ErrorKind, FrameRange, GuestMemory};
use x86_64::PhysAddr;
use x86_64::structures::paging::PhysFrame;

use crate::abi::rmp::{PvalidateCode, RmpAttributes, RmpCode};
use crate::abi::vmpl::Vmpl;
use crate::instr::{CallFrame, Fault, Invlpgb, Page, PageSize, Port, PvalidateOp, PvalidateResult, RmpQueryResult};

/// Fails to compile when a type implements a trait that it must not: the function is then there twice.
macro_rules! assert_not_impl {
    ($Type:ty: $Trait:path) => {
        const _: fn() = || {
            trait Once<A> {
                fn there() {}
            }
            impl<T: ?Sized> Once<()> for T {}
            struct Implements;
            impl<T: ?Sized + $Trait> Once<Implements> for T {}
            let _ = <$Type as Once<_>>::there;
        };
    };
}
pub(crate) use assert_not_impl;

/// Bytes of the memory, from address 0.
pub(crate) const RAM: usize = 1 << 20;

/// An access that left the memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Outside;

impl fmt::Display for Outside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("outside")
    }
}

impl core::error::Error for Outside {}

impl Error for Outside {
    fn kind(&self) -> ErrorKind {
        ErrorKind::Inaccessible
    }
}

/// One view of memory. Clones see the same bytes. Reads are counted by address.
#[derive(Clone)]
pub(crate) struct Memory {
    bytes: Rc<RefCell<Vec<u8>>>,
    reads: Rc<RefCell<Vec<(u64, usize)>>>,
}

impl Memory {
    pub(crate) fn new() -> Self {
        Self { bytes: Rc::new(RefCell::new(vec![0; RAM])), reads: Rc::default() }
    }

    /// The bytes, past all rules.
    pub(crate) fn bytes(&self) -> RefMut<'_, Vec<u8>> {
        self.bytes.borrow_mut()
    }

    /// Address and length of every read so far.
    pub(crate) fn reads(&self) -> Ref<'_, Vec<(u64, usize)>> {
        self.reads.borrow()
    }

    pub(crate) fn byte(&self, at: usize) -> u8 {
        self.bytes()[at]
    }

    pub(crate) fn word(&self, at: usize) -> u64 {
        u64::from_le_bytes(*self.bytes()[at..].first_chunk().unwrap())
    }

    pub(crate) fn set_word(&self, at: usize, value: u64) {
        self.bytes()[at..at + 8].copy_from_slice(&value.to_le_bytes());
    }

    fn part<T>(&self, at: PhysAddr, len: usize, act: impl FnOnce(&mut [u8]) -> T) -> Result<T, Outside> {
        let at = at.as_u64() as usize;
        self.bytes().get_mut(at..at.saturating_add(len)).map(act).ok_or(Outside)
    }
}

impl GuestMemory for Memory {
    type Fault = Outside;

    fn read(&self, at: PhysAddr, into: &mut [u8]) -> Result<(), Outside> {
        self.reads.borrow_mut().push((at.as_u64(), into.len()));
        self.part(at, into.len(), |part| into.copy_from_slice(part))
    }

    fn write(&self, at: PhysAddr, from: &[u8]) -> Result<(), Outside> {
        self.part(at, from.len(), |part| part.copy_from_slice(from))
    }

    fn zero(&self, range: FrameRange) -> Result<(), Outside> {
        self.part(range.start(), range.bytes() as usize, |part| part.fill(0))
    }

    fn swap_u8(&self, at: PhysAddr, value: u8) -> Result<u8, Outside> {
        self.part(at, 1, |part| core::mem::replace(&mut part[0], value))
    }

    fn compare_exchange_u64(&self, at: PhysAddr, expected: u64, new: u64) -> Result<u64, Outside> {
        self.part(at, 8, |part| {
            let old = u64::from_le_bytes(*part.first_chunk().unwrap());
            if old == expected {
                part.copy_from_slice(&new.to_le_bytes());
            }
            old
        })
    }
}

/// What the host sees at an exit.
pub(crate) struct Exit<'a> {
    /// The GHCB MSR; what the host leaves here is its answer.
    pub(crate) msr: &'a mut u64,
    /// The registers, where the exit carries some.
    pub(crate) regs: Option<&'a mut CallFrame>,
    /// How many exits came before.
    pub(crate) count: usize,
}

/// The instructions of one vCPU, with a closure as the host.
pub(crate) struct MockPort {
    pub(crate) msr: u64,
    pub(crate) sev_status: u64,
    /// The own level, as RMPADJUST sees it.
    pub(crate) vmpl: u8,
    /// What RMPADJUST says instead of the truth.
    pub(crate) rmpadjust: Option<Result<RmpCode, Fault>>,
    pub(crate) adjusted: Vec<(u64, RmpAttributes)>,
    /// The GHCB MSR at every exit.
    pub(crate) exits: Vec<u64>,
    pub(crate) pauses: usize,
    /// Halts left until the test gives up, by panicking.
    pub(crate) halts: usize,
    pub(crate) host: Host,
}

pub(crate) type Host = Box<dyn FnMut(Exit<'_>)>;

impl MockPort {
    pub(crate) fn new(host: impl FnMut(Exit<'_>) + 'static) -> Self {
        Self {
            msr: 0xabc_0000,
            sev_status: 0x7,
            vmpl: 2,
            rmpadjust: None,
            adjusted: Vec::new(),
            exits: Vec::new(),
            pauses: 0,
            halts: 1000,
            host: Box::new(host),
        }
    }

    fn exit(&mut self, regs: Option<&mut CallFrame>) {
        let count = self.exits.len();
        self.exits.push(self.msr);
        (self.host)(Exit { msr: &mut self.msr, regs, count });
    }
}

impl Port for MockPort {
    fn pvalidate(&mut self, _page: Page, _op: PvalidateOp) -> Result<PvalidateResult, Fault> {
        if self.vmpl != 0 {
            return Err(Fault::GeneralProtection);
        }
        Ok(PvalidateResult { code: PvalidateCode::SUCCESS, carry: false })
    }

    fn rmpadjust(&mut self, page: Page, attributes: RmpAttributes) -> Result<RmpCode, Fault> {
        self.adjusted.push((page.at().as_u64(), attributes));
        if let Some(scripted) = self.rmpadjust {
            return scripted;
        }
        let below = attributes.target_number() > u64::from(self.vmpl);
        Ok(if below { RmpCode::SUCCESS } else { RmpCode::FAIL_PERMISSION })
    }

    fn rmpquery(&mut self, _at: PhysAddr, _target: Vmpl) -> Result<RmpQueryResult, Fault> {
        let attributes = RmpAttributes::from_bits_retain(0);
        Ok(RmpQueryResult { code: RmpCode::SUCCESS, attributes, size: PageSize::Size4KiB })
    }

    fn vmgexit(&mut self) {
        self.exit(None);
    }

    fn vmgexit_call(&mut self, regs: &mut CallFrame) {
        self.exit(Some(regs));
    }

    fn read_ghcb_msr(&mut self) -> u64 {
        self.msr
    }

    fn write_ghcb_msr(&mut self, value: u64) {
        self.msr = value;
    }

    fn read_sev_status(&mut self) -> u64 {
        self.sev_status
    }

    fn invlpgb(&mut self, _request: Invlpgb) {}

    fn tlbsync(&mut self) {}

    fn pause(&mut self) {
        self.pauses += 1;
    }

    fn halt(&mut self) {
        self.halts = self.halts.checked_sub(1).expect("the test has seen enough halts");
    }
}

/// A host that must not be asked.
pub(crate) fn no_host() -> MockPort {
    MockPort::new(|_| panic!("unexpected exit"))
}

/// Offset of SW_EXITCODE in a GHCB page (fact table `ghcb_page`).
pub(crate) const EXIT_CODE: usize = 0x390;
/// Offset of SW_EXITINFO1.
pub(crate) const INFO_1: usize = 0x398;
/// Offset of SW_EXITINFO2.
pub(crate) const INFO_2: usize = 0x3a0;
/// Offset of the valid bitmap.
pub(crate) const BITMAP: usize = 0x3f0;

/// Writes an answer into the GHCB page at `at`, with the valid bits of both status words and no others.
pub(crate) fn reply(memory: &Memory, at: u64, info_1: u64, info_2: u64) {
    let at = at as usize;
    memory.set_word(at + INFO_1, info_1);
    memory.set_word(at + INFO_2, info_2);
    memory.bytes()[at + BITMAP..][..16].fill(0);
    // Bits 115 and 116.
    memory.bytes()[at + BITMAP + 14] = 0x18;
}

pub(crate) fn frame(at: u64) -> PhysFrame {
    frame_at(at).unwrap()
}

pub(crate) fn range(start: u64, len: u64) -> FrameRange {
    FrameRange::new(PhysAddr::new(start), len).unwrap()
}

/// The cells of every row of a fact table behind its header.
pub(crate) fn rows(table: &str) -> Vec<Vec<String>> {
    table.lines().skip(1).map(cells).collect()
}

/// The cells of a line: between quotation marks a comma is text.
fn cells(line: &str) -> Vec<String> {
    let mut open = false;
    let ends = |c: char| {
        open ^= c == '"';
        c == ',' && !open
    };
    line.split(ends).map(|cell| cell.replace('"', "")).collect()
}

/// A number, decimal or with `0x`.
pub(crate) fn number(text: &str) -> Option<u64> {
    text.strip_prefix("0x").map_or_else(|| text.parse(), |digits| u64::from_str_radix(digits, 16)).ok()
}
