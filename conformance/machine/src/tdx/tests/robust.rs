//! Nothing that programs and hosts do makes the machine panic, and the same seed gives the same run.

use super::*;
use crate::tdx::RULES;
use crate::tdx::host::{Policy, all_policies};

const L2_CTLS_1: u64 = 0xa020_0003_0000_0051;

/// A small generator (xorshift).
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn pick(&mut self, from: &[u64]) -> u64 {
        from[(self.next() % from.len() as u64) as usize]
    }

    fn pick_op<const N: usize>(&mut self, from: [Op; N]) -> Op {
        from[(self.next() % N as u64) as usize].clone()
    }

    fn address(&mut self) -> u64 {
        let base = self.pick(&[PAGE, BLOCK, REGISTERS, VAPIC, SCRATCH, 0, 64 << 20, 1 << 40, !0xfff]);
        let bits = self.pick(&[0, 0, 0, 1, 2, 7, 0x800, 0x1000, SHARED, 1 << 52, 1 << 62]);
        base.wrapping_add(bits)
    }

    fn regs(&mut self) -> Regs {
        let leaf = self.pick(&[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 22, 23, 24, 25, 26, 27, 28, 0x1_0007]);
        let rcx = match leaf {
            0 => self.pick(&[0xff00, 0xfc00, 0x1_ff00, 0, u64::MAX]),
            7..=11 => self.pick(&[0, 0, 0, 1]),
            25 | 27 => self.pick(&[1 << 52, 2 << 52 | 1, 3 << 52, 0, u64::MAX]),
            26 => self.pick(&[2, 14, 1]),
            _ => self.address(),
        };
        let rdx = match leaf {
            24 => self.pick(&[part(1, RWX), part(2, 0x8001) | part(1, 0x8000), part(3, RWX), u64::MAX, 0]),
            9 | 10 => {
                let ids = [vmcs(1, 0x2012), vmcs(2, 0x6800), vmcs(3, 0x4016), vmcs(1, 0x401e), L2_CTLS_1, self.next()];
                self.pick(&ids)
            }
            25 => registers_of(CPU0, 1) + self.pick(&[0, 0, 0, 0x100, 0x400, 8]),
            2 => self.pick(&[0, 3, 9]),
            _ => self.address(),
        };
        let r8 = match leaf {
            24 => self.pick(&[part(1, 0x7f), part(1, 0x807f) | part(2, 0x7f), u64::MAX, 0]),
            10 => self.pick(&[VAPIC, 3, 0x8000_0b0d, u64::MAX]),
            _ => self.pick(&[0, 0, 1]),
        };
        let r11 = self.pick(&[0xa, 0xc, 0x1e, 0x1f, 0x20, 0x30, 0x1_0000, 0x1_0001, 0x1_0001, 0x1_0002, 0x1_0009]);
        let r12 = if r11 > 0xffff { self.address() } else { self.pick(&[1, 4, 0x830, 0x4000_0000]) };
        let r13 = self.pick(&[0x1000, 0x20_0000, 0, 1 << 32, u64::MAX, 0xfff]);
        Regs { rax: leaf, rcx, rdx, r8, r9: u64::MAX, r11, r12, r13, ..NONE }
    }

    /// Something that a level of a vCPU may do. L1 runs an L2 often and keeps its register page in order.
    fn op(&mut self, vcpu: Vcpu, level: u8) -> Op {
        let gpa = self.address();
        let private = !self.next().is_multiple_of(4);
        let vm = self.pick(&[1, 1, 1, 2, 3]) as u8;
        let page = registers_of(vcpu, vm);
        if level == 0 {
            match self.next() % 8 {
                0 | 1 => {
                    let rcx = u64::from(vm) << 52 | self.pick(&[0, 0, 1, 3]);
                    return Op::Enter(Regs { rax: 25, rcx, rdx: page, ..NONE });
                }
                2 => {
                    let rip = self.pick(&[L2_ENTRY, L2_ENTRY + 0x10, L2_ENTRY + 0x12, L2_ENTRY + 0x13, 0x7000]);
                    let bytes = [2, rip].iter().flat_map(|quad| quad.to_le_bytes()).collect();
                    return Op::Write { gpa: page + 0x80, bytes, private: true };
                }
                3 => return tdcall(leaf::VP_VEINFO_GET, NONE),
                4 => {
                    let rcx = self.pick(&[PAGE, PAGE + 0x1000, BLOCK | 1, BLOCK]);
                    let (rdx, r8) = (part(vm, self.pick(&[RWX, 0x8001, 0x8000])), part(vm, self.pick(&[0x7f, 0x807f])));
                    let number = self.pick(&[6, 24, 24]);
                    return tdcall(number as u16, Regs { rcx, rdx, r8, ..NONE });
                }
                _ => {}
            }
        }
        match self.next() % 26 {
            0..=10 => Op::Tdcall(self.regs()),
            11 => Op::Read { gpa, len: self.pick(&[0, 1, 8, 4096, 5000]) as usize, private },
            12 => Op::Write { gpa, bytes: alloc::vec![self.next() as u8; 16], private },
            13 => Op::Zero { gpa, pages: self.pick(&[0, 1, 3, 513, u64::MAX]), private },
            14 => Op::Swap8 { gpa, value: 1, private },
            15 => Op::CompareExchange64 { gpa, expected: 0, new: 1, private },
            16 => Op::Fetch { gpa, user: !private, private },
            17 => Op::Vmcall { regs: CALL, cpl: self.next() as u8 },
            18 => Op::Cpuid { leaf: self.next() as u32, subleaf: 0 },
            19 => Op::Wrmsr(self.pick(&[0x830, 0xc000_0082, 0x480, 1 << 30]) as u32, self.next()),
            20 => Op::In { port: 1, size: self.next() as u8 },
            21 => Op::WriteUnswitched(Default::default()),
            22 => self.pick_op([Op::Hlt, Op::Pause, Op::Pause, Op::Xsetbv(3)]),
            23 => Op::Raise { vector: self.next() as u8 & 0x3f, error: Some(self.next() as u32) },
            24 => Op::Other {
                reason: (self.next() % 80) as u32,
                qualification: self.next(),
                length: (self.next() % 16) as u32,
            },
            _ => Op::ReadUnswitched,
        }
    }
}

