//! Code, memory and a host for one instruction.

use std::collections::{BTreeMap, VecDeque};
use std::vec;
use std::vec::Vec;

use x86_64::PhysAddr;
use zerocopy::FromBytes;

use super::super::*;
use crate::abi::cpuid::CpuidPage;
use crate::abi::segment::{Segment, SegmentAttributes};
use crate::abi::sev_features::SevStatus;
use crate::error::SnpError;
use crate::host::{MonitorOperands, PortAccess, Segment as PortSegment, SharedAddr, TscAndAux};
use crate::insn::{Access, Gpr, LinearAddr, Registers, Segments};

/// Where the code is.
pub(super) const CODE: u64 = 0x40_0000;
/// A page of private memory, mapped one to one, and another one behind it.
pub(super) const DATA: u64 = 0x50_0000;
/// A page of a device.
pub(super) const DEVICE: u64 = 0x60_0000;
/// Guest-physical address of the device.
pub(super) const DEVICE_AT: u64 = 0xfec0_0000;

#[derive(Clone)]
pub(super) struct Page {
    pub(super) bytes: Vec<u8>,
    pub(super) device: Option<u64>,
    pub(super) user: bool,
    pub(super) writable: bool,
}

/// Pages by linear address, and the addresses that were fetched.
#[derive(Clone, Default)]
pub(super) struct Space {
    pub(super) pages: BTreeMap<u64, Page>,
    pub(super) fetched: Vec<(u64, usize)>,
}

/// Error codes of the mock: absent, or present and not allowed.
pub(super) const ABSENT: u32 = 0x10;
pub(super) const FORBIDDEN: u32 = 0x11;

impl Space {
    pub(super) fn map(&mut self, at: u64, page: Page) {
        self.pages.insert(at, page);
    }

    pub(super) fn page(&mut self, at: u64) -> &mut Page {
        self.pages.get_mut(&(at & !0xfff)).unwrap()
    }

    pub(super) fn bytes(&mut self, at: u64, len: u64) -> Vec<u8> {
        (at..at + len).map(|at| self.page(at).bytes[at as usize & 0xfff]).collect()
    }

    pub(super) fn put(&mut self, at: u64, bytes: &[u8]) {
        for (at, byte) in (at..).zip(bytes) {
            self.page(at).bytes[at as usize & 0xfff] = *byte;
        }
    }

    fn check(&self, at: u64, access: Access, by: Privilege) -> Result<&Page, PageFault> {
        let fault = |error_code| PageFault { at: LinearAddr::new(at), error_code };
        let page = self.pages.get(&(at & !0xfff)).ok_or(fault(ABSENT))?;
        let allowed = (page.user || by == Privilege::Supervisor) && (page.writable || access != Access::Write);
        if allowed { Ok(page) } else { Err(fault(FORBIDDEN)) }
    }
}

impl AddressSpace for Space {
    fn fetch(&mut self, at: LinearAddr, into: &mut [u8], by: Privilege) -> Result<(), PageFault> {
        let at = at.as_u64();
        assert!(!into.is_empty() && at >> 12 == (at + into.len() as u64 - 1) >> 12);
        self.fetched.push((at, into.len()));
        let page = self.check(at, Access::Fetch, by)?;
        into.copy_from_slice(&page.bytes[at as usize & 0xfff..][..into.len()]);
        Ok(())
    }

    fn read(&mut self, at: LinearAddr, into: &mut [u8], by: Privilege) -> Result<(), PageFault> {
        for (at, byte) in (at.as_u64()..).zip(into) {
            *byte = self.check(at, Access::Read, by)?.bytes[at as usize & 0xfff];
        }
        Ok(())
    }

    fn write(&mut self, at: LinearAddr, from: &[u8], by: Privilege) -> Result<(), PageFault> {
        let at = at.as_u64();
        for at in (at..).take(from.len()) {
            self.check(at, Access::Write, by)?;
        }
        self.put(at, from);
        Ok(())
    }

    fn translate(&mut self, at: LinearAddr, access: Access, by: Privilege) -> Result<Mapping, PageFault> {
        let at = at.as_u64();
        Ok(match self.check(at, access, by)?.device {
            Some(device) => {
                let shared = SharedAddr::try_new(PhysAddr::new(device | at & 0xfff), 51, |_| false);
                Mapping::Shared(shared.unwrap())
            }
            None => Mapping::Private(PhysAddr::new(at)),
        })
    }
}

