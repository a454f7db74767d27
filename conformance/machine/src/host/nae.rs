//! The events of the GHCB page (facts: ghcb_nae).

use super::cpuid::Leaf;
use super::device::Access;
use super::ghcb::{self, Malformed, Reply, Request};
use super::policy::Policy;
use super::{At, Channel, LevelState, Next, cpuid, msr};
use crate::op::Stop;
use crate::{HostEvent, Machine, PAGE_SIZE};

/// SW_EXITCODE values that this host serves.
pub(super) mod event {
    numbers! {
        pub(in crate::host) u64:
        DR7_READ = 0x27;
        DR7_WRITE = 0x37;
        RDTSC = 0x6e;
        RDPMC = 0x6f;
        CPUID = 0x72;
        INVD = 0x76;
        IOIO = 0x7b;
        MSR = 0x7c;
        VMMCALL = 0x81;
        RDTSCP = 0x87;
        WBINVD = 0x89;
        MONITOR = 0x8a;
        MWAIT = 0x8b;
        MMIO_READ = 0x8000_0001;
        MMIO_WRITE = 0x8000_0002;
        NMI_COMPLETE = 0x8000_0003;
        AP_RESET_HOLD = 0x8000_0004;
        AP_JUMP_TABLE = 0x8000_0005;
        PAGE_STATE_CHANGE = 0x8000_0010;
        GUEST_REQUEST = 0x8000_0011;
        EXTENDED_GUEST_REQUEST = 0x8000_0012;
        AP_CREATION = 0x8000_0013;
        HV_IPI = 0x8000_0015;
        APIC_ID_LIST = 0x8000_0017;
        RUN_VMPL = 0x8000_0018;
        HYPERVISOR_FEATURES = 0x8000_fffd;
        TERMINATE = 0x8000_fffe;
        UNSUPPORTED_EVENT = 0x8000_ffff;
    }
}

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
            event::IOIO => self.port_event(at, gpa, request, info1, info2)?,
            event::MMIO_READ => self.device_event(gpa, request, Access::Read, info1, info2)?,
            event::MMIO_WRITE => self.device_event(gpa, request, Access::Write, info1, info2)?,
            event::DR7_READ => self.dr7_read(at),
            event::DR7_WRITE => self.dr7_write(at, request)?,
            event::RDTSC => self.clock(),
            event::RDTSCP => self.clock_and_aux(at),
            event::RDPMC => self.counter(request)?,
            event::VMMCALL => Self::vmmcall(request)?,
            // There are no NMIs.
            event::INVD | event::WBINVD | event::NMI_COMPLETE => Reply::default(),
            // The monitor always fires at once.
            event::MONITOR => request.inputs(&[ghcb::RAX, ghcb::RCX, ghcb::RDX])?,
            event::MWAIT => request.inputs(&[ghcb::RAX, ghcb::RCX])?,
            event::AP_JUMP_TABLE => self.jump_table(info1, info2)?,
            event::HV_IPI => {
                self.send_ipi(at, info1);
                Reply::default()
            }
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
            event::APIC_ID_LIST => self.apic_ids(at, info1, request.input(ghcb::RAX)?)?,
            event::HYPERVISOR_FEATURES => Reply::detail(msr::features(&self.host.policy(at.vcpu))),
            event::RUN_VMPL => {
                let to = u8::try_from(info1).unwrap_or(u8::MAX);
                return Ok(Served::Next(self.run_vmpl(at, to, Channel::Page(gpa))));
            }
            event::AP_RESET_HOLD => {
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
            event::UNSUPPORTED_EVENT => return Ok(Served::Next(Next::Stop(Stop::Refused))),
            _ => return Err(Malformed::InvalidEvent),
        };
        Ok(reply.into())
    }

    fn cpuid_event(&self, at: At, request: &Request) -> Result<Reply, Malformed> {
        // The upper halves of RAX and RCX play no part.
        let (leaf, subleaf) = (request.input(ghcb::RAX)? as u32, request.input(ghcb::RCX)? as u32);
        let xcr0 = if leaf == 0xd { Some(request.input(ghcb::XCR0)?) } else { None };
        let xss = if (leaf, subleaf) == (0xd, 1) { Some(request.input(ghcb::XSS)?) } else { None };
        let registers = cpuid::answer(&self.host.policy(at.vcpu), Leaf { leaf, subleaf, xcr0, xss }, at.vcpu);
        let [rax, rbx, rcx, rdx] = registers.map(|value| Some(u64::from(value)));
        Ok(Reply { rax, rbx, rcx, rdx, ..Reply::default() })
    }

    /// Event 0x80000005: keeps an address, and gives it back.
    fn jump_table(&mut self, info1: u64, info2: u64) -> Result<Reply, Malformed> {
        match (info1, info2) {
            (0, address) => self.host.jump_table = address,
            (1, 0) => return Ok(Reply::detail(self.host.jump_table)),
            _ => return Err(Malformed::InvalidInput),
        }
        Ok(Reply::default())
    }

    /// Event 0x80000017: a count and the ids, 32 bits each, if the buffer has a page; RAX says that one is needed.
    fn apic_ids(&mut self, at: At, buffer: u64, pages: u64) -> Result<Reply, Malformed> {
        let policy = self.host.policy(at.vcpu);
        if let Policy::DemandListPages(pages) = policy {
            return Ok(Reply { rax: Some(pages), ..Reply::default() });
        }
        if pages > 0 {
            if !buffer.is_multiple_of(PAGE_SIZE) {
                return Err(Malformed::InvalidInput);
            }
            let vcpus = self.host.vcpus.len() as u32;
            let count = if let Policy::LieListCount(count) = policy { count } else { vcpus };
            let list = core::iter::once(count).chain(0..vcpus);
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
