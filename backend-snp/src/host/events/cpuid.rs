//! CPUID, as the host answers it.

use coco_part_api::GuestMemory;

use crate::abi::cpuid_leaves::CpuidLeaf;
use crate::abi::nae::NaeCode;
use crate::error::SnpError;
use crate::host::GhcbPage;
use crate::host::request::{Fields, Request};
use crate::instr::Port;

/// What CPUID is executed with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuidRequest {
    /// EAX: leaf.
    pub leaf: u32,
    /// ECX: sub-leaf.
    pub subleaf: u32,
    /// XCR0. The host sees it for leaf 0xd only.
    pub xcr0: u64,
    /// IA32_XSS. The host sees it for leaf 0xd, sub-leaf 1, only.
    pub xss: u64,
}

/// The registers that CPUID returns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuidResult {
    /// EAX.
    pub eax: u32,
    /// EBX.
    pub ebx: u32,
    /// ECX.
    pub ecx: u32,
    /// EDX.
    pub edx: u32,
}

/// Leaf about the extended state.
const EXTENDED_STATE: u32 = CpuidLeaf::EXTENDED_STATE.0;

impl<M: GuestMemory> GhcbPage<M> {
    /// Asks for a CPUID leaf. The host's word: for anything that matters the CPUID page counts (CP-01).
    ///
    /// # Errors
    /// The answer errors.
    #[doc(alias = "CPUID")]
    pub fn cpuid<P: Port>(&mut self, port: &mut P, request: CpuidRequest) -> Result<CpuidResult, SnpError> {
        let CpuidRequest { leaf, subleaf, xcr0, xss } = request;
        let fields = Fields {
            rax: Some(leaf.into()),
            rcx: Some(subleaf.into()),
            xcr0: (leaf == EXTENDED_STATE).then_some(xcr0),
            xss: (leaf == EXTENDED_STATE && subleaf == 1).then_some(xss),
            ..Fields::default()
        };
        let registers = self.ask_for_registers(port, &Request::plain(NaeCode::CPUID).with(fields))?;
        // The instruction writes 32 bits of each.
        Ok(CpuidResult {
            eax: registers.rax()? as u32,
            ebx: registers.rbx()? as u32,
            ecx: registers.rcx()? as u32,
            edx: registers.rdx()? as u32,
        })
    }
}
