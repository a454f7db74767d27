//! The L1 of the tests, when it does not lie.

use coco_part_api::range::PageSize;
use coco_part_api::{CallRegs, GuestMemory};
use x86_64::PhysAddr;
use zerocopy::IntoBytes;

use super::{Memory, World};
use crate::codec::{
    ATTEST, Action, AttestRequest, CHANGE_PAGES, CREATE, CallResult, DELETE, Entry, IDENTIFY, ListHeader, OWN, QUERY,
    REMAP,
};

impl World {
    /// Serves a call as the protocol says.
    pub(super) fn serve(&mut self, memory: &Memory, regs: CallRegs) -> CallRegs {
        let frame = regs.rcx / 4096;
        let done = |result: CallResult| regs.with_result(result);
        match regs.rax {
            id if id == QUERY.to_rax() => {
                let version = match (regs.rcx >> 32) as u32 {
                    0 => self.core,
                    OWN => self.own,
                    _ => 0,
                };
                CallRegs { rcx: version, ..done(CallResult::SUCCESS) }
            }
            id if id == IDENTIFY.to_rax() => {
                let [rcx, rdx, r8] = self.identity;
                CallRegs { rcx, rdx, r8, ..done(CallResult::SUCCESS) }
            }
            id if id == CHANGE_PAGES.to_rax() => done(self.change(memory, PhysAddr::new(regs.rcx))),
            id if id == CREATE.to_rax() => {
                if self.vcpus.contains_key(&frame) {
                    return done(CallResult::INVALID_ADDRESS);
                }
                self.vcpus.insert(frame, regs.r8);
                done(CallResult::SUCCESS)
            }
            id if id == DELETE.to_rax() => match self.vcpus.remove(&frame) {
                Some(id) if self.running.contains(&(id as u32)) => {
                    self.vcpus.insert(frame, id);
                    done(CallResult::FAIL_INUSE)
                }
                Some(_) => done(CallResult::SUCCESS),
                None => done(CallResult::INVALID_PARAMETER),
            },
            id if id == REMAP.to_rax() => done(CallResult::SUCCESS),
            id if id == ATTEST.to_rax() => {
                let request: AttestRequest = memory.read_value(PhysAddr::new(regs.rcx)).unwrap();
                memory.write(PhysAddr::new(request.out), &request.nonce).unwrap();
                let (rcx, rdx) = self.evidence;
                CallRegs { rcx, rdx, ..done(CallResult::SUCCESS) }
            }
            _ => done(CallResult::UNSUPPORTED_CALL),
        }
    }

    fn change(&mut self, memory: &Memory, at: PhysAddr) -> CallResult {
        let mut header: ListHeader = memory.read_value(at).unwrap();
        let mut left = self.budget;
        let result = loop {
            if header.next == header.entries {
                break CallResult::SUCCESS;
            }
            if left == 0 {
                break CallResult::INCOMPLETE;
            }
            left -= 1;
            let word: u64 = memory.read_value(at + 8 + 8 * u64::from(header.next)).unwrap();
            let result = self.change_one(&Entry::decode(word).unwrap());
            if !result.is_success() {
                break result;
            }
            header.next += 1;
        };
        memory.write(at, header.as_bytes()).unwrap();
        result
    }

    fn change_one(&mut self, entry: &Entry) -> CallResult {
        let range = entry.block.range();
        let frames = range.first_number()..range.first_number() + range.frames();
        if entry.block.size() == PageSize::Large && self.small.contains(&frames.start) {
            return CallResult::FAIL_SIZE_MISMATCH;
        }
        let validate = entry.action == Action::Validate;
        if frames.clone().any(|frame| self.valid.contains(&frame) == validate) {
            return CallResult::NO_CHANGE;
        }
        for frame in frames {
            if validate {
                assert!(self.private.contains(&frame), "validated before the host agreed");
                self.valid.insert(frame);
            } else {
                self.valid.remove(&frame);
            }
        }
        CallResult::SUCCESS
    }
}
