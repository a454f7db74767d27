//! Rights, attributes and return codes of PVALIDATE, RMPADJUST and RMPQUERY.
//!
//! Source: 24593, `facts/instructions.csv` and `facts/vmpl_perms.csv`.

use super::vmpl::Vmpl;

flags! {
    /// What one VMPL may do with one page: a mask of the RMP entry.
    ///
    /// Write without Read is illegal: any data access then faults.
    pub struct VmplPermissions(u8) {
        /// Data reads.
        READ = 0x01;
        /// Data writes.
        WRITE = 0x02;
        /// Instruction fetches at CPL 3.
        EXECUTE_USER = 0x04;
        /// Instruction fetches at CPL 0 to 2.
        EXECUTE_SUPERVISOR = 0x08;
        /// Supervisor shadow stack accesses; counts only with the feature `VMPL_SSS`.
        SUPERVISOR_SHADOW_STACK = 0x10;
    }
}

bit_struct! {
    /// RDX of RMPADJUST and RMPQUERY.
    pub struct RmpAttributes(u64) {
        /// Number of the VMPL whose mask is meant.
        target_number / with_target_number @ 7:0,
        /// Permission mask, see [`VmplPermissions`]. It replaces the whole mask.
        permission_bits / with_permission_bits @ 15:8,
        /// 1 if the page is a VMSA.
        vmsa_bit / with_vmsa_bit @ 16:16,
    }
}

impl RmpAttributes {
    /// Asks for `permissions` for `target` on an ordinary page.
    pub const fn new(target: Vmpl, permissions: VmplPermissions) -> Self {
        Self(0).with_target_number(target.number() as u64).with_permission_bits(permissions.bits() as u64)
    }

    /// Asks in addition that the page becomes a VMSA. Counts at VMPL0 only; elsewhere the bit is ignored, not refused.
    #[must_use]
    pub const fn with_vmsa(self) -> Self {
        self.with_vmsa_bit(1)
    }

    /// Returns the permission mask. Unknown bits are kept.
    pub const fn permissions(self) -> VmplPermissions {
        VmplPermissions::from_bits_retain(self.permission_bits() as u8)
    }

    /// Says whether the page is, or shall become, a VMSA.
    pub const fn is_vmsa(self) -> bool {
        self.vmsa_bit() == 1
    }
}

/// What PVALIDATE does with the Validated flag of a page. The number is EDX.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum PvalidateOp {
    /// Clears the flag.
    Rescind = 0,
    /// Sets the flag.
    Validate = 1,
}

codes! {
    /// EAX after PVALIDATE.
    pub struct PvalidateCode(u32) {
        /// Done, or nothing to do: see the carry flag.
        SUCCESS = 0;
        /// Bad input, for example an address that is not aligned to the size.
        FAIL_INPUT = 1;
        /// 2 MiB were asked for and the RMP holds 4 KiB entries. Repeat with 512 small pages.
        FAIL_SIZEMISMATCH = 6;
    }
}

codes! {
    /// EAX after RMPADJUST or RMPQUERY.
    pub struct RmpCode(u32) {
        /// Done.
        SUCCESS = 0;
        /// Bad input, for example an address that is not aligned to the size.
        FAIL_INPUT = 1;
        /// The target is not below the caller, or the mask holds a right that the caller lacks.
        FAIL_PERMISSION = 2;
        /// The entry is in use, for example by a VMSA that runs.
        FAIL_INUSE = 3;
        /// 2 MiB were asked for and the RMP holds 4 KiB entries.
        FAIL_SIZEMISMATCH = 6;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_have_the_bits_of_rdx() {
        let all = VmplPermissions::all();
        assert_eq!(RmpAttributes::new(Vmpl::VMPL1, VmplPermissions::empty()).bits(), 0x1);
        assert_eq!(RmpAttributes::new(Vmpl::VMPL3, all).bits(), 0x1f03);
        assert_eq!(RmpAttributes::new(Vmpl::VMPL2, VmplPermissions::READ).with_vmsa().bits(), 0x1_0102);
        assert_eq!(RmpAttributes::from_bits_retain(0x1_ff01).permissions().bits(), 0xff);
    }
}
