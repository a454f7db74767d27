//! The GHCB MSR protocol: bits 11:0 carry a code, 63:12 the data (facts: ghcb_msr).

use super::cpuid::Leaf;
use super::policy::Policy;
use super::psc::{self, Operation};
use super::{At, Channel, LevelState, Next, cpuid};
use crate::op::Stop;
use crate::{HostEvent, Machine};

/// Hypervisor features of the honest host: SEV-SNP, AP creation, APIC id list, multiple VMPLs.
pub(super) const FEATURES: u64 = 1 << 0 | 1 << 1 | 1 << 4 | 1 << 5;
/// Feature bit of taking a GHCB registration back: this host can do it where it says so.
const UNREGISTER: u64 = 1 << 8;
/// Position of the C-bit.
pub(super) const C_BIT: u8 = 51;
/// The only protocol version that serves an SNP guest.
const VERSION: u16 = 2;

numbers! {
    u64:
    SEV_INFO_RESPONSE = 0x001;
    SEV_INFO_REQUEST = 0x002;
    CPUID_REQUEST = 0x004;
    CPUID_RESPONSE = 0x005;
    RESET_HOLD_REQUEST = 0x006;
    RESET_HOLD_RESPONSE = 0x007;
    PREFERRED_GHCB_REQUEST = 0x010;
    PREFERRED_GHCB_RESPONSE = 0x011;
    REGISTER_GHCB_REQUEST = 0x012;
    REGISTER_GHCB_RESPONSE = 0x013;
    PSC_REQUEST = 0x014;
    PSC_RESPONSE = 0x015;
    RUN_VMPL_REQUEST = 0x016;
    RUN_VMPL_RESPONSE = 0x017;
    UNREGISTER_GHCB_REQUEST = 0x018;
    UNREGISTER_GHCB_RESPONSE = 0x019;
    FEATURES_REQUEST = 0x080;
    FEATURES_RESPONSE = 0x081;
    TERMINATE_REQUEST = 0x100;
}

/// Error bits 63:32 of a response that has some; KVM sets the top bit.
const ERROR: u64 = 1 << 63;
/// Frame of a response that names none.
const NO_FRAME: u64 = u64::MAX >> 12;

/// The parts of a value: code, and data shifted down.
fn split(value: u64) -> (u64, u64) {
    (value & 0xfff, value >> 12)
}

/// Code 0x001.
fn sev_info(min: u16, max: u16, c_bit: u8) -> u64 {
    u64::from(max) << 48 | u64::from(min) << 32 | u64::from(c_bit) << 24 | SEV_INFO_RESPONSE
}

/// Code 0x013, 0x011, 0x081 or 0x007: data from bit 12 on.
fn with_data(code: u64, data: u64) -> u64 {
    data << 12 | code
}

/// Code 0x017.
pub(super) fn run_vmpl_response(done: bool) -> u64 {
    if done { RUN_VMPL_RESPONSE } else { ERROR | RUN_VMPL_RESPONSE }
}

/// Code 0x015.
fn psc_response(done: bool) -> u64 {
    if done { PSC_RESPONSE } else { ERROR | PSC_RESPONSE }
}

/// Leaf and register of code 0x004.
fn cpuid_request(value: u64) -> (u32, u8) {
    // Shifts leave 32 and 2 bits.
    ((value >> 32) as u32, (value >> 30 & 3) as u8)
}

/// Code 0x005.
fn cpuid_response(value: u32, register: u8) -> u64 {
    u64::from(value) << 32 | u64::from(register) << 30 | CPUID_RESPONSE
}

/// Operation and address of code 0x014; `None` for what this form does not allow.
fn psc_request(value: u64) -> Option<(Operation, u64)> {
    if value >> 56 != 0 {
        return None;
    }
    let operation = match value >> 52 & 0xf {
        1 => Operation::Private,
        2 => Operation::Shared,
        _ => return None,
    };
    Some((operation, value & psc::FRAME_BITS))
}

impl Machine {
    /// Serves one MSR request.
    pub(super) fn msr_request(&mut self, at: At, request: u64) -> Next {
        let (code, data) = split(request);
        let policy = self.host.policy(at.vcpu);
        let response = match code {
            SEV_INFO_REQUEST => {
                let (min, max) = match policy {
                    Policy::LieVersion { min, max } => (min, max),
                    _ => (VERSION, VERSION),
                };
                let c_bit = if let Policy::LieCBit(bit) = policy { bit } else { C_BIT };
                sev_info(min, max, c_bit)
            }
            CPUID_REQUEST => {
                let (leaf, register) = cpuid_request(request);
                let registers = cpuid::answer(&policy, Leaf { leaf, ..Leaf::default() }, at.vcpu);
                cpuid_response(registers[usize::from(register)], register)
            }
            PREFERRED_GHCB_REQUEST => {
                let wish = if let Policy::PreferGhcb(frame) = policy { frame } else { NO_FRAME };
                with_data(PREFERRED_GHCB_RESPONSE, wish)
            }
            REGISTER_GHCB_REQUEST => with_data(REGISTER_GHCB_RESPONSE, self.register_ghcb(at, data)),
            UNREGISTER_GHCB_REQUEST if features(&policy) & UNREGISTER != 0 => {
                with_data(UNREGISTER_GHCB_RESPONSE, self.unregister_ghcb(at, data))
            }
            FEATURES_REQUEST => with_data(FEATURES_RESPONSE, features(&policy)),
            PSC_REQUEST => psc_response(self.psc_one(at, psc_request(request))),
            RUN_VMPL_REQUEST => return self.run_vmpl_msr(at, request),
            RESET_HOLD_REQUEST => {
                let state = LevelState::Held { run: at.run, channel: Channel::Msr };
                self.host.level_mut(at.owner, at.vmpl).state = state;
                return Next::Anybody;
            }
            // 4 and 8 bits.
            TERMINATE_REQUEST => return self.terminate(at, (data & 0xf) as u8, (data >> 4 & 0xff) as u8),
            _ => {
                self.note(at.vcpu, HostEvent::MsrProtocol { request, response: request });
                return Next::Stop(Stop::Refused);
            }
        };
        self.answer_msr(at, request, response);
        Next::Same
    }

