//! The VMCS of an L2: what is in it, what it starts with, and which states the processor enters.

use alloc::collections::BTreeMap;

use super::guest_state::GuestState;

/// Encodings of fields that the machine itself uses (metadata_fields.csv).
pub(crate) mod field {
    numbers! {
        pub(crate) u32:
        CS_SELECTOR = 0x802;
        INTERRUPT_STATUS = 0x810;
        VIRTUAL_APIC = 0x2012;
        EOI_EXIT_BITMAP = 0x201c;
        GUEST_PHYSICAL_ADDRESS = 0x2400;
        PAT = 0x2804;
        EFER = 0x2806;
        PIN_CONTROLS = 0x4000;
        PRIMARY_CONTROLS = 0x4002;
        EXCEPTION_BITMAP = 0x4004;
        PAGE_FAULT_MASK = 0x4006;
        PAGE_FAULT_MATCH = 0x4008;
        EXIT_CONTROLS = 0x400c;
        ENTRY_CONTROLS = 0x4012;
        ENTRY_EVENT = 0x4016;
        TPR_THRESHOLD = 0x401c;
        SECONDARY_CONTROLS = 0x401e;
        TERTIARY_CONTROLS = 0x2034;
        EXIT_REASON = 0x4402;
        EXIT_INTERRUPTION = 0x4404;
        EXIT_INTERRUPTION_ERROR = 0x4406;
        EXIT_LENGTH = 0x440c;
        EXIT_INSTRUCTION_INFO = 0x440e;
        CS_LIMIT = 0x4802;
        GDTR_LIMIT = 0x4810;
        IDTR_LIMIT = 0x4812;
        ES_RIGHTS = 0x4814;
        CS_RIGHTS = 0x4816;
        LDTR_RIGHTS = 0x4820;
        TR_RIGHTS = 0x4822;
        INTERRUPTIBILITY = 0x4824;
        CR0_MASK = 0x6000;
        CR4_MASK = 0x6002;
        CR0_SHADOW = 0x6004;
        CR4_SHADOW = 0x6006;
        EXIT_QUALIFICATION = 0x6400;
        GUEST_LINEAR_ADDRESS = 0x640a;
        CR0 = 0x6800;
        CR3 = 0x6802;
        CR4 = 0x6804;
        CS_BASE = 0x6808;
        FS_BASE = 0x680e;
        GS_BASE = 0x6810;
        TR_BASE = 0x6814;
        GDTR_BASE = 0x6816;
        IDTR_BASE = 0x6818;
        DR7 = 0x681a;
        RSP = 0x681c;
        RIP = 0x681e;
        RFLAGS = 0x6820;
        SSP = 0x682a;
    }

    /// Limits of descriptor tables.
    pub(crate) const TABLE_LIMITS: [u32; 2] = [GDTR_LIMIT, IDTR_LIMIT];
    /// Bases that are always checked.
    pub(crate) const CHECKED_BASES: [u32; 5] = [FS_BASE, GS_BASE, TR_BASE, GDTR_BASE, IDTR_BASE];
}

/// Bits that the machine looks at.
pub(crate) mod bit {
    /// Primary controls: exit when an interrupt can be taken.
    pub(crate) const INTERRUPT_WINDOW: u64 = 1 << 2;
    /// Primary controls: exit when an NMI can be taken.
    pub(crate) const NMI_WINDOW: u64 = 1 << 22;
    /// Primary controls: PAUSE exits.
    pub(crate) const PAUSE_EXITING: u64 = 1 << 30;
    /// Secondary controls: mode-based execute control.
    pub(crate) const MODE_BASED_EXECUTE: u64 = 1 << 22;
    /// VM-entry interruption information: there is an event.
    pub(crate) const EVENT_VALID: u64 = 1 << 31;
}

const CR0_PE: u64 = 1 << 0;
const CR0_NE: u64 = 1 << 5;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const CR4_MCE: u64 = 1 << 6;
const CR4_VMXE: u64 = 1 << 13;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;
const EFER_KNOWN: u64 = 0xd01;
const IA32E_GUEST: u64 = 1 << 9;
const UNUSABLE: u64 = 1 << 16;
const LONG: u64 = 1 << 13;
const BIG: u64 = 1 << 14;
const IF: u64 = 1 << 9;
const VM86: u64 = 1 << 17;

/// Values by encoding, initialised as after TDH.VP.INIT (`L2_init` rows; limits are those of a processor after reset).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Vmcs {
    values: BTreeMap<u32, u64>,
}