/// What the host was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    Cpuid(u32, u32),
    ReadMsr(u32),
    WriteMsr(u32, u64),
    WriteDr7(u64),
    Rdtsc,
    Rdtscp,
    Rdpmc(u32),
    Wbinvd,
    Monitor(MonitorOperands),
    Mwait(u32, u32),
    Vmmcall(u64, u8),
    In(PortAccess),
    Out(PortAccess, u32),
    InString(PortAccess, usize),
    OutString(PortAccess, PortSegment, Vec<u8>),
    MmioRead(u64, usize),
    MmioWrite(u64, Vec<u8>),
}

/// A host that answers with all the bits of one number, or with scripted errors.
pub(super) struct Host {
    pub(super) value: u64,
    pub(super) errors: VecDeque<SnpError>,
    pub(super) asked: Vec<Asked>,
    /// Bytes of devices and ports that are read by string.
    pub(super) next: u8,
}

impl Host {
    fn ask<T>(&mut self, what: Asked, answer: impl FnOnce(&mut Self) -> T) -> Result<T, SnpError> {
        self.asked.push(what);
        match self.errors.pop_front() {
            Some(error) => Err(error),
            None => Ok(answer(self)),
        }
    }

    fn fill(&mut self, into: &mut [u8]) {
        for byte in into {
            *byte = self.next;
            self.next = self.next.wrapping_add(1);
        }
    }
}

impl Events for Host {
    fn hypervisor_cpuid(&mut self, leaf: u32, subleaf: u32) -> Result<[u32; 4], SnpError> {
        self.ask(Asked::Cpuid(leaf, subleaf), |_| [0xa, 0xb, 0xc, 0xd])
    }

    fn read_msr(&mut self, number: u32) -> Result<u64, SnpError> {
        self.ask(Asked::ReadMsr(number), |host| host.value)
    }

    fn write_msr(&mut self, number: u32, value: u64) -> Result<(), SnpError> {
        self.ask(Asked::WriteMsr(number, value), |_| ())
    }

    fn write_dr7(&mut self, value: u64) -> Result<(), SnpError> {
        self.ask(Asked::WriteDr7(value), |_| ())
    }

    fn rdtsc(&mut self) -> Result<u64, SnpError> {
        self.ask(Asked::Rdtsc, |host| host.value)
    }

    fn rdtscp(&mut self) -> Result<TscAndAux, SnpError> {
        self.ask(Asked::Rdtscp, |host| TscAndAux { tsc: host.value, aux: 0x77 })
    }

    fn rdpmc(&mut self, counter: u32) -> Result<u64, SnpError> {
        self.ask(Asked::Rdpmc(counter), |host| host.value)
    }

    fn wbinvd(&mut self) -> Result<(), SnpError> {
        self.ask(Asked::Wbinvd, |_| ())
    }

    fn monitor(&mut self, operands: MonitorOperands) -> Result<(), SnpError> {
        self.ask(Asked::Monitor(operands), |_| ())
    }

    fn mwait(&mut self, eax: u32, ecx: u32) -> Result<(), SnpError> {
        self.ask(Asked::Mwait(eax, ecx), |_| ())
    }

    fn vmmcall(&mut self, rax: u64, cpl: u8) -> Result<u64, SnpError> {
        self.ask(Asked::Vmmcall(rax, cpl), |host| host.value)
    }

    fn port_in(&mut self, access: PortAccess) -> Result<u32, SnpError> {
        self.ask(Asked::In(access), |host| host.value as u32)
    }

    fn port_out(&mut self, access: PortAccess, value: u32) -> Result<(), SnpError> {
        self.ask(Asked::Out(access, value), |_| ())
    }

    fn port_in_string(&mut self, access: PortAccess, into: &mut [u8]) -> Result<(), SnpError> {
        self.ask(Asked::InString(access, into.len()), |host| host.fill(into))
    }

