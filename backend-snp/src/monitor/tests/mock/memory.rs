//! Memory of the mock machine, private or shared.

use super::*;

#[derive(Clone)]
pub(in crate::monitor::tests) struct MockMemory {
    pub(super) machine: Machine,
    pub(super) private: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::monitor::tests) struct Unreachable;

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
