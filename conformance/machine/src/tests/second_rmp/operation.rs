//! What host and guest do to both.

use alloc::vec;
use alloc::vec::Vec;

use super::model::{self, Content, Given, Rdx, SaveArea, SecondRmp};
use super::{CPU0, CPU1, Pair, vmsa_image};
use crate::{Answer, Fault, Machine, Op, Outcome, PAGE_SIZE, exit_code, msr, vmsa};

/// One operation. Guest instructions run on vCPU 0, VMSAs of the pages under test on vCPU 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    Rmpupdate {
        address: u64,
        large: bool,
        to: Option<u64>,
    },
    Psmash {
        address: u64,
    },
    Map {
        guest_page: u64,
        large: bool,
        to: Option<u64>,
    },
    HostWrite {
        guest_page: u64,
        value: u8,
    },
    /// The page becomes another guest's, or immutable: nothing that the guest or this host could do.
    Lose {
        page: u64,
        immutable: bool,
    },
    Pvalidate {
        vmpl: u8,
        address: u64,
        large: bool,
        valid: bool,
    },
    Rmpadjust {
        vmpl: u8,
        address: u64,
        large: bool,
        rdx: Rdx,
    },
    Rmpquery {
        vmpl: u8,
        address: u64,
        target: u8,
    },
    Access {
        vmpl: u8,
        guest_page: u64,
        access: model::Access,
        private: bool,
        value: u8,
    },
    /// VMPL0 writes a whole save area.
    WriteSaveArea {
        guest_page: u64,
        area: SaveArea,
    },
    Vmrun {
        address: u64,
    },
    /// The VMSA on vCPU 1 tries to clear its own EFER.SVME (RMP-024), and halts.
    Halt,
}

use Operation::*;

impl Operation {
    /// The page whose entry it changes, if it is one.
    pub(super) fn page(self) -> Option<u64> {
        match self {
            Rmpupdate { address, .. } | Psmash { address } | Pvalidate { address, .. } | Rmpadjust { address, .. } => {
                Some(address / PAGE_SIZE)
            }
            Lose { page, .. } => Some(page),
            _ => None,
        }
    }

    /// What the tables allow.
    pub(super) fn on_model(self, model: &mut SecondRmp) -> Vec<Given> {
        match self {
            Rmpupdate { address, large, to } => model.rmpupdate(address, large, to),
            Psmash { address } => model.psmash(address),
            Map { guest_page, large, to } => {
                model.map(guest_page, large, to);
                vec![Given::Accessed(None)]
            }
            HostWrite { guest_page, value } => model.host_write(guest_page, value),
            Lose { page, immutable } => {
                let Some(entry) = model.entries.get_mut(page as usize) else { return Vec::new() };
                if !entry.assigned || entry.large || model.running == Some(page) {
                    return Vec::new();
                }
                (entry.asid, entry.immutable) = lost(immutable);
                vec![Given::Accessed(None)]
            }
            Pvalidate { vmpl, address, large, valid } => model.pvalidate(vmpl, address, large, valid),
            Rmpadjust { vmpl, address, large, rdx } => model.rmpadjust(vmpl, address, large, rdx),
            Rmpquery { vmpl, address, target } => model.rmpquery(vmpl, address, target),
            Access { vmpl, guest_page, access, private, value } => {
                model.access(vmpl, guest_page, access, private, value)
            }
            WriteSaveArea { guest_page, area } => {
                let allowed = model.access(0, guest_page, model::Access::Write, true, 0);
                if allowed == [Given::Accessed(None)]
                    && let Some(nested) = model.nested[guest_page as usize]
                {
                    model.contents[nested.page as usize] = Content { first_byte: Some(0), save_area: Some(area) };
                }
                allowed
            }
            Vmrun { .. } if model.running.is_some() => Vec::new(),
            Vmrun { address } => model.vmrun(address),
            Halt if model.running.take().is_none() => Vec::new(),
            Halt => vec![Given::Accessed(None)],
        }
    }

