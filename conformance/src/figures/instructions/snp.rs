//! SNP: a port whose instructions succeed and do nothing, and L1 over it.

use std::mem::offset_of;

use backend_snp::SnpError;
use backend_snp::abi::exit_codes::ExitCode;
use backend_snp::abi::ghcb::{Ghcb, ValidBit, ValidBitmap};
use backend_snp::abi::ghcb_msr::MsrCode;
use backend_snp::abi::nae::HvFeatures;
use backend_snp::abi::sev_features::SevFeatures;
use backend_snp::abi::vmsa::Vmsa;
use backend_snp::instr::{
    CallFrame, Fault, Invlpgb, Page, Port, PvalidateOp, PvalidateResult, RmpAttributes, RmpCode, RmpQueryResult, Vmpl,
};
use backend_snp::monitor::{L1, Seed, Setup, Shared, SwitchBy};
use backend_snp::vmsa_image;
use coco_part_api::{CallRegs, Context, GuestMemory, VcpuId};
use x86_64::PhysAddr;
use zerocopy::IntoBytes;

use super::null::{NullMemory, Outside};
use super::vm::{LEVEL, NullVendor, VCPUS, ram};
use crate::snp::features;
use crate::world::layout::{BOOT_STATE, CALL_AREA, MONITOR_CHANNEL, MONITOR_FEATURES, MONITOR_SECRETS, frame, page};

/// SNP on a null port.
pub(super) enum NullSnp {}

/// L1 over it.
pub(super) type NullL1 = L1<'static, NullPort, NullMemory>;

impl NullVendor for NullSnp {
    type Seed = Seed;
    type Backend = NullL1;
    type Error = SnpError;

    fn backend(memory: NullMemory) -> Result<NullL1, SnpError> {
        let at = MONITOR_FEATURES;
        memory.write(PhysAddr::new(at), &features::page()).map_err(SnpError::memory(PhysAddr::new(at)))?;
        let setup = Setup {
            vcpu: VcpuId(0),
            map: ram(),
            private: memory,
            shared: memory,
            ghcb: frame(MONITOR_CHANNEL),
            request: frame(page(MONITOR_CHANNEL, 1)),
            response: frame(page(MONITOR_CHANNEL, 2)),
            scratch: frame(page(MONITOR_CHANNEL, 3)),
            levels: &[LEVEL],
            reflect: &[],
            secrets: frame(MONITOR_SECRETS),
            cpuid: frame(MONITOR_FEATURES),
            switch_by: SwitchBy::Msr,
        };
        L1::start(NullPort { ghcb_msr: 0, memory }, setup, Box::leak(Box::new(Shared::<VCPUS>::new())))
    }

    /// The registers go to the VMSA, the mark to the call area: L1 finds a call there before it enters the level.
    fn call(memory: NullMemory, regs: CallRegs) -> Result<(), Outside> {
        let fields = [
            (offset_of!(Vmsa, guest_exit_code), ExitCode::VMGEXIT.0),
            (offset_of!(Vmsa, rax), regs.rax),
            (offset_of!(Vmsa, rcx), regs.rcx),
            (offset_of!(Vmsa, rdx), regs.rdx),
            (offset_of!(Vmsa, r8), regs.r8),
            (offset_of!(Vmsa, r9), regs.r9),
        ];
        for (field, value) in fields {
            memory.write_value(PhysAddr::new(BOOT_STATE + field as u64), &value)?;
        }
        memory.write(PhysAddr::new(CALL_AREA), &[1])
    }

    fn image(context: &Context) -> Vec<u8> {
        vmsa_image::image(context, Vmpl::VMPL2, SevFeatures::SNP_ACTIVE).as_bytes().to_vec()
    }
}

/// The port. The host behind it agrees to everything.
pub(super) struct NullPort {
    ghcb_msr: u64,
    memory: NullMemory,
}