    /// Bits 39:32 name the VMPL; the others are reserved.
    fn run_vmpl_msr(&mut self, at: At, request: u64) -> Next {
        let reserved = request >> 40 != 0 || request >> 12 & 0xf_ffff != 0;
        let to = if reserved { u8::MAX } else { (request >> 32) as u8 };
        self.note(at.vcpu, HostEvent::MsrProtocol { request, response: RUN_VMPL_RESPONSE });
        self.run_vmpl(at, to, Channel::Msr)
    }

    /// Remembers the page of this VMPL; the answer is the frame, or all ones for what is no memory of the guest.
    fn register_ghcb(&mut self, at: At, frame: u64) -> u64 {
        if let Policy::WrongGhcbRegistration(wrong) = self.host.policy(at.vcpu) {
            return wrong & NO_FRAME;
        }
        if self.translate(frame << 12).is_none() {
            return NO_FRAME;
        }
        self.host.level_mut(at.owner, at.vmpl).ghcb = Some(frame << 12);
        frame
    }

    /// Forgets the page of this VMPL; the answer is the frame, or all ones for one that is not registered.
    fn unregister_ghcb(&mut self, at: At, frame: u64) -> u64 {
        let level = self.host.level_mut(at.owner, at.vmpl);
        if level.ghcb != Some(frame << 12) {
            return NO_FRAME;
        }
        level.ghcb = None;
        frame
    }

    /// Ends a reset hold; `sipi` is false for a host that wakes without reason.
    pub(super) fn answer_hold_msr(&mut self, at: At, sipi: bool) {
        self.answer_msr(at, RESET_HOLD_REQUEST, with_data(RESET_HOLD_RESPONSE, u64::from(sipi)));
    }

    fn answer_msr(&mut self, at: At, request: u64, honest: u64) {
        let response = match self.host.policy(at.vcpu) {
            Policy::WrongMsrResponseCode(code) => honest & !0xfff | u64::from(code) & 0xfff,
            _ => honest,
        };
        self.note(at.vcpu, HostEvent::MsrProtocol { request, response });
        self.set_ghcb_msr(at.run, response);
        self.retire(at.run);
    }
}

/// Feature bitmap as this host tells it.
pub(super) fn features(policy: &Policy) -> u64 {
    match policy {
        Policy::LieFeatures(bits) => *bits,
        _ => FEATURES,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encodes_answers_as_the_facts_say() {
        assert_eq!(sev_info(2, 2, 51), 0x0002_0002_3300_0001);
        assert_eq!(with_data(FEATURES_RESPONSE, FEATURES), 0x33_081);
        assert_eq!(with_data(PREFERRED_GHCB_RESPONSE, NO_FRAME), 0xffff_ffff_ffff_f011);
        assert_eq!(with_data(REGISTER_GHCB_RESPONSE, 0x1234), 0x0123_4013);
        assert_eq!(run_vmpl_response(true), 0x017);
        assert_ne!(run_vmpl_response(false) >> 32, 0);
        assert_eq!(run_vmpl_response(false) & 0xffff_ffff, 0x017);
        assert_eq!(psc_response(true), 0x015);
        assert_eq!(psc_response(false), 0x8000_0000_0000_0015);
        assert_eq!(cpuid_response(0xdead_beef, 3), 0xdead_beef_c000_0005);
    }

    #[test]
    fn decodes_requests_as_the_facts_say() {
        assert_eq!(split(0x1234_5012), (0x012, 0x12345));
        assert_eq!(cpuid_request(0x8000_001f_4000_0004), (0x8000_001f, 1));
        assert_eq!(psc_request(0x0010_0000_0567_8014), Some((Operation::Private, 0x567_8000)));
        assert_eq!(psc_request(0x002f_ffff_ffff_f014), Some((Operation::Shared, 0xf_ffff_ffff_f000)));
    }

    #[test]
    fn the_single_page_form_takes_no_split_join_or_reserved_bits() {
        assert_eq!(psc_request(0x0030_0000_0567_8014), None);
        assert_eq!(psc_request(0x0040_0000_0567_8014), None);
        assert_eq!(psc_request(0x0110_0000_0567_8014), None);
        assert_eq!(psc_request(0x0000_0000_0567_8014), None);
    }
}
