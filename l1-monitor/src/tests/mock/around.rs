//! Memory and processor.

use std::sync::Arc;

use coco_part_api::{Emulate, ErrorKind, FrameRange, GuestMemory, HasMemory, Processor, VcpuId};
use x86_64::PhysAddr;

use super::{Books, MockBackend, MockError, Op, World};

impl HasMemory for MockBackend {
    type Memory = MockMemory;

    fn memory(&self) -> MockMemory {
        MockMemory(self.world.clone())
    }
}

#[derive(Clone)]
pub(crate) struct MockMemory(Arc<World>);

impl MockMemory {
    fn access<R>(&self, at: PhysAddr, len: usize, work: impl FnOnce(&mut Books, usize) -> R) -> Result<R, MockError> {
        let start = at.as_u64() as usize;
        self.0.with(|books| {
            let page = start as u64 & !0xfff;
            let end = start.checked_add(len).filter(|end| *end <= books.bytes.len());
            if end.is_none() || books.faults.contains(&page) || !books.pages[start >> 12].is_valid {
                return Err(MockError(ErrorKind::Inaccessible));
            }
            assert!((start + len - 1) >> 12 == start >> 12, "access crosses a page");
            Ok(work(books, start))
        })
    }
}

impl GuestMemory for MockMemory {
    type Fault = MockError;

    fn read(&self, at: PhysAddr, into: &mut [u8]) -> Result<(), MockError> {
        self.access(at, into.len(), |books, start| {
            into.copy_from_slice(&books.bytes[start..][..into.len()]);
            books.reads.push((start as u64, into.len()));
            if let Some(mut hook) = books.after_read.take() {
                hook(&mut books.bytes, start as u64);
                books.after_read = Some(hook);
            }
        })
    }

    fn write(&self, at: PhysAddr, from: &[u8]) -> Result<(), MockError> {
        self.access(at, from.len(), |books, start| {
            if books.write_faults.contains(&(start as u64 & !0xfff)) {
                return Err(MockError(ErrorKind::Inaccessible));
            }
            if let Some(mut hook) = books.before_write.take() {
                hook(&mut books.bytes, start as u64);
                books.before_write = Some(hook);
            }
            assert!(!books.pages[start >> 12].is_state, "write into a state frame");
            books.bytes[start..][..from.len()].copy_from_slice(from);
            books.writes.push((start as u64, from.len()));
            Ok(())
        })?
    }

    fn zero(&self, range: FrameRange) -> Result<(), MockError> {
        self.0.with(|books| {
            if books.faults.range(range.start().as_u64()..range.start().as_u64() + range.bytes()).next().is_some() {
                return Err(MockError(ErrorKind::Inaccessible));
            }
            books.zero(range);
            Ok(())
        })
    }

    fn swap_u8(&self, _: PhysAddr, _: u8) -> Result<u8, MockError> {
        Err(MockError(ErrorKind::Unsupported))
    }

    fn compare_exchange_u64(&self, _: PhysAddr, _: u64, _: u64) -> Result<u64, MockError> {
        Err(MockError(ErrorKind::Unsupported))
    }
}

pub(crate) struct MockProcessor {
    world: Arc<World>,
}

impl MockProcessor {
    pub(crate) fn new(world: Arc<World>, _: VcpuId) -> Self {
        Self { world }
    }

    fn note(&self, op: Op) {
        self.world.with(|books| books.log.push(op));
    }
}

impl Processor for MockProcessor {
    fn kick(&mut self, who: VcpuId) {
        self.note(Op::Kick(who.0));
    }

    fn idle(&mut self) {
        self.note(Op::Idle);
    }

    fn pause(&mut self) {
        self.note(Op::Pause);
        std::thread::yield_now();
    }
}

/// A computer with one register, number 7, and devices that note what they are told.
impl Emulate for MockProcessor {
    fn cpuid(&mut self, vcpu: VcpuId, leaf: u32, subleaf: u32, vouched: Option<[u32; 4]>) -> [u32; 4] {
        self.note(Op::Cpuid(vcpu.0, leaf, subleaf));
        vouched.unwrap_or([leaf, subleaf, 0xc, 0xd])
    }

    fn read_msr(&mut self, vcpu: VcpuId, msr: u32) -> Option<u64> {
        self.note(Op::ReadMsr(vcpu.0, msr));
        (msr == 7).then_some(0x77)
    }

    fn write_msr(&mut self, vcpu: VcpuId, msr: u32, value: u64) -> Option<()> {
        self.note(Op::WriteMsr(vcpu.0, msr, value));
        (msr == 7).then_some(())
    }

    fn read_port(&mut self, vcpu: VcpuId, port: u16, size: u8) -> u32 {
        self.note(Op::ReadPort(vcpu.0, port, size));
        0x60
    }

    fn write_port(&mut self, vcpu: VcpuId, port: u16, size: u8, value: u32) {
        self.note(Op::WritePort(vcpu.0, port, size, value));
    }
}