/// Three vCPUs do whatever comes to mind for a while.
fn run(policy: Policy, rules: &[&'static str], seed: u64, steps: u32) -> Machine {
    let mut m = Machine::new(Config {
        vcpus: 3,
        policy: policy.based_at(PAGE),
        broken_rules: rules.iter().copied().collect(),
        trace: true,
        shared: alloc::vec![(SCRATCH + 0x10_0000, 0x2000)],
        honest_host: false,
        ..Config::default()
    });
    m.launch_page(0x1000, &[1; 4096]).expect("free");
    m.launch_finish().expect("once");
    m.declare_monitor_pages(REGISTERS, 0x9000);
    m.tag_secret_bytes(b"a secret of sixteen bytes");
    let mut rng = Rng(seed | 1);
    for step in 0..steps {
        let vcpu = Vcpu((rng.next() % 3) as u8);
        if m.running(vcpu).is_none() && matches!(m.host(vcpu), HostStep::Stopped(_)) {
            // A host that resumes it all the same.
            m.td_enter(vcpu);
        }
        let Some(level) = m.running_level(vcpu) else { continue };
        let op = match u64::from(step) {
            page @ 0..64 => tdcall(leaf::MEM_PAGE_ACCEPT, Regs { rcx: REGISTERS + page / 7 * 0x1000, ..NONE }),
            vm @ 64..128 => {
                let (rdx, r8) = (vmcs((vm % 3) as u8 + 1, 0x2012), VAPIC + vm % 3 * 0x1000);
                tdcall(leaf::VP_WR, Regs { rdx, r8, r9: !0xfff, ..NONE })
            }
            _ => rng.op(vcpu, level),
        };
        m.step(vcpu, op);
    }
    m.check_all();
    m
}

#[test]
fn no_host_makes_it_panic_and_each_run_can_be_repeated() {
    let seen = |m: &Machine| (m.snapshot(), m.trace().len(), m.violations().to_vec());
    for (name, policy, _) in all_policies() {
        let first = run(policy.clone(), &[], 7, 1500);
        assert_eq!(seen(&first), seen(&run(policy, &[], 7, 1500)), "{name}");
    }
}

#[test]
fn runs_come_far() {
    let mut sum = crate::tdx::Counters::default();
    (1..9).for_each(|seed| sum += run(Policy::Honest, &[], seed, 2000).total_counters());
    for (name, count) in [
        ("entered", sum.entered),
        ("l2_exits", sum.l2_exits),
        ("td_exits", sum.td_exits),
        ("accept", sum.accept),
        ("attr_wr", sum.attr_wr),
        ("tdvmcall", sum.tdvmcall),
        ("vmcall", sum.vmcall),
        ("reads", sum.reads),
        ("report", sum.report),
    ] {
        assert!(count > 50, "{name}: {count}");
    }
}

/// Without stale translations nothing that a host or an L2 does changes what L1 reads, and no memory is used twice.
#[test]
fn integrity_holds_against_every_host() {
    for (name, policy, _) in all_policies() {
        for seed in 1..6 {
            let m = run(policy.clone(), &["TDX-34"], seed * 0x9e37_79b9, 1500);
            let broken: Vec<_> =
                m.violations().iter().filter(|v| v.oracle == "O4" || v.text.contains("backs")).collect();
            assert!(broken.is_empty(), "{name}: {broken:?}");
        }
    }
}

#[test]
fn no_missing_rule_makes_it_panic() {
    for (rule, _) in RULES {
        for seed in 1..4 {
            run(Policy::Honest, &[rule], seed * 0x9e37_79b9, 1500);
        }
    }
    let all: Vec<&str> = RULES.iter().map(|(rule, _)| *rule).collect();
    for (_, policy, _) in all_policies() {
        run(policy, &all, 11, 800);
    }
}

#[test]
fn many_seeds_under_the_honest_host() {
    for seed in 1..60u64 {
        run(Policy::Honest, &[], seed.wrapping_mul(0x1234_5678_9abc_def1), 2000);
    }
}
