//! A small machine and host for the tests of this module: RMP, VMSAs that run or not, GHCB answers, and a log.
//!
//! It keeps the rules that the code under test leans on and no more; the whole machine is another crate.

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

pub(super) struct MockPort(Machine);

impl Port for MockPort {
    fn pvalidate(&mut self, page: Page, op: PvalidateOp) -> Result<PvalidateResult, Fault> {
        let mut world = self.0.0.borrow_mut();
        let (at, large, valid) = (page.at().as_u64(), page.size() == PageSize::Size2MiB, op == PvalidateOp::Validate);
        world.log.push(Did::Pvalidate { at, large, valid });
        match world.is_broken() {
            Some(Broken::Code(code)) => return Ok(PvalidateResult { code: PvalidateCode(code), carry: false }),
            Some(Broken::Fault) => return Err(Fault::GeneralProtection),
            None => {}
        }
        if large && world.small.contains(&(at >> 21)) {
            return Ok(PvalidateResult { code: PvalidateCode::FAIL_SIZEMISMATCH, carry: false });
        }
        let frames = World::frames_of(page.at(), large);
        if frames.clone().any(|frame| !world.entry(frame).assigned) {
            return Err(Fault::Vc { code: 0x400 });
        }
        if !large {
            world.small.insert(at >> 21);
        }
        let carry = frames.clone().all(|frame| world.entry(frame).valid == valid);
        for frame in frames {
            let entry = world.entry(frame);
            world.rmp.insert(frame, Entry { valid, ..entry });
        }
        Ok(PvalidateResult { code: PvalidateCode::SUCCESS, carry })
    }

    fn rmpadjust(&mut self, page: Page, attributes: RmpAttributes) -> Result<RmpCode, Fault> {
        let mut world = self.0.0.borrow_mut();
        let (at, large) = (page.at().as_u64(), page.size() == PageSize::Size2MiB);
        // Three bits of level, five of rights.
        let (vmpl, rights) = (attributes.target_number() as u8, attributes.permission_bits() as u8);
        if let Some(before) = world.before_adjust.take() {
            before(&mut world);
        }
        world.log.push(Did::Rmpadjust { at, large, vmpl, rights, vmsa: attributes.is_vmsa() });
        match world.is_broken() {
            Some(Broken::Code(code)) => return Ok(RmpCode(code)),
            Some(Broken::Fault) => return Err(Fault::GeneralProtection),
            None => {}
        }
        let frames = World::frames_of(page.at(), large);
        if frames.clone().any(|frame| !world.entry(frame).valid) {
            return Err(Fault::Vc { code: 0x404 });
        }
        if large && world.small.contains(&(at >> 21)) {
            return Ok(RmpCode::FAIL_SIZEMISMATCH);
        }
        if frames.clone().any(|frame| world.running.contains_key(&frame)) {
            return Ok(RmpCode::FAIL_INUSE);
        }
        for frame in frames {
            let mut entry = world.entry(frame);
            entry.rights[usize::from(vmpl)] = rights;
            entry.vmsa = attributes.is_vmsa();
            world.rmp.insert(frame, entry);
        }
        if attributes.is_vmsa()
            && let Some(then) = world.after_mark.take()
        {
            then(&mut world);
        }
        Ok(RmpCode::SUCCESS)
    }

    fn rmpquery(&mut self, _at: PhysAddr, _target: Vmpl) -> Result<RmpQueryResult, Fault> {
        Err(Fault::InvalidOpcode)
    }

    fn vmgexit(&mut self) {
        let runs = self.0.with(|world| {
            let request = world.ghcb_msr;
            if request & 0xfff == 0 {
                let runs = world.quad(request + 0x390) == 0x8000_0018;
                world.ghcb();
                runs
            } else {
                world.ghcb_msr = world.msr_protocol(request);
                request & 0xfff == 0x016
            }
        });
        let script = if runs { self.0.with(|world| world.script.pop_front()) } else { None };
        if let Some(script) = script {
            script(&self.0);
        }
    }

    fn vmgexit_call(&mut self, _regs: &mut CallFrame) {
        panic!("L1 calls nobody");
    }

    fn read_ghcb_msr(&mut self) -> u64 {
        self.0.with(|world| world.ghcb_msr)
    }

