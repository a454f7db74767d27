//! A small machine and host for the tests of this module: RMP, VMSAs that run or not, GHCB answers, and a log.
//!
//! It keeps the rules that the code under test leans on and no more; the whole machine is another crate.

mod memory;
mod port;

use std::boxed::Box;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::vec::Vec;

use coco_part_api::{Error, ErrorKind, FrameRange, GuestMemory};
use x86_64::PhysAddr;
use x86_64::structures::paging::PhysFrame;

use crate::abi::exit_codes::ExitCode;
use crate::abi::vmsa::Vmsa;
use crate::instr::{
    CallFrame, Fault, Invlpgb, Page, PageSize, Port, PvalidateCode, PvalidateOp, PvalidateResult, RmpAttributes,
    RmpCode, RmpQueryResult, Vmpl,
};

pub(super) use memory::MockMemory;
pub(super) use port::MockPort;

pub(super) const RAM: u64 = 64 << 20;
pub(super) type PageBytes = [u8; 4096];

/// What the code under test did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Did {
    Pvalidate {
        at: u64,
        large: bool,
        valid: bool,
    },
    Rmpadjust {
        at: u64,
        large: bool,
        vmpl: u8,
        rights: u8,
        vmsa: bool,
    },
    Zero {
        at: u64,
        frames: u64,
    },
    Invlpgb,
    Tlbsync,
    /// Page state of a run of frames.
    PageState {
        at: u64,
        frames: u64,
        private: bool,
    },
    Run(u8),
    ApCreation {
        request: u64,
        vmpl: u64,
        apic_id: u64,
        vmsa: u64,
    },
    GuestRequest,
    Pause,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) assigned: bool,
    pub(super) valid: bool,
    pub(super) vmsa: bool,
    pub(super) rights: [u8; 4],
}

/// What a store into a VMSA that runs does (threats 0.4.7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum VmsaStore {
    Waits,
    Plain,
}

/// How a step is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Broken {
    Code(u32),
    Fault,
}

type Script = Box<dyn FnOnce(&Machine)>;
type Hook = Box<dyn FnOnce(&mut World)>;
type Firmware = Box<dyn FnMut(&mut World, u64, u64)>;

pub(super) struct World {
    pub(super) pages: BTreeMap<u64, PageBytes>,
    pub(super) rmp: BTreeMap<u64, Entry>,
    /// 2 MiB blocks that the RMP holds as small entries.
    pub(super) small: BTreeSet<u64>,
    pub(super) log: Vec<Did>,
    pub(super) ghcb_msr: u64,
    pub(super) sev_status: u64,
    pub(super) hv_features: u64,
    pub(super) versions: (u64, u64),
    /// Registers of VMSAs that run, by frame number.
    pub(super) running: BTreeMap<u64, PageBytes>,
    pub(super) store: VmsaStore,
    /// Steps (instruction, zeroing, store) until one is broken.
    pub(super) breaks: Option<(u32, Broken)>,
    /// Further steps that break right after it.
    pub(super) breaks_again: u32,
    pub(super) steps: u32,
    /// What happens while L1 waits for a run of another level.
    pub(super) script: VecDeque<Script>,
    /// After the next RMPADJUST that marks a VMSA.
    pub(super) after_mark: Option<Hook>,
    /// Before the next RMPADJUST.
    pub(super) before_adjust: Option<Hook>,
    pub(super) firmware: Option<Firmware>,
    /// Frames for which the host refuses page state changes.
    pub(super) host_keeps: BTreeSet<u64>,
    pub(super) host_does_nothing: bool,
    /// SW_EXITINFO1 and 2 of the answers to AP creation and run VMPL.
    pub(super) ap_answer: (u64, u64),
    pub(super) run_answer: (u64, u64),
    pub(super) run_msr_answer: u64,
}

#[derive(Clone)]
pub(super) struct Machine(pub(super) Rc<RefCell<World>>);

