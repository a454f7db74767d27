//! The verbs of the interface. Each is L1's own function of the same name, for who knows that this is the vendor.

use coco_part_api::{
    AdmitVcpu, After, CallRegs, Exit, FrameRange, Grant, Grants, GuestLevel, GuestMemory, NotYet, Origin, PendingCall,
    RunLevel, Source, Stopped, Terms, Validate,
};
use x86_64::structures::paging::PhysFrame;

use super::{Cut, Flushed, L1, Seed};
use crate::error::SnpError;
use crate::instr::Port;

impl<P: Port, M: GuestMemory> Validate for L1<'_, P, M> {
    fn validate(&mut self, range: FrameRange) -> Result<(), Stopped<SnpError>> {
        L1::validate(self, range)
    }

    fn rescind(&mut self, range: FrameRange, then: After) -> Result<(), Stopped<SnpError>> {
        L1::rescind(self, range, then)
    }
}

impl<P: Port, M: GuestMemory> Grant for L1<'_, P, M> {
    type Cut = Cut;
    type Flushed = Flushed;

    fn validate_for(&mut self, range: FrameRange, grants: &Grants, by: Origin) -> Result<(), Stopped<SnpError>> {
        L1::validate_for(self, range, grants, by)
    }

    fn publish(&mut self, range: FrameRange, grants: &Grants) -> Result<(), Stopped<SnpError>> {
        L1::publish(self, range, grants)
    }

    fn withdraw(&mut self, range: FrameRange, by: Origin, cut: &mut Cut) -> Result<(), Stopped<SnpError>> {
        L1::withdraw(self, range, by, cut)
    }

    fn redeem(&mut self, cut: Cut) -> Result<Flushed, NotYet<Cut>> {
        L1::redeem(self, cut)
    }

    fn regrant(&mut self, range: FrameRange, grants: &Grants, proof: &Flushed) -> Result<(), Stopped<SnpError>> {
        L1::regrant(self, range, grants, proof)
    }

    fn rescind_from(
        &mut self,
        range: FrameRange,
        then: After,
        by: Origin,
        proof: &Flushed,
    ) -> Result<(), Stopped<SnpError>> {
        L1::rescind_from(self, range, then, by, proof)
    }

    fn set_rights(&mut self, range: FrameRange, grants: &Grants, cut: &mut Cut) -> Result<(), Stopped<SnpError>> {
        L1::set_rights(self, range, grants, cut)
    }
}

impl<P: Port, M: GuestMemory> AdmitVcpu for L1<'_, P, M> {
    type Seed = Seed;

    fn admit(&mut self, state: PhysFrame, from: Source<'_>, terms: &Terms, proof: &Flushed) -> Result<Seed, SnpError> {
        L1::admit(self, state, from, terms, proof)
    }

    fn install(&mut self, seed: Seed) -> Result<(), (Seed, SnpError)> {
        L1::install(self, seed)
    }

    fn retire(&mut self, state: PhysFrame, terms: &Terms) -> Result<(), SnpError> {
        L1::retire(self, state, terms)
    }
}

impl<P: Port, M: GuestMemory> RunLevel for L1<'_, P, M> {
    fn run(&mut self, level: GuestLevel) -> Result<Exit, SnpError> {
        L1::run(self, level)
    }

    fn answer(&mut self, call: PendingCall, regs: CallRegs) -> Result<(), SnpError> {
        L1::answer(self, call, regs)
    }

    fn set_call_area(&mut self, level: GuestLevel, at: PhysFrame) -> Result<(), SnpError> {
        L1::set_call_area(self, level, at)
    }
}
