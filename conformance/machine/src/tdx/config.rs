//! What a TDX machine is made of, and which of its rules are removed.

use alloc::collections::BTreeSet;
use alloc::vec;
use alloc::vec::Vec;

use super::host;

/// ATTRIBUTES bit 28: an access to a pending page is no #VE but a TD exit.
pub const SEPT_VE_DISABLE: u64 = 1 << 28;
/// ATTRIBUTES bit 0: the TD can be debugged. It changes evidence only.
pub const DEBUG: u64 = 1 << 0;
/// CONFIG_FLAGS bit 1: L1 may change PENDING_VE_DISABLE.
pub const FLEXIBLE_PENDING_VE: u64 = 1 << 1;
/// CONFIG_FLAGS bit 2: TDVMCALL does not pass RBP.
pub const NO_RBP_MOD: u64 = 1 << 2;

/// Makes a [`Machine`](super::Machine).
#[derive(Clone, Debug)]
pub struct Config {
    /// Guest memory as (first byte, bytes), 4 KiB aligned, below the shared bit. The host maps it as it is accepted.
    pub ram: Vec<(u64, u64)>,
    /// Parts of it that are shared from the start.
    pub shared: Vec<(u64, u64)>,
    /// Number of vCPUs, 1 to 8. A vCPU is a processor too.
    pub vcpus: u8,
    /// L2 VMs, 0 to 3 (NUM_L2_VMS).
    pub l2_vms: u8,
    /// Guest physical address width, 48 or 52. The shared bit is the highest.
    pub gpaw: u8,
    /// The module has TD partitioning.
    pub partitioning: bool,
    /// ATTRIBUTES of the TD.
    pub attributes: u64,
    /// CONFIG_FLAGS of the TD; bit 0 follows [`Config::gpaw`].
    pub config_flags: u64,
    /// VM_CTLS bit 0: a missing table page of an L2 is a TD exit to the host, else L2_SEPT_WALK_FAILED (TDX-24).
    pub table_exits: bool,
    /// Every table page of the L2 VMs is there from the start.
    pub tables_present: bool,
    /// The host maps 2 MiB pages where it can.
    pub large_pages: bool,
    /// TDVMCALL HLT waits for a wake-up; otherwise it is over at once.
    pub hlt_waits: bool,
    /// Ids of [`RULES`] that this machine does not enforce.
    pub broken_rules: BTreeSet<&'static str>,
    /// Seed of garbage contents and of the report key.
    pub seed: u64,
    /// Whether [`Machine::trace`](super::Machine::trace) collects events.
    pub trace: bool,
    /// How the host behaves.
    pub policy: host::Policy,
    /// False if a test acts as a dishonest host itself. O9 and the strict part of O6 apply if this is set and the
    /// policy is the honest one.
    pub honest_host: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            ram: vec![(0, 64 << 20)],
            shared: Vec::new(),
            vcpus: 1,
            l2_vms: 3,
            gpaw: 48,
            partitioning: true,
            attributes: SEPT_VE_DISABLE,
            config_flags: 0,
            table_exits: true,
            tables_present: false,
            large_pages: true,
            hlt_waits: false,
            broken_rules: BTreeSet::new(),
            seed: 0,
            trace: false,
            policy: host::Policy::default(),
            honest_host: true,
        }
    }
}

/// The rules that can be removed by [`Config::broken_rules`]: id (td_semantics.csv, or a name where the rule stands in
/// another table) and what is enforced.
pub const RULES: &[(&str, &str)] = &[
    ("TDX-11", "VP.ENTER needs a virtual-APIC page"),
    ("TDX-14", "VP.ENTER is refused while L1 has an interrupt to take"),
    ("TDX-21", "a page that L1 has not accepted is out of reach"),
    ("TDX-22", "an L2 reaches a private page only through its alias"),
    ("TDX-23", "an access of an L2 needs the right of its alias"),
    ("TDX-24", "an alias needs a table page of its VM"),
    ("TDX-25", "a page that is added again has to be accepted again"),
    ("TDX-27", "an L2 reaches shared memory only with ENABLE_SHARED_EPTP"),
    ("TDX-33", "operations of the host on a page drop its translations everywhere"),
    ("TDX-34", "cached translations keep old rights until INVEPT on the same processor"),
    ("TDX-48", "TDCALL of an L2 goes to L1 unless it may call the host"),
    ("TDX-53", "an MSR access of an L2 exits to L1 where the bitmap says so"),
    ("TDX-56", "VP.WR changes only bits that are L1's to change"),
    ("TDX-60", "an L2 with bad state is not entered"),
    ("ACCEPT-ZERO", "PAGE.ACCEPT zero-fills"),
    ("ACCEPT-AGAIN", "PAGE.ACCEPT says that a page was accepted before"),
    ("ACCEPT-SIZE", "PAGE.ACCEPT of 2M on 4K entries is a size mismatch"),
    ("ATTR-LEGAL", "attributes are a legal set"),
    ("ATTR-OPERANDS", "ATTR.WR names only L2 VMs that are there"),
    ("BLOCKED", "a blocked page is out of reach"),
    ("PAMT", "a system page backs one guest page"),
    ("ENTER-PAGE", "the register page is 256-byte aligned and private"),
    ("REPORT-MAC", "VERIFYREPORT checks the MAC"),
    ("VMCALL-MASK", "TDVMCALL shows and changes only the registers that it selects"),
];
