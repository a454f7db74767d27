//! The L1 of the tests, when it does not lie.

use coco_part_api::range::PageSize;
use coco_part_api::svsm::list::decode_page;
use coco_part_api::{CallRegs, GuestMemory};
use x86_64::PhysAddr;
use zerocopy::IntoBytes;

use super::{CALL_AREA, Memory, World};
use crate::codec::{
    ATTEST, Action, AttestRequest, CHANGE_PAGES, CREATE, CallResult, CommandHeader, DELETE, DEPOSIT, Entry, IDENTIFY,
    ListHeader, OWN, QUERY, REMAP, TPM_COMMAND, TPM_QUERY, VTPM, WITHDRAW,
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
                    VTPM => self.vtpm,
                    _ => 0,
                };
                CallRegs { rcx: version, ..done(CallResult::SUCCESS) }
            }
            id if id == IDENTIFY.to_rax() => {
                let [rcx, rdx, r8] = self.identity;
                CallRegs { rcx, rdx, r8, ..done(CallResult::SUCCESS) }
            }
            id if id == CHANGE_PAGES.to_rax() => done(self.change(memory, PhysAddr::new(regs.rcx), Self::change_one)),
            id if id == DEPOSIT.to_rax() => done(self.change(memory, PhysAddr::new(regs.rcx), Self::deposit_one)),
            id if id == WITHDRAW.to_rax() => {
                self.withdraw(memory, PhysAddr::new(regs.rcx));
                done(CallResult::SUCCESS)
            }
            id if id == TPM_QUERY.to_rax() => CallRegs { rcx: 1 << 8, rdx: 0, ..done(CallResult::SUCCESS) },
            id if id == TPM_COMMAND.to_rax() => done(tpm(memory, PhysAddr::new(regs.rcx))),
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

    fn change(&mut self, memory: &Memory, at: PhysAddr, one: fn(&mut Self, u64) -> CallResult) -> CallResult {
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
            let result = one(self, word);
            if !result.is_success() {
                break result;
            }
            header.next += 1;
        };
        memory.write(at, header.as_bytes()).unwrap();
        result
    }

    fn deposit_one(&mut self, word: u64) -> CallResult {
        let block = decode_page(word).unwrap();
        let frames = block.range().first_number()..block.range().first_number() + block.range().frames();
        if block.size() == PageSize::Large && self.small.contains(&frames.start) {
            return CallResult::FAIL_SIZE_MISMATCH;
        }
        if !frames.clone().all(|frame| self.valid.contains(&frame) && !self.deposited.contains(&frame)) {
            return CallResult::INVALID_ADDRESS;
        }
        self.deposited.extend(frames);
        CallResult::SUCCESS
    }

    /// As many as fit behind the head.
    fn withdraw(&mut self, memory: &Memory, at: PhysAddr) {
        let room = (4096 - at.as_u64() % 4096) / 8 - 1;
        let count = self.deposited.len().min(room as usize);
        memory.write(at, &(count as u64).to_le_bytes()).unwrap();
        for (index, frame) in self.deposited.drain(..count).enumerate() {
            memory.write(at + 8 * (1 + index as u64), &(frame << 12).to_le_bytes()).unwrap();
        }
        let area = PhysAddr::new(CALL_AREA + 1);
        memory.write(area, &[u8::from(!self.deposited.is_empty())]).unwrap();
    }

    fn change_one(&mut self, word: u64) -> CallResult {
        let entry = Entry::decode(word).unwrap();
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

/// A vTPM that answers backwards.
fn tpm(memory: &Memory, at: PhysAddr) -> CallResult {
    let header: CommandHeader = memory.read_value(at).unwrap();
    let Ok(len) = header.check() else { return CallResult::INVALID_PARAMETER };
    let mut bytes = std::vec![0; len];
    memory.read(at + 9, &mut bytes).unwrap();
    bytes.reverse();
    memory.write(at, &(len as u32).to_le_bytes()).unwrap();
    memory.write(at + 4, &bytes).unwrap();
    CallResult::SUCCESS
}