    fn write_ghcb_msr(&mut self, value: u64) {
        self.0.with(|world| world.ghcb_msr = value);
    }

    fn read_sev_status(&mut self) -> u64 {
        self.0.with(|world| world.sev_status)
    }

    fn invlpgb(&mut self, request: Invlpgb) {
        assert_eq!(request, Invlpgb::everything());
        self.0.with(|world| world.log.push(Did::Invlpgb));
    }

    fn tlbsync(&mut self) {
        self.0.with(|world| world.log.push(Did::Tlbsync));
    }

    fn pause(&mut self) {
        self.0.with(|world| world.log.push(Did::Pause));
    }

    fn halt(&mut self) {
        panic!("nothing halts here");
    }
}

#[derive(Clone)]
pub(super) struct MockMemory {
    machine: Machine,
    private: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Unreachable;

impl core::fmt::Display for Unreachable {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("no such memory")
    }
}

impl core::error::Error for Unreachable {}

impl Error for Unreachable {
    fn kind(&self) -> ErrorKind {
        ErrorKind::Inaccessible
    }
}

impl MockMemory {
    fn check(&self, world: &World, at: u64) -> Result<(), Unreachable> {
        let entry = world.entry(at >> 12);
        let reachable = if self.private { entry.assigned && entry.valid } else { !entry.assigned };
        if at < RAM && reachable { Ok(()) } else { Err(Unreachable) }
    }

    /// A store into a VMSA that runs.
    fn wait_for_vmsa(world: &mut World, at: u64) {
        if world.store == VmsaStore::Waits && world.running.contains_key(&(at >> 12)) {
            world.exit(at & !0xfff, ExitCode::INTR);
        }
    }

    fn step(world: &mut World) -> Result<(), Unreachable> {
        if world.is_broken().is_some() { Err(Unreachable) } else { Ok(()) }
    }
}

impl GuestMemory for MockMemory {
    type Fault = Unreachable;

    fn read(&self, at: PhysAddr, into: &mut [u8]) -> Result<(), Unreachable> {
        let world = self.machine.0.borrow();
        self.check(&world, at.as_u64())?;
        let start = (at.as_u64() & 0xfff) as usize;
        into.copy_from_slice(&world.page(at.as_u64() >> 12)[start..start + into.len()]);
        Ok(())
    }

    fn write(&self, at: PhysAddr, from: &[u8]) -> Result<(), Unreachable> {
        let mut world = self.machine.0.borrow_mut();
        self.check(&world, at.as_u64())?;
        if self.private {
            Self::step(&mut world)?;
            Self::wait_for_vmsa(&mut world, at.as_u64());
        }
        world.put(at.as_u64(), from);
        Ok(())
    }

    fn zero(&self, range: FrameRange) -> Result<(), Unreachable> {
        let mut world = self.machine.0.borrow_mut();
        if self.private {
            world.log.push(Did::Zero { at: range.start().as_u64(), frames: range.frames() });
            Self::step(&mut world)?;
        }
        for frame in range.first_number()..range.first_number() + range.frames() {
            self.check(&world, frame << 12)?;
            world.pages.insert(frame, [0; 4096]);
        }
        Ok(())
    }

    fn swap_u8(&self, at: PhysAddr, value: u8) -> Result<u8, Unreachable> {
        let mut world = self.machine.0.borrow_mut();
        self.check(&world, at.as_u64())?;
        Self::step(&mut world)?;
        let old = world.page(at.as_u64() >> 12)[(at.as_u64() & 0xfff) as usize];
        world.put(at.as_u64(), &[value]);
        Ok(old)
    }

    fn compare_exchange_u64(&self, at: PhysAddr, expected: u64, new: u64) -> Result<u64, Unreachable> {
        let mut world = self.machine.0.borrow_mut();
        self.check(&world, at.as_u64())?;
        Self::step(&mut world)?;
        Self::wait_for_vmsa(&mut world, at.as_u64());
        let old = world.quad(at.as_u64());
        if old == expected {
            world.put(at.as_u64(), &new.to_le_bytes());
        }
        Ok(old)
    }
}

pub(super) fn frame(at: u64) -> PhysFrame {
    PhysFrame::from_start_address(PhysAddr::new(at)).unwrap()
}