    fn port_out_string(&mut self, access: PortAccess, segment: PortSegment, from: &[u8]) -> Result<(), SnpError> {
        self.ask(Asked::OutString(access, segment, from.to_vec()), |_| ())
    }

    fn mmio_read(&mut self, at: SharedAddr, into: &mut [u8]) -> Result<(), SnpError> {
        self.ask(Asked::MmioRead(at.address().as_u64(), into.len()), |host| {
            into.copy_from_slice(&host.value.to_le_bytes()[..into.len()]);
        })
    }

    fn mmio_write(&mut self, at: SharedAddr, from: &[u8]) -> Result<(), SnpError> {
        self.ask(Asked::MmioWrite(at.address().as_u64(), from.to_vec()), |_| ())
    }
}

/// One vCPU at one instruction.
pub(super) struct Scene {
    pub(super) context: VcContext,
    pub(super) space: Space,
    pub(super) host: Host,
    pub(super) cpuid: CpuidPage,
    pub(super) sev_status: SevStatus,
    pub(super) call_area: Option<PhysAddr>,
}

pub(super) const VALUE: u64 = 0x8877_6655_8483_8281;

impl Scene {
    /// 64-bit code at CPL 0, with no ports for other levels.
    pub(super) fn new(code: &[u8]) -> Self {
        let cs = SegmentAttributes::default().with_present(1).with_s(1).with_descriptor_type(11).with_l(1);
        let mut space = Space::default();
        let page = Page { bytes: vec![0; 0x1000], device: None, user: true, writable: true };
        for at in [CODE, DATA, DATA + 0x1000] {
            space.map(at, page.clone());
        }
        space.map(DEVICE, Page { device: Some(DEVICE_AT), ..page });
        space.put(CODE, code);
        let mut gprs = [0; 16];
        for (number, gpr) in gprs.iter_mut().enumerate() {
            *gpr = 0x1111_2222_0000_0000 | (number as u64) << 8 | 0x80;
        }
        let context = VcContext {
            registers: Registers { gprs, rip: CODE, rflags: 2 },
            segments: Segments { cs: Segment { attributes: cs, ..Segment::default() }, ..Segments::default() },
            efer: 0x500,
            cr0: 0x8000_0001,
            cr4: 0x20,
            xcr0: 1,
            dr7: 0x400,
            ..VcContext::default()
        };
        Self {
            context,
            space,
            host: Host { value: VALUE, errors: VecDeque::new(), asked: Vec::new(), next: 1 },
            cpuid: CpuidPage::read_from_bytes(&[0; 0x1000]).unwrap(),
            sev_status: SevStatus::from_bits_retain(7),
            call_area: None,
        }
    }

    /// The same code in a flat 32-bit or 16-bit segment.
    pub(super) fn legacy(code: &[u8], big: u16) -> Self {
        let mut scene = Self::new(code);
        let flat = |kind| Segment {
            attributes: SegmentAttributes::default().with_present(1).with_s(1).with_descriptor_type(kind).with_d_b(big),
            limit: u32::MAX,
            ..Segment::default()
        };
        let (cs, data) = (flat(11), flat(3));
        scene.context.segments = Segments { cs, ss: data, ds: data, es: data, fs: data, gs: data };
        scene
    }

    pub(super) fn with(mut self, gpr: Gpr, value: u64) -> Self {
        self.context.registers.set_gpr(gpr, value);
        self
    }

    pub(super) fn at_cpl(mut self, cpl: u8) -> Self {
        self.context.cpl = cpl;
        self
    }

    pub(super) fn gpr(&self, gpr: Gpr) -> u64 {
        self.context.registers.gpr(gpr)
    }

    pub(super) fn handle(&mut self, code: ExitCode) -> Result<Outcome, VcError> {
        let facts = Facts {
            cpuid: self.cpuid.table().unwrap(),
            apic_id: 5,
            sev_status: self.sev_status,
            call_area: self.call_area,
        };
        handle(&mut self.context, code, &facts, &mut self.space, &mut self.host)
    }

    /// Handles it to the end of the instruction.
    pub(super) fn done(&mut self, code: ExitCode, len: u64) {
        let rip = self.context.registers.rip;
        assert_eq!(self.handle(code), Ok(Outcome::Done));
        assert_eq!(self.context.registers.rip, rip + len);
    }

