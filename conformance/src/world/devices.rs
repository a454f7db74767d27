//! The computer that L1 plays for a guest that traps: one register, a clock, an interrupt controller that swallows what it is
//! told, one leaf of CPUID, and ports that answer.

use std::cell::{Cell, RefCell};

use coco_part_api::{Emulate, VcpuId};

use super::ModelProcessor;
use crate::platform::Platform;

/// The model-specific register that keeps what is written.
pub const REGISTER: u32 = 0x4000_0073;
/// The time stamp counter: how often the devices were told something.
const TSC: u32 = 0x10;
/// The x2APIC interrupt command register.
const ICR: u32 = 0x830;
/// A leaf of CPUID about which no machine says anything and L1 does.
pub const LEAF: u32 = 0x4fff_0000;

/// What CPUID finds in [`LEAF`].
pub const fn leaf(subleaf: u32) -> [u32; 4] {
    [LEAF, subleaf, !subleaf, 0x4c31]
}

/// What a port reads.
pub const fn port(port: u16) -> u32 {
    0x5a5a_0000 | port as u32
}

/// Something that a guest told or asked the devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// CPUID, with leaf and sub-leaf.
    Cpuid(u32, u32),
    /// RDMSR.
    ReadMsr(u32),
    /// WRMSR.
    WroteMsr(u32, u64),
    /// IN, with port and bytes.
    Read(u16, u8),
    /// OUT, with port, bytes and value.
    Wrote(u16, u8, u32),
}

/// The devices of one VM.
#[derive(Debug, Default)]
pub struct Devices {
    register: Cell<u64>,
    told: RefCell<Vec<Told>>,
}

impl Devices {
    /// Everything that was told or asked, in order.
    pub fn told(&self) -> Vec<Told> {
        self.told.borrow().clone()
    }

    fn note(&self, told: Told) {
        self.told.borrow_mut().push(told);
    }
}

impl<P: Platform> Emulate for ModelProcessor<'_, P> {
    fn cpuid(&mut self, _: VcpuId, leaf: u32, subleaf: u32, vouched: Option<[u32; 4]>) -> [u32; 4] {
        self.devices.note(Told::Cpuid(leaf, subleaf));
        if leaf == LEAF { self::leaf(subleaf) } else { vouched.unwrap_or_default() }
    }

    fn read_msr(&mut self, _: VcpuId, msr: u32) -> Option<u64> {
        self.devices.note(Told::ReadMsr(msr));
        match msr {
            REGISTER => Some(self.devices.register.get()),
            TSC => Some(self.devices.told.borrow().len() as u64),
            _ => None,
        }
    }

    fn write_msr(&mut self, _: VcpuId, msr: u32, value: u64) -> Option<()> {
        self.devices.note(Told::WroteMsr(msr, value));
        match msr {
            REGISTER => {
                self.devices.register.set(value);
                Some(())
            }
            ICR => Some(()),
            _ => None,
        }
    }

    fn read_port(&mut self, _: VcpuId, port: u16, size: u8) -> u32 {
        self.devices.note(Told::Read(port, size));
        self::port(port)
    }

    fn write_port(&mut self, _: VcpuId, port: u16, size: u8, value: u32) {
        self.devices.note(Told::Wrote(port, size, value));
    }
}
