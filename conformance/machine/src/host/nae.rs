//! The events of the GHCB page (facts: ghcb_nae).

use super::ghcb::{self, Malformed, Reply, Request};
use super::policy::Policy;
use super::{At, Channel, LevelState, Next, cpuid, msr};
use crate::op::Stop;
use crate::{HostEvent, Machine, PAGE_SIZE};

/// SW_EXITCODE values that this host serves.
pub(super) mod event {
    numbers! {
        pub(super) u64:
        RDTSC = 0x6e;
        CPUID = 0x72;
        INVD = 0x76;
        IOIO = 0x7b;
        MSR = 0x7c;
        RDTSCP = 0x87;
        WBINVD = 0x89;
        RESET_HOLD = 0x8000_0004;
        PAGE_STATE_CHANGE = 0x8000_0010;
        GUEST_REQUEST = 0x8000_0011;
        EXTENDED_GUEST_REQUEST = 0x8000_0012;
        AP_CREATION = 0x8000_0013;
        APIC_ID_LIST = 0x8000_0017;
        RUN_VMPL = 0x8000_0018;
        FEATURES = 0x8000_fffd;
        TERMINATE = 0x8000_fffe;
        UNSUPPORTED = 0x8000_ffff;
    }
}

/// x2APIC interrupt command register.
const X2APIC_ICR: u64 = 0x830;
/// Time stamp counter.
const TSC: u64 = 0x10;
/// SW_EXITINFO1 of IOIO: IN.
pub(super) const IOIO_IN: u64 = 1 << 0;
/// SW_EXITINFO1 of IOIO: string instruction.
pub(super) const IOIO_STRING: u64 = 1 << 2;

/// What becomes of an event.
enum Served {
    /// It is answered now.
    Reply(Reply),
    /// It is answered later, or never.
    Next(Next),
}

impl From<Reply> for Served {
    fn from(reply: Reply) -> Self {
        Self::Reply(reply)
    }
}

impl Machine {
    /// Serves the request in the GHCB page at `gpa`.
    ///
    /// A page that this VMPL has not registered gets the error for it if the host can write it, else the vCPU stops.
    pub(super) fn page_request(&mut self, at: At, gpa: u64) -> Next {
        let request = Request::read(self, gpa);
        let registered = self.host.level(at.owner, at.vmpl).ghcb == Some(gpa);
        let parsed = if registered { request.header() } else { Err(Malformed::NotRegistered) };
        if let Ok((code, info1, info2)) = parsed {
            self.note(at.vcpu, HostEvent::GhcbPage { code, info1, info2 });
        }
        let served = parsed.and_then(|(code, info1, info2)| self.serve(at, gpa, &request, code, info1, info2));
        let reply = match served {
            Ok(Served::Next(next)) => return next,
            Ok(Served::Reply(reply)) => reply,
            Err(why) => why.into(),
        };
        if !self.write_reply(at, gpa, reply) {
            return Next::Stop(Stop::Refused);
        }
        self.retire(at.run);
        Next::Same
    }

    fn serve(
        &mut self,
        at: At,
        gpa: u64,
        request: &Request,
        code: u64,
        info1: u64,
        info2: u64,
    ) -> Result<Served, Malformed> {
        let reply = match code {
            event::CPUID => self.cpuid_event(at, request)?,
            event::MSR => self.msr_event(at, request, info1)?,
            event::IOIO => port_event(request, info1)?,
            event::RDTSC | event::RDTSCP => self.clock(),
            event::INVD | event::WBINVD => Reply::default(),
            event::PAGE_STATE_CHANGE => self.psc_list(at, gpa, request)?,
            event::GUEST_REQUEST => self.guest_message(at, info1, info2)?,
            event::EXTENDED_GUEST_REQUEST => {
                let (data, pages) = (request.input(ghcb::RAX)?, request.input(ghcb::RBX)?);
                self.extended_guest_message(at, info1, info2, data, pages)?
            }
            event::AP_CREATION => {
                let features = request.input(ghcb::RAX);
                self.ap_creation(at, info1, info2, features)?
            }
            event::APIC_ID_LIST => self.apic_ids(info1, request.input(ghcb::RAX)?)?,
            event::FEATURES => Reply::detail(msr::features(&self.host.policy(at.vcpu))),
            event::RUN_VMPL => {
                let to = u8::try_from(info1).unwrap_or(u8::MAX);
                return Ok(Served::Next(self.run_vmpl(at, to, Channel::Page(gpa))));
            }
            event::RESET_HOLD => {
                let state = LevelState::Held { run: at.run, channel: Channel::Page(gpa) };
                self.host.level_mut(at.owner, at.vmpl).state = state;
                return Ok(Served::Next(Next::Anybody));
            }
            // 4 and 8 bits.
            event::TERMINATE => {
                let (set, code) = ((info1 & 0xf) as u8, (info1 >> 4 & 0xff) as u8);
                return Ok(Served::Next(self.terminate(at, set, code)));
            }
            // The guest met something it cannot handle: like KVM, end it.
            event::UNSUPPORTED => return Ok(Served::Next(Next::Stop(Stop::Refused))),
            _ => return Err(Malformed::InvalidEvent),
        };
        Ok(reply.into())
    }