impl Default for Vmcs {
    fn default() -> Self {
        let mut values = BTreeMap::from([
            (field::CR0, CR0_PE | CR0_NE),
            (field::CR4, CR4_MCE | CR4_VMXE),
            (field::EFER, 0x901),
            (field::LDTR_RIGHTS, 0x1_0082),
            (field::TR_RIGHTS, 0x8b),
            (field::CR0_MASK, u64::MAX),
            (field::CR4_MASK, u64::MAX),
            (field::CR0_SHADOW, CR0_PE | CR0_NE),
            (field::CR4_SHADOW, CR4_MCE | CR4_VMXE),
            (field::PAT, 0x0007_0406_0007_0406),
            (field::PIN_CONTROLS, 0x29),
            (field::PRIMARY_CONTROLS, 0x9122_0088),
            (field::SECONDARY_CONTROLS, 0x1338_b3fa),
            (field::TERTIARY_CONTROLS, 0x80),
            (field::EXIT_CONTROLS, 0x1f3c_8204),
            (field::ENTRY_CONTROLS, 0x003e_c004),
            (field::RFLAGS, 2),
            (field::DR7, 0x400),
        ]);
        // ES CS SS DS FS GS; LDTR, TR, GDTR, IDTR have limits of 64 KiB.
        (0..6).for_each(|index| {
            values.insert(field::ES_RIGHTS + 2 * index, 0xc093);
            values.insert(0x4800 + 2 * index, 0xffff_ffff);
        });
        (6..10).for_each(|index| {
            values.insert(0x4800 + 2 * index, 0xffff);
        });
        values.insert(field::CS_RIGHTS, 0xc09b);
        Self { values }
    }
}

impl Vmcs {
    pub(crate) fn get(&self, encoding: u32) -> u64 {
        self.values.get(&encoding).copied().unwrap_or(0)
    }

    pub(crate) fn set(&mut self, encoding: u32, value: u64) {
        self.values.insert(encoding, value);
    }

    pub(crate) fn has(&self, encoding: u32, bits: u64) -> bool {
        self.get(encoding) & bits == bits
    }

    /// All values that are not 0.
    pub(crate) fn values(&self) -> impl Iterator<Item = (u32, u64)> {
        self.values.iter().filter(|(_, value)| **value != 0).map(|(encoding, value)| (*encoding, *value))
    }

    /// The checks of a VM entry that this machine makes: control registers, EFER, RFLAGS, RIP, CS, TR, LDTR, PAT,
    /// descriptor tables, canonical bases, and what an injected event demands (TDX-60).
    pub(crate) fn can_enter(&self, state: &GuestState) -> bool {
        let (cr0, cr4, efer) = (self.get(field::CR0), self.get(field::CR4), self.get(field::EFER));
        let ia32e = self.has(field::ENTRY_CONTROLS, IA32E_GUEST);
        let paging = cr0 & CR0_PG != 0;
        let control = cr0 & CR0_NE != 0
            && cr4 & CR4_MCE != 0
            && (!paging || cr0 & CR0_PE != 0)
            && (!ia32e || paging && cr4 & CR4_PAE != 0)
            && self.get(field::CR3) >> 52 == 0;
        let mode = efer & !EFER_KNOWN == 0
            && (efer & EFER_LMA != 0) == ia32e
            && (!paging || (efer & EFER_LME != 0) == (efer & EFER_LMA != 0));
        let pat = self.get(field::PAT).to_le_bytes().iter().all(|kind| matches!(kind, 0 | 1 | 4..=7));
        control
            && mode
            && pat
            && self.segments_are_valid(ia32e)
            && self.flow_is_valid(state, ia32e)
            && self.event_is_valid(state)
    }

    fn segments_are_valid(&self, ia32e: bool) -> bool {
        let (cs, tr, ldtr) = (self.get(field::CS_RIGHTS), self.get(field::TR_RIGHTS), self.get(field::LDTR_RIGHTS));
        let present = |rights: u64| rights & (1 << 7) != 0;
        let cs = cs & UNUSABLE == 0
            && present(cs)
            && cs & (1 << 4) != 0
            && matches!(cs & 0xf, 3 | 9 | 11 | 13 | 15)
            && !(ia32e && cs & LONG != 0 && cs & BIG != 0);
        let tr = tr & UNUSABLE == 0
            && present(tr)
            && tr & (1 << 4) == 0
            && matches!((tr & 0xf, ia32e), (11, _) | (3, false));
        let ldtr = ldtr & UNUSABLE != 0 || present(ldtr) && ldtr & 0x1f == 2;
        let limits = field::TABLE_LIMITS.iter().all(|table| self.get(*table) <= 0xffff);
        let bases = field::CHECKED_BASES.iter().all(|base| is_canonical(self.get(*base)));
        cs && tr && ldtr && limits && bases
    }

    fn flow_is_valid(&self, state: &GuestState, ia32e: bool) -> bool {
        let flags = state.rflags;
        let flags = flags & 2 != 0 && flags & !0x3f_7fd7 == 0 && !(ia32e && flags & VM86 != 0);
        let long = ia32e && self.has(field::CS_RIGHTS, LONG);
        flags && if long { is_canonical(state.rip) } else { state.rip >> 32 == 0 }
    }

