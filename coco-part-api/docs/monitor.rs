use coco_part_api::svsm::{CORE, CallId, CallResult, PVALIDATE, list};
use coco_part_api::*;

/// One guest vCPU: frames of `ram` become its own on request, once each, by lists that lie in `home`.
pub struct Guest<'a> {
    pub level: GuestLevel,
    pub home: FrameRange,
    pub ram: FrameRange,
    pub valid: &'a mut [bool],
}

pub fn serve<B: Monitor>(l1: &mut B, guest: &mut Guest<'_>) -> Result<Exit, B::Error> {
    loop {
        let (call, result) = match l1.run(guest.level)? {
            Exit::Call(call) if call.regs().rax == CallId::new(CORE, PVALIDATE).to_rax() => {
                let done = validate(l1, guest, call.regs().rcx);
                (call, done.unwrap_or_else(CallResult::from))
            }
            Exit::Call(call) => (call, CallResult::UNSUPPORTED_CALL),
            Exit::MalformedCall(call) => (call, CallResult::INVALID_FORMAT),
            Exit::Spurious => continue,
            other => return Ok(other),
        };
        let regs = call.regs().with_result(result);
        l1.answer(call, regs)?;
    }
}

fn validate<B: Monitor>(l1: &mut B, guest: &mut Guest<'_>, at: u64) -> Result<CallResult, ErrorKind> {
    let list = list::ListPlace::inside(at, guest.home)?;
    let (header, entry) = list.next_entry(&l1.memory())?;
    let flags = guest.ram.slots_mut(entry.to_validate()?, guest.valid)?;
    if flags.contains(&true) {
        return Err(ErrorKind::AlreadyInState);
    }
    let grants = Grants::one(guest.level, Rights::RAM);
    l1.validate_for(entry.block.range(), &grants, Origin::Request).map_err(|stop| stop.cause.kind())?;
    flags.fill(true);
    list.advance(&l1.memory(), header)
}