    /// Handles it without any effect: the context is as before, and the host was not asked.
    pub(super) fn refused(&mut self, code: ExitCode) -> Result<Outcome, VcError> {
        let before = self.context;
        let outcome = self.handle(code);
        assert!(!matches!(outcome, Ok(Outcome::Done | Outcome::Again)), "{outcome:?}");
        assert_eq!(self.context, before);
        assert_eq!(self.host.asked, []);
        outcome
    }
}

pub(super) const GP: Result<Outcome, VcError> = Ok(Outcome::Raise(Exception::GENERAL_PROTECTION));
pub(super) const UD: Result<Outcome, VcError> = Ok(Outcome::Raise(Exception::INVALID_OPCODE));
pub(super) const FALSE_EXIT: Result<Outcome, VcError> = Err(VcError::FalseExit { rip: CODE });

pub(super) fn page_fault(at: u64, error_code: u32) -> Result<Outcome, VcError> {
    let address = Some(LinearAddr::new(at));
    Ok(Outcome::Raise(Exception { vector: 14, error_code: Some(error_code), address }))
}

/// Every kind of instruction that is handled, with its error code. Memory operands are at RSI and RDI.
pub(super) const HANDLED: [(ExitCode, &[u8]); 35] = [
    (ExitCode::DR7_READ, &[0x0f, 0x21, 0xf8]),
    (ExitCode::DR7_WRITE, &[0x0f, 0x23, 0xfd]),
    (ExitCode::RDTSC, &[0x0f, 0x31]),
    (ExitCode::RDPMC, &[0x0f, 0x33]),
    (ExitCode::CPUID, &[0x0f, 0xa2]),
    (ExitCode::IOIO, &[0xe4, 0x60]),
    (ExitCode::IOIO, &[0xe5, 0x60]),
    (ExitCode::IOIO, &[0xe6, 0x80]),
    (ExitCode::IOIO, &[0xe7, 0x80]),
    (ExitCode::IOIO, &[0xec]),
    (ExitCode::IOIO, &[0x66, 0xed]),
    (ExitCode::IOIO, &[0xee]),
    (ExitCode::IOIO, &[0xef]),
    (ExitCode::IOIO, &[0x6c]),
    (ExitCode::IOIO, &[0x6d]),
    (ExitCode::IOIO, &[0x6e]),
    (ExitCode::IOIO, &[0x66, 0x6f]),
    (ExitCode::MSR, &[0x0f, 0x32]),
    (ExitCode::MSR, &[0x0f, 0x30]),
    (ExitCode::VMMCALL, &[0x0f, 0x01, 0xd9]),
    (ExitCode::RDTSCP, &[0x0f, 0x01, 0xf9]),
    (ExitCode::WBINVD, &[0x0f, 0x09]),
    (ExitCode::WBINVD, &[0xf3, 0x0f, 0x09]),
    (ExitCode::MONITOR, &[0x0f, 0x01, 0xc8]),
    (ExitCode::MONITOR, &[0x0f, 0x01, 0xfa]),
    (ExitCode::MWAIT, &[0x0f, 0x01, 0xc9]),
    (ExitCode::MWAIT, &[0x0f, 0x01, 0xfb]),
    (ExitCode::MWAIT_CONDITIONAL, &[0x0f, 0x01, 0xc9]),
    (ExitCode::NPF, &[0x8b, 0x06]),
    (ExitCode::NPF, &[0x0f, 0xb6, 0x06]),
    (ExitCode::NPF, &[0x48, 0x0f, 0xbf, 0x06]),
    (ExitCode::NPF, &[0x88, 0x07]),
    (ExitCode::NPF, &[0xc7, 0x07, 1, 2, 3, 4]),
    (ExitCode::NPF, &[0xa5]),
    (ExitCode::NPF, &[0xaa]),
];

/// A scene in which the instruction can be done: RSI and RDI lead to memory that fits.
pub(super) fn ready(code: ExitCode, bytes: &[u8]) -> Scene {
    let data = if code == ExitCode::NPF { DEVICE } else { DATA };
    Scene::new(bytes).with(Gpr::RSI, data).with(Gpr::RDI, data).with(Gpr::RBP, 0x401)
}