impl Machine {
    /// RAM of which the first MiB is private, valid and L1's; the rest is the host's.
    pub(super) fn new() -> Self {
        let l1 = (0..256).map(|frame| (frame, Entry { assigned: true, valid: true, ..Entry::default() }));
        Self(Rc::new(RefCell::new(World {
            pages: BTreeMap::new(),
            rmp: l1.collect(),
            small: BTreeSet::from([0]),
            log: Vec::new(),
            ghcb_msr: 0,
            sev_status: 0b111,
            hv_features: 0x23,
            versions: (1, 2),
            running: BTreeMap::new(),
            store: VmsaStore::Waits,
            breaks: None,
            breaks_again: 0,
            steps: 0,
            script: VecDeque::new(),
            after_mark: None,
            before_adjust: None,
            firmware: None,
            host_keeps: BTreeSet::new(),
            host_does_nothing: false,
            ap_answer: (0, 0),
            run_answer: (0, 0),
            run_msr_answer: 0x017,
        })))
    }

    pub(super) fn port(&self) -> MockPort {
        MockPort(self.clone())
    }

    pub(super) fn memory(&self, private: bool) -> MockMemory {
        MockMemory { machine: self.clone(), private }
    }

    pub(super) fn with<T>(&self, work: impl FnOnce(&mut World) -> T) -> T {
        work(&mut self.0.borrow_mut())
    }

    pub(super) fn take_log(&self) -> Vec<Did> {
        self.with(|world| core::mem::take(&mut world.log))
    }

    pub(super) fn on_run(&self, script: impl FnOnce(&Machine) + 'static) {
        self.with(|world| world.script.push_back(Box::new(script)));
    }

    /// Breaks the step after `steps` more.
    pub(super) fn break_after(&self, steps: u32, how: Broken) {
        self.with(|world| world.breaks = Some((steps, how)));
    }

    pub(super) fn rmp(&self) -> BTreeMap<u64, Entry> {
        self.with(|world| {
            let mut rmp = world.rmp.clone();
            rmp.retain(|_, entry| *entry != Entry::default());
            rmp
        })
    }

    pub(super) fn page(&self, at: u64) -> PageBytes {
        self.with(|world| world.page(at >> 12))
    }

    pub(super) fn poke(&self, at: u64, bytes: &[u8]) {
        self.with(|world| world.put(at, bytes));
    }
}

impl World {
    pub(super) fn page(&self, frame: u64) -> PageBytes {
        self.pages.get(&frame).copied().unwrap_or([0; 4096])
    }

    pub(super) fn put(&mut self, at: u64, bytes: &[u8]) {
        let mut page = self.page(at >> 12);
        let start = (at & 0xfff) as usize;
        page[start..start + bytes.len()].copy_from_slice(bytes);
        self.pages.insert(at >> 12, page);
    }

    pub(super) fn quad(&self, at: u64) -> u64 {
        u64::from_le_bytes(*self.page(at >> 12)[(at & 0xfff) as usize..].first_chunk().unwrap())
    }

    pub(super) fn entry(&self, frame: u64) -> Entry {
        self.rmp.get(&frame).copied().unwrap_or_default()
    }

    fn is_broken(&mut self) -> Option<Broken> {
        self.steps += 1;
        match &mut self.breaks {
            Some((0, how)) => {
                let how = *how;
                self.breaks = None;
                if self.breaks_again > 0 {
                    self.breaks_again -= 1;
                    self.breaks = Some((0, how));
                }
                Some(how)
            }
            Some((left, _)) => {
                *left -= 1;
                None
            }
            None => None,
        }
    }

    /// VMRUN, with the checks that matter here; says whether it entered.
    pub(super) fn vmrun(&mut self, at: u64) -> bool {
        let frame = at >> 12;
        let image = self.page(frame);
        let entry = self.entry(frame);
        let svme = u64::from_le_bytes(*image[0xd0..].first_chunk().unwrap()) & Vmsa::EFER_SVME != 0;
        let enters = entry.valid && entry.vmsa && svme && !self.running.contains_key(&frame);
        if enters {
            self.running.insert(frame, image);
        }
        enters
    }

    /// The exit of a VMSA that runs: all registers are saved, EFER among them.
    pub(super) fn exit(&mut self, at: u64, code: ExitCode) {
        let mut registers = self.running.remove(&(at >> 12)).expect("it runs");
        registers[0x3c0..0x3c8].copy_from_slice(&code.0.to_le_bytes());
        self.pages.insert(at >> 12, registers);
    }

