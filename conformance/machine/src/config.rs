//! What a machine is made of, and which of its rules are removed.

use alloc::collections::BTreeSet;
use alloc::vec;
use alloc::vec::Vec;

use crate::{PAGES_PER_LARGE, host};

/// What happens to a store into a VMSA page that some vCPU is running. The sources do not settle it, so both exist.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum VmsaWrite {
    /// The store does not complete while the VMSA runs: the storing vCPU exits (INTR) and repeats the operation.
    #[default]
    Waits,
    /// The store lands at once; the registers that the running vCPU saves at its exit overwrite it.
    Plain,
}

/// Makes a [`Machine`](crate::Machine).
#[derive(Clone, Debug)]
pub struct Config {
    /// Guest memory as (first byte, bytes), 4 KiB aligned. Mapped to equal system addresses, host-owned until assigned.
    pub ram: Vec<(u64, u64)>,
    /// System memory that no guest address maps to at first, for hosts that swap pages. (first byte, bytes), 4 KiB aligned.
    pub spare: Vec<(u64, u64)>,
    /// Number of vCPUs, 1 to 8. A vCPU is a physical processor too.
    pub vcpus: u8,
    /// Implemented VMPLs, 1 to 4.
    pub vmpls: u8,
    /// Small pages in a large one: 512 on silicon. A smaller power of two, from 2 on, makes a machine of which every state can
    /// be visited. Its large pages have [`Machine::large_page_size`](crate::Machine::large_page_size) bytes; the requests that the
    /// host serves speak of 512 all the same.
    pub pages_per_large: u64,
    /// INVLPGB and TLBSYNC exist in the guest; otherwise #UD.
    pub invlpgb: bool,
    /// RMPQUERY exists; otherwise #UD.
    pub rmpquery: bool,
    /// The mask has a bit for supervisor shadow stacks (VmplSSS); otherwise it is reserved.
    pub vmpl_sss: bool,
    /// A store into a running VMSA.
    pub vmsa_write: VmsaWrite,
    /// Ids of [`RULES`] that this machine does not enforce.
    pub broken_rules: BTreeSet<&'static str>,
    /// Seed of garbage contents, keys and of whatever the host draws.
    pub seed: u64,
    /// Whether [`Machine::trace`](crate::Machine::trace) collects events.
    pub trace: bool,
    /// How the host behaves.
    pub policy: host::Policy,
    /// False if a test acts as a dishonest host itself. O9 and the strict part of O6 apply if this is set and the policy is the
    /// honest one.
    pub honest_host: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            ram: vec![(0, 64 << 20)],
            spare: vec![(1 << 40, 16 << 20)],
            vcpus: 1,
            vmpls: 4,
            pages_per_large: PAGES_PER_LARGE,
            invlpgb: true,
            rmpquery: false,
            vmpl_sss: true,
            vmsa_write: VmsaWrite::default(),
            broken_rules: BTreeSet::new(),
            seed: 0,
            trace: false,
            policy: host::Policy::default(),
            honest_host: true,
        }
    }
}

/// The rules that can be removed by [`Config::broken_rules`]: id (rmp_semantics.csv, or a name where the rule stands in
/// instructions.csv or vmsa.csv) and what is enforced.
pub const RULES: &[(&str, &str)] = &[
    ("RMP-005", "a newly assigned page has full rights for VMPL0 and none for the others"),
    ("RMP-006", "RMPUPDATE of a validated page clears Validated"),
    ("RMP-008", "PVALIDATE reports with CF that nothing changed"),
    ("RMP-010", "a 4K request on a 2M entry is a nested fault with SIZEM"),
    ("RMP-011", "a 2M request on a 4K entry returns code 6"),
    ("RMP-014", "RMPADJUST changes only numerically greater VMPLs"),
    ("RMP-015", "RMPADJUST grants no right that the caller lacks"),
    ("RMP-017", "RMPADJUST needs a validated page"),
    ("RMP-018", "only VMPL0 changes the VMSA flag"),
    ("RMP-020", "the entry of a running VMSA does not change"),
    ("RMP-022", "VMRUN needs an assigned page with matching address and the VMSA flag"),
    ("RMP-023", "VMRUN needs EFER.SVME in the VMSA"),
    ("RMP-025", "a VMSA page is not 2M aligned"),
    ("RMP-032", "a private access needs an assigned page with matching guest address"),
    ("RMP-033", "a private access needs a validated page"),
    ("RMP-034", "a private access needs the right of its VMPL"),
    ("RMP-035", "a shared write needs a host-owned page"),
    ("RMP-036", "the host cannot write a page of the guest"),
    ("RMP-037", "the nested mapping has the size of the entry"),
    ("RMP-052", "a page that changes hands loses its contents"),
    ("RMP-055", "cached translations keep old rights until they are flushed"),
    ("RMP-056", "PCPU_ID = 0 in a VMSA flushes at its next VMRUN"),
    ("PVALIDATE-VMPL0", "PVALIDATE outside VMPL0 is #GP"),
    ("VMRUN-BUSY", "VMRUN of a VMSA with the guest-busy bit is refused"),
    ("VMRUN-FEATURES", "VMRUN checks SEV_FEATURES"),
    ("VMRUN-IN-USE", "a VMSA runs on one vCPU at a time"),
];