impl NullPort {
    /// What an honest host answers to a request in the GHCB MSR, or in the GHCB page.
    fn host(&mut self) {
        let (code, data) = (MsrCode((self.ghcb_msr & 0xfff) as u16), self.ghcb_msr & !0xfff);
        let answer = |code: MsrCode, data: u64| u64::from(code.0) | data;
        self.ghcb_msr = match code {
            // Versions 1 to 2, C-bit 51.
            MsrCode::SEV_INFO_REQUEST => answer(MsrCode::SEV_INFO_RESPONSE, 2 << 48 | 1 << 32 | 51 << 24),
            MsrCode::HYPERVISOR_FEATURES_REQUEST => {
                answer(MsrCode::HYPERVISOR_FEATURES_RESPONSE, HvFeatures::all().bits() << 12)
            }
            MsrCode::REGISTER_GHCB_GPA_REQUEST => answer(MsrCode::REGISTER_GHCB_GPA_RESPONSE, data),
            MsrCode::PAGE_STATE_CHANGE_REQUEST => answer(MsrCode::PAGE_STATE_CHANGE_RESPONSE, 0),
            MsrCode::RUN_VMPL_REQUEST => answer(MsrCode::RUN_VMPL_RESPONSE, 0),
            _ => {
                let mut valid = ValidBitmap::default();
                valid.set(ValidBit::SW_EXIT_INFO_1);
                valid.set(ValidBit::SW_EXIT_INFO_2);
                let status = [0; 16];
                for (field, bytes) in [
                    (offset_of!(Ghcb, sw_exit_info_1), &status[..]),
                    (offset_of!(Ghcb, valid_bitmap), valid.as_bytes()),
                ] {
                    // A page that is not there gets no answer.
                    let _ = self.memory.write(PhysAddr::new(data + field as u64), bytes);
                }
                self.ghcb_msr
            }
        };
    }
}

impl Port for NullPort {
    #[inline]
    fn pvalidate(&mut self, page: Page, op: PvalidateOp) -> Result<PvalidateResult, Fault> {
        uncounted::pvalidate(page, op)
    }

    #[inline]
    fn rmpadjust(&mut self, page: Page, attributes: RmpAttributes) -> Result<RmpCode, Fault> {
        uncounted::rmpadjust(page, attributes)
    }

    fn rmpquery(&mut self, _at: PhysAddr, _target: Vmpl) -> Result<RmpQueryResult, Fault> {
        Err(Fault::InvalidOpcode)
    }

    fn vmgexit(&mut self) {
        self.host();
    }

    fn vmgexit_call(&mut self, _regs: &mut CallFrame) {}

    #[inline]
    fn read_ghcb_msr(&mut self) -> u64 {
        self.ghcb_msr
    }

    #[inline]
    fn write_ghcb_msr(&mut self, value: u64) {
        self.ghcb_msr = value;
    }

    fn read_sev_status(&mut self) -> u64 {
        // SEV, SEV-ES, SNP.
        0b111
    }

    #[inline]
    fn invlpgb(&mut self, request: Invlpgb) {
        uncounted::invlpgb(request);
    }

    #[inline]
    fn tlbsync(&mut self) {
        uncounted::tlbsync();
    }

    fn pause(&mut self) {}

    fn halt(&mut self) {}
}

/// The instructions, as in [`null`](super::null).
mod uncounted {
    use std::hint::black_box;

    use backend_snp::instr::{
        Fault, Invlpgb, Page, PvalidateCode, PvalidateOp, PvalidateResult, RmpAttributes, RmpCode,
    };

    #[inline(never)]
    pub(super) fn pvalidate(page: Page, op: PvalidateOp) -> Result<PvalidateResult, Fault> {
        black_box((page, op));
        black_box(Ok(PvalidateResult { code: PvalidateCode::SUCCESS, carry: false }))
    }

    #[inline(never)]
    pub(super) fn rmpadjust(page: Page, attributes: RmpAttributes) -> Result<RmpCode, Fault> {
        black_box((page, attributes));
        black_box(Ok(RmpCode::SUCCESS))
    }

    #[inline(never)]
    pub(super) fn invlpgb(request: Invlpgb) {
        black_box(request);
    }

    #[inline(never)]
    pub(super) fn tlbsync() {
        black_box(());
    }
}