    /// The level of a VMSA runs, sets its registers, puts a mark into its call area and leaves.
    pub(super) fn calls(&mut self, vmsa: u64, call_area: u64, mark: u8, rax: u64) -> bool {
        let entered = self.vmrun(vmsa);
        if entered {
            let registers = self.running.get_mut(&(vmsa >> 12)).unwrap();
            for (offset, value) in [(0x1f8, rax), (0x308, 1), (0x310, 2), (0x340, 3), (0x348, 4_u64)] {
                registers[offset..offset + 8].copy_from_slice(&value.to_le_bytes());
            }
            self.put(call_area, &[mark]);
            self.exit(vmsa, ExitCode::VMGEXIT);
        }
        entered
    }

    fn frames_of(at: PhysAddr, large: bool) -> core::ops::Range<u64> {
        let first = at.as_u64() >> 12;
        first..first + if large { 512 } else { 1 }
    }

    /// A page state change by the host: RMPUPDATE.
    fn page_state(&mut self, frames: core::ops::Range<u64>, private: bool) -> bool {
        self.log.push(Did::PageState { at: frames.start << 12, frames: frames.end - frames.start, private });
        if self.host_does_nothing {
            return true;
        }
        let is_small = frames.end - frames.start == 1;
        for frame in frames {
            if self.host_keeps.contains(&frame) {
                return false;
            }
            if is_small {
                self.small.insert(frame >> 9);
            }
            let entry = self.entry(frame);
            if entry.assigned != private {
                self.rmp.insert(frame, Entry { assigned: private, ..Entry::default() });
                self.pages.insert(frame, [0xee; 4096]);
            }
        }
        true
    }

    fn msr_protocol(&mut self, request: u64) -> u64 {
        match request & 0xfff {
            0x002 => self.versions.1 << 48 | self.versions.0 << 32 | 51 << 24 | 0x001,
            0x080 => self.hv_features << 12 | 0x081,
            0x012 => request & !0xfff | 0x013,
            0x014 => {
                let frame = request >> 12 & 0xff_ffff_ffff;
                let done = self.page_state(frame..frame + 1, request >> 52 & 0xf == 1);
                if done { 0x015 } else { 1 << 32 | 0x015 }
            }
            0x016 => {
                self.log.push(Did::Run((request >> 32) as u8));
                self.run_msr_answer
            }
            code => panic!("MSR protocol code {code:#x}"),
        }
    }

    fn ghcb(&mut self) {
        let ghcb = self.ghcb_msr;
        let [code, info_1, info_2] = [0x390, 0x398, 0x3a0].map(|offset| self.quad(ghcb + offset));
        let answer = match code {
            0x8000_0010 => self.psc_list(ghcb + 0x800),
            0x8000_0011 => {
                self.log.push(Did::GuestRequest);
                if let Some(mut firmware) = self.firmware.take() {
                    firmware(self, info_1, info_2);
                    self.firmware = Some(firmware);
                }
                (0, 0)
            }
            0x8000_0013 => {
                let (request, vmpl, apic_id) = (info_1 & 0xffff, info_1 >> 16 & 0xf, info_1 >> 32);
                self.log.push(Did::ApCreation { request, vmpl, apic_id, vmsa: info_2 });
                self.ap_answer
            }
            0x8000_0018 => {
                self.log.push(Did::Run(info_1 as u8));
                self.run_answer
            }
            code => panic!("event {code:#x}"),
        };
        self.put(ghcb + 0x398, &answer.0.to_le_bytes());
        self.put(ghcb + 0x3a0, &answer.1.to_le_bytes());
    }

    fn psc_list(&mut self, at: u64) -> (u64, u64) {
        let header = self.quad(at);
        let (mut cursor, end) = (header & 0xffff, header >> 16 & 0xffff);
        let mut error = 0;
        while cursor <= end {
            let entry = self.quad(at + 8 + cursor * 8);
            let (first, private, large) = (entry >> 12 & 0xff_ffff_ffff, entry >> 52 & 0xf == 1, entry >> 56 & 1 == 1);
            if !self.page_state(first..first + if large { 512 } else { 1 }, private) {
                error = 0x100 << 32;
                break;
            }
            cursor += 1;
        }
        self.put(at, &(cursor | end << 16).to_le_bytes());
        (0, error)
    }
}

pub(super) fn frame(at: u64) -> PhysFrame {
    PhysFrame::from_start_address(PhysAddr::new(at)).unwrap()
}