    /// What the machine gives.
    pub(super) fn on_machine(self, machine: &mut Machine) -> Given {
        match self {
            Rmpupdate { address, large, to } => Given::Code(machine.rmpupdate(address, large, to)),
            Psmash { address } => Given::Code(machine.psmash(address)),
            Map { guest_page, large, to } => {
                machine.map(guest_page * PAGE_SIZE, large, to.map(|page| page * PAGE_SIZE));
                Given::Accessed(None)
            }
            HostWrite { guest_page, value } => Given::HostWrote(machine.host_write(guest_page * PAGE_SIZE, &[value])),
            Lose { page, immutable } => {
                machine.rmp.update(page, |entry| {
                    let (asid, is_immutable) = lost(immutable);
                    (entry.asid, entry.immutable) = (asid as u16, is_immutable);
                });
                Given::Accessed(None)
            }
            Pvalidate { vmpl, address, large, valid } => {
                let op = Op::Pvalidate { gpa: address, ecx: large.into(), edx: valid.into() };
                given(machine, vmpl, op)
            }
            Rmpadjust { vmpl, address, large, rdx: Rdx { target, mask, vmsa } } => {
                let rdx = u64::from(target) | u64::from(mask) << 8 | u64::from(vmsa) << 16;
                given(machine, vmpl, Op::Rmpadjust { gpa: address, rcx: large.into(), rdx })
            }
            Rmpquery { vmpl, address, target } => {
                given(machine, vmpl, Op::Rmpquery { gpa: address, rdx: target.into() })
            }
            Access { vmpl, guest_page, access, private, value } => {
                let gpa = guest_page * PAGE_SIZE;
                // What was cached may outlive its rights (RMP-055); the tables do not say for how long.
                machine.vcpus[usize::from(CPU0.0)].tlb.flush_all();
                let op = match access {
                    model::Access::Read => Op::Read { gpa, len: 1, private },
                    model::Access::Write => Op::Write { gpa, bytes: vec![value], private },
                    model::Access::FetchUser => Op::Fetch { gpa, user: true },
                    model::Access::FetchSupervisor => Op::Fetch { gpa, user: false },
                };
                given(machine, vmpl, op)
            }
            WriteSaveArea { guest_page, area: SaveArea { vmpl, svme } } => {
                machine.vcpus[usize::from(CPU0.0)].tlb.flush_all();
                let mut image = vmsa_image(vmpl, 0);
                if !svme {
                    vmsa::write_u64(&mut image[..], vmsa::EFER, 0);
                }
                given(machine, 0, Op::Write { gpa: guest_page * PAGE_SIZE, bytes: image.to_vec(), private: true })
            }
            Vmrun { address } => match machine.vmrun(CPU1, address) {
                Ok(entry) => Given::Entered(entry.vmpl),
                Err(_) => Given::NotEntered,
            },
            Halt => {
                assert_eq!(machine.step(CPU1, Op::Wrmsr(msr::EFER, 0)), Outcome::Done(Answer::None));
                assert_eq!(machine.step(CPU1, Op::Hlt), Outcome::Exit);
                Given::Accessed(None)
            }
        }
    }
}

fn lost(immutable: bool) -> (u32, bool) {
    if immutable { (0, true) } else { (2, false) }
}

/// A guest operation in the words of the model.
fn given(machine: &mut Machine, vmpl: u8, op: Op) -> Given {
    match Pair::step(machine, vmpl, op) {
        Outcome::Done(Answer::Pvalidate { eax, carry }) => Given::Validated { code: eax, carry },
        Outcome::Done(Answer::Rmpadjust { eax }) => Given::Code(eax),
        Outcome::Done(Answer::Rmpquery { eax, rcx, rdx }) => {
            Given::Queried { code: eax, large: rcx & 1 != 0, rights: (rdx >> 8) as u8, vmsa: rdx >> 16 & 1 != 0 }
        }
        Outcome::Done(Answer::Bytes(bytes)) => Given::Accessed(bytes.first().copied()),
        Outcome::Done(_) => Given::Accessed(None),
        Outcome::Fault(Fault::GeneralProtection) => Given::GeneralProtection,
        Outcome::Fault(Fault::Vc { code: exit_code::PAGE_NOT_VALIDATED, gpa }) => Given::NotValidated(gpa),
        Outcome::Fault(fault) => panic!("{fault:?}"),
        Outcome::Exit => {
            let exit = machine.exit_info(CPU0).expect("it left");
            match exit.code {
                exit_code::NPF => Given::NestedFault(exit.info1, exit.info2),
                exit_code::INTR => Given::Waits,
                code => panic!("exit {code:#x}"),
            }
        }
    }
}