    fn cpuid_event(&self, at: At, request: &Request) -> Result<Reply, Malformed> {
        // The upper halves of RAX and RCX play no part.
        let (leaf, subleaf) = (request.input(ghcb::RAX)? as u32, request.input(ghcb::RCX)? as u32);
        if leaf == 0xd {
            request.input(ghcb::XCR0)?;
        }
        let [rax, rbx, rcx, rdx] =
            cpuid::answer(&self.host.policy(at.vcpu), leaf, subleaf, at.vcpu).map(|value| Some(u64::from(value)));
        Ok(Reply { rax, rbx, rcx, rdx, ..Reply::default() })
    }

    /// Knows two registers: the x2APIC ICR, which can be written, and the time stamp counter, which can be read.
    fn msr_event(&mut self, at: At, request: &Request, info1: u64) -> Result<Reply, Malformed> {
        let number = request.input(ghcb::RCX)?;
        let low = |value: u64| value & 0xffff_ffff;
        match (info1, number) {
            (0, _) if self.host.policy(at.vcpu) == Policy::LieMsr => {
                Ok(Reply { rax: Some(low(u64::MAX)), rdx: Some(low(u64::MAX)), ..Reply::default() })
            }
            (0, TSC) => Ok(self.clock()),
            (1, X2APIC_ICR) => {
                let (rax, rdx) = (request.input(ghcb::RAX)?, request.input(ghcb::RDX)?);
                self.send_ipi(at.vcpu, low(rdx) << 32 | low(rax));
                Ok(Reply::default())
            }
            (0 | 1, _) => Ok(Reply::general_protection()),
            _ => Err(Malformed::InvalidInput),
        }
    }

    /// A clock that counts guest steps.
    fn clock(&self) -> Reply {
        let ticks = self.host.steps;
        Reply { rax: Some(ticks & 0xffff_ffff), rdx: Some(ticks >> 32), ..Reply::default() }
    }

    /// Event 0x80000017: a count and the ids, 32 bits each, if the buffer has a page; RAX says that one is needed.
    fn apic_ids(&mut self, buffer: u64, pages: u64) -> Result<Reply, Malformed> {
        if pages > 0 {
            if !buffer.is_multiple_of(PAGE_SIZE) {
                return Err(Malformed::InvalidInput);
            }
            let vcpus = self.host.vcpus.len() as u32;
            let list = core::iter::once(vcpus).chain(0..vcpus);
            for (word, offset) in list.zip((0..).step_by(4)) {
                if !self.host_write(buffer + offset, &word.to_le_bytes()) {
                    return Err(Malformed::InvalidInput);
                }
            }
        }
        Ok(Reply { rax: Some(1), ..Reply::default() })
    }

    /// Ends a reset hold; false if the answer cannot be written.
    pub(super) fn answer_hold(&mut self, at: At, channel: Channel, sipi: bool) -> bool {
        match channel {
            Channel::Msr => {
                self.answer_hold_msr(at, sipi);
                true
            }
            Channel::Page(gpa) => {
                let written = self.write_reply(at, gpa, Reply::detail(u64::from(sipi)));
                self.retire(at.run);
                written
            }
        }
    }
}

/// Ports read as ones and swallow what is written; string forms need a scratch area.
fn port_event(request: &Request, info1: u64) -> Result<Reply, Malformed> {
    if info1 & IOIO_STRING != 0 {
        request.scratch(1)?;
        return Ok(Reply::default());
    }
    if info1 & IOIO_IN != 0 {
        return Ok(Reply { rax: Some(u64::from(u32::MAX)), ..Reply::default() });
    }
    request.input(ghcb::RAX)?;
    Ok(Reply::default())
}