    /// The event of the VM-entry interruption information.
    fn event_is_valid(&self, state: &GuestState) -> bool {
        let event = self.get(field::ENTRY_EVENT);
        if event & bit::EVENT_VALID == 0 {
            return true;
        }
        match event >> 8 & 7 {
            0 => self.takes_interrupt(state),
            2 => event & 0xff == 2 && self.takes_nmi(),
            3 => event & 0xff < 32,
            1 | 7 => false,
            _ => true,
        }
    }
}

/// Whether the L2 can take an event now.
impl Vmcs {
    /// IF, no blocking by STI or MOV SS.
    pub(crate) fn takes_interrupt(&self, state: &GuestState) -> bool {
        state.rflags & IF != 0 && self.get(field::INTERRUPTIBILITY) & 3 == 0
    }

    /// No blocking by STI, MOV SS or another NMI.
    pub(crate) fn takes_nmi(&self) -> bool {
        self.get(field::INTERRUPTIBILITY) & 0b1011 == 0
    }
}

/// Whether a linear address is canonical with 48 bits.
pub(crate) fn is_canonical(address: u64) -> bool {
    ((address << 16) as i64 >> 16) as u64 == address
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> GuestState {
        GuestState { rflags: 2, rip: 0x1000, ..GuestState::default() }
    }

    /// Long mode, as L1 would set it (TDX-59).
    fn long_mode() -> Vmcs {
        let mut vmcs = Vmcs::default();
        vmcs.set(field::CR0, 0x8005_0033);
        vmcs.set(field::CR4, 0x2060);
        vmcs.set(field::EFER, 0xd01);
        vmcs.set(field::ENTRY_CONTROLS, vmcs.get(field::ENTRY_CONTROLS) | 1 << 9);
        vmcs.set(field::CS_RIGHTS, 0xa09b);
        vmcs
    }

    #[test]
    fn starts_in_protected_mode_as_l2_init_says() {
        let vmcs = Vmcs::default();
        assert_eq!((vmcs.get(0x6800), vmcs.get(0x6804), vmcs.get(0x2806)), (0x21, 0x2040, 0x901));
        assert_eq!((vmcs.get(0x4814), vmcs.get(0x4816), vmcs.get(0x481e)), (0xc093, 0xc09b, 0xc093));
        assert_eq!((vmcs.get(0x4820), vmcs.get(0x4822), vmcs.get(0x6000)), (0x1_0082, 0x8b, u64::MAX));
        assert_eq!((vmcs.get(0x6004), vmcs.get(0x6006), vmcs.get(0x4012)), (0x21, 0x2040, 0x3e_c004));
        assert!(vmcs.can_enter(&state()) && long_mode().can_enter(&state()));
    }

    #[test]
    fn tdx_60_refuses_each_bad_value() {
        for (encoding, value) in [
            (0x6800, 0x8000_0020),
            (0x6800, 0x8005_0013),
            (0x6804, 0x2040),
            (0x6804, 0x2020),
            (0x2806, 0x101),
            (0x2806, 0xd03),
            (0x4012, 0x3e_c004),
            (0x6802, 1 << 52),
            (0x2804, 2),
            (0x4816, 0xe09b),
            (0x4816, 0x1_a09b),
            (0x4822, 0x83),
            (0x4820, 0x89),
            (0x4810, 0x1_0000),
            (0x6810, 1 << 47),
        ] {
            let mut vmcs = long_mode();
            vmcs.set(encoding, value);
            assert!(!vmcs.can_enter(&state()), "{encoding:#x} = {value:#x}");
        }
        for bad in [
            GuestState { rflags: 0, ..state() },
            GuestState { rflags: 2 | 8, ..state() },
            GuestState { rflags: 2 | 1 << 17, ..state() },
            GuestState { rip: 1 << 47, ..state() },
        ] {
            assert!(!long_mode().can_enter(&bad));
        }
        assert!(!Vmcs::default().can_enter(&GuestState { rip: 1 << 32, ..state() }));
    }

    #[test]
    fn an_event_needs_a_state_that_takes_it() {
        let valid = 1 << 31;
        for (event, interruptibility, rflags, enters) in [
            (valid | 0x30, 0, 0x202, true),
            (valid | 0x30, 0, 2, false),
            (valid | 0x30, 1, 0x202, false),
            (0x30, 1, 2, true),
            (valid | 2 << 8 | 2, 0, 2, true),
            (valid | 2 << 8 | 2, 8, 2, false),
            (valid | 2 << 8 | 3, 0, 2, false),
            (valid | 3 << 8 | 13, 1, 2, true),
            (valid | 1 << 8, 0, 2, false),
        ] {
            let mut vmcs = long_mode();
            vmcs.set(field::ENTRY_EVENT, event);
            vmcs.set(field::INTERRUPTIBILITY, interruptibility);
            assert_eq!(vmcs.can_enter(&GuestState { rflags, ..state() }), enters, "{event:#x}");
        }
    }
}
