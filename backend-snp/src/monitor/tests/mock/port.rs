//! The instructions of one vCPU of the mock machine.

use super::*;

pub(in crate::monitor::tests) struct MockPort(pub(super) Machine);

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
