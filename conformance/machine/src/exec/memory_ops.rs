//! Loads, stores and fetches.

use alloc::vec;

use super::access::Access;
use super::{Actor, Stopped};
use crate::nested::offset_of;
use crate::{Answer, Machine, PAGE_SIZE};

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
        if !private {
            self.before_shared_read(actor.vcpu, gpa);
        }
        let mut bytes = vec![0; len];
        self.load(target.spa_page, offset_of(gpa), private, &mut bytes);
        self.oracle_read(actor, gpa, target.spa_page, private, &bytes);
        Ok(Answer::Bytes(bytes))
    }

    pub(super) fn write(&mut self, actor: Actor, gpa: u64, bytes: &[u8], private: bool) -> Result<Answer, Stopped> {
        if !in_one_page(gpa, bytes.len()) {
            return Err(Stopped::GENERAL_PROTECTION);
        }
        let target = self.access(actor, gpa, private, Access::Write)?;
        self.store(actor, gpa, target.spa_page, private, bytes);
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
            // One large translation may cover a running VMSA too.
            for page in target.spa_page..target.spa_page + count {
                self.wait_for_vmsa(page)?;
            }
            self.oracle_zero(actor, at, target.spa_page, count, private);
            self.memory.zero(target.spa_page, count);
            done += count;
        }
        self.counters.change(actor.vcpu, actor.vmpl, |c| c.zeroed_pages += pages);
        Ok(Answer::None)
    }

    pub(super) fn swap8(&mut self, actor: Actor, gpa: u64, value: u8) -> Result<Answer, Stopped> {
        let target = self.access(actor, gpa, true, Access::Write)?;
        let mut old = [0];
        self.load(target.spa_page, offset_of(gpa), true, &mut old);
        self.oracle_read(actor, gpa, target.spa_page, true, &old);
        self.store(actor, gpa, target.spa_page, true, &[value]);
        Ok(Answer::Value(u64::from(old[0])))
    }

    pub(super) fn compare_exchange(
        &mut self,
        actor: Actor,
        gpa: u64,
        expected: u64,
        new: u64,
    ) -> Result<Answer, Stopped> {
        if !gpa.is_multiple_of(8) {
            return Err(Stopped::GENERAL_PROTECTION);
        }
        let target = self.access(actor, gpa, true, Access::Write)?;
        let mut old = [0; 8];
        self.load(target.spa_page, offset_of(gpa), true, &mut old);
        self.oracle_read(actor, gpa, target.spa_page, true, &old);
        let old = u64::from_le_bytes(old);
        if old == expected {
            self.store(actor, gpa, target.spa_page, true, &new.to_le_bytes());
        }
        Ok(Answer::Value(old))
    }

    pub(super) fn fetch(&mut self, actor: Actor, gpa: u64, user: bool) -> Result<Answer, Stopped> {
        let access = if user { Access::FetchUser } else { Access::FetchSupervisor };
        self.access(actor, gpa, true, access)?;
        Ok(Answer::None)
    }

    pub(super) fn shadow_stack(&mut self, actor: Actor, gpa: u64) -> Result<Answer, Stopped> {
        self.access(actor, gpa, true, Access::ShadowStack)?;
        Ok(Answer::None)
    }

    /// Bytes of a system page as seen with or without the C-bit: the wrong way round it is ciphertext.
    pub(crate) fn load(&self, spa_page: u64, offset: usize, private: bool, out: &mut [u8]) {
        if self.rmp.get(spa_page).assigned == private {
            self.memory.read(spa_page, offset, out);
        } else if let Some(source) = self.memory.ciphertext(spa_page).get(offset..offset + out.len()) {
            out.copy_from_slice(source);
        }
    }

    fn store(&mut self, actor: Actor, gpa: u64, spa_page: u64, private: bool, bytes: &[u8]) {
        self.oracle_write(actor, gpa, spa_page, private, bytes);
        self.memory.write(spa_page, offset_of(gpa), bytes);
        self.oracle_written(actor, gpa, spa_page, private, bytes);
    }
}
