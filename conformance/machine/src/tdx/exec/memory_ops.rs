//! Loads, stores and fetches.

use alloc::vec;

use super::access::{Access, Target};
use super::{Actor, Stopped};
use crate::PAGE_SIZE;
use crate::nested::offset_of;
use crate::tdx::{Answer, Machine};

/// Whether `len` bytes from `gpa` on stay in one page.
fn in_one_page(gpa: u64, len: usize) -> bool {
    offset_of(gpa).checked_add(len).is_some_and(|end| end as u64 <= PAGE_SIZE)
}

impl Machine {
    pub(super) fn read(&mut self, actor: Actor, gpa: u64, len: usize, private: bool) -> Result<Answer, Stopped> {
        if !in_one_page(gpa, len) {
            return Err(Stopped::GENERAL_PROTECTION);
        }
        let target = self.access(actor, gpa, private, Access::Read)?;
        let mut bytes = vec![0; len];
        self.load(actor, gpa, target, &mut bytes);
        Ok(Answer::Bytes(bytes))
    }

    pub(super) fn write(&mut self, actor: Actor, gpa: u64, bytes: &[u8], private: bool) -> Result<Answer, Stopped> {
        if !in_one_page(gpa, bytes.len()) {
            return Err(Stopped::GENERAL_PROTECTION);
        }
        let target = self.access(actor, gpa, private, Access::Write)?;
        self.store(actor, gpa, target, bytes);
        Ok(Answer::None)
    }

    pub(super) fn zero(&mut self, actor: Actor, gpa: u64, pages: u64, private: bool) -> Result<Answer, Stopped> {
        if !gpa.is_multiple_of(PAGE_SIZE) || pages.checked_mul(PAGE_SIZE).and_then(|len| gpa.checked_add(len)).is_none()
        {
            return Err(Stopped::GENERAL_PROTECTION);
        }
        let mut done = 0;
        while done < pages {
            let at = gpa + done * PAGE_SIZE;
            let target = self.access(actor, at, private, Access::Write)?;
            let count = target.pages.min(pages - done);
            if target.shared {
                self.shared.zero(target.page, count);
            } else {
                self.private.zero(target.page, count);
                self.oracle_zeroed(actor, at, count);
            }
            done += count;
        }
        self.counters.change(actor.vcpu, actor.level, |c| c.zeroed_pages += pages);
        Ok(Answer::None)
    }

    pub(super) fn swap8(&mut self, actor: Actor, gpa: u64, value: u8, private: bool) -> Result<Answer, Stopped> {
        let target = self.access_both(actor, gpa, private)?;
        let mut old = [0];
        self.load(actor, gpa, target, &mut old);
        self.store(actor, gpa, target, &[value]);
        Ok(Answer::Value(u64::from(old[0])))
    }

    pub(super) fn compare_exchange(
        &mut self,
        actor: Actor,
        gpa: u64,
        expected: u64,
        new: u64,
        private: bool,
    ) -> Result<Answer, Stopped> {
        if !gpa.is_multiple_of(8) {
            return Err(Stopped::GENERAL_PROTECTION);
        }
        let target = self.access_both(actor, gpa, private)?;
        let mut old = [0; 8];
        self.load(actor, gpa, target, &mut old);
        let old = u64::from_le_bytes(old);
        if old == expected {
            self.store(actor, gpa, target, &new.to_le_bytes());
        }
        Ok(Answer::Value(old))
    }

    pub(super) fn fetch(&mut self, actor: Actor, gpa: u64, user: bool, private: bool) -> Result<Answer, Stopped> {
        let access = if user { Access::FetchUser } else { Access::FetchSupervisor };
        self.access(actor, gpa, private, access)?;
        Ok(Answer::None)
    }

    /// An atomic reads and writes.
    fn access_both(&mut self, actor: Actor, gpa: u64, private: bool) -> Result<Target, Stopped> {
        self.access(actor, gpa, private, Access::Read)?;
        self.access(actor, gpa, private, Access::Write)
    }

    fn load(&mut self, actor: Actor, gpa: u64, target: Target, out: &mut [u8]) {
        if target.shared {
            self.shared.read(target.page, offset_of(gpa), out);
        } else {
            self.private.read(target.page, offset_of(gpa), out);
            self.oracle_read(actor, gpa, out);
        }
    }

    fn store(&mut self, actor: Actor, gpa: u64, target: Target, bytes: &[u8]) {
        if target.shared {
            self.shared.write(target.page, offset_of(gpa), bytes);
            self.oracle_shared_written(target.page, offset_of(gpa), bytes.len());
        } else {
            self.private.write(target.page, offset_of(gpa), bytes);
            self.oracle_written(actor, gpa, bytes);
        }
    }
}
