//! Nothing that a program or a host does makes the machine panic or forget its rules.

use super::*;
use crate::{RULES, VmsaWrite};

/// Small random numbers (xorshift64*).
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub(super) fn below(&mut self, bound: u64) -> u64 {
        (self.next() >> 11) % bound
    }

    /// Mostly addresses that mean something, sometimes anything.
    fn address(&mut self) -> u64 {
        let page = self.below(24) * 0x1000;
        match self.below(12) {
            0..=3 => page,
            4..=6 => PAGE + page,
            7 => BLOCK + self.below(2) * 0x20_0000,
            8 => BLOCK + self.below(1024) * 0x1000,
            9 => (1 << 40) + page,
            10 => page + self.below(4096),
            _ => self.next() << self.below(64),
        }
    }

    fn op(&mut self) -> Op {
        let gpa = self.address();
        let private = self.below(4) != 0;
        match self.below(20) {
            0 | 1 => Op::Read { gpa, len: self.below(64) as usize, private },
            2 | 3 => Op::Write { gpa, bytes: alloc::vec![self.next() as u8; self.below(64) as usize], private },
            4 => Op::Zero { gpa, pages: self.below(4), private },
            5 => Op::Zero { gpa: self.next() & !0xfff, pages: self.next(), private },
            6 => Op::Swap8 { gpa, value: 1 },
            7 => Op::CompareExchange64 { gpa, expected: self.below(2), new: self.next() },
            8 => Op::Fetch { gpa, user: private },
            9..=11 => Op::Pvalidate { gpa, ecx: self.below(3) as u32, edx: self.below(3) as u32 },
            12..=14 => Op::Rmpadjust { gpa, rcx: self.below(3), rdx: self.next() & 0x1_1f07 },
            15 => Op::Rmpquery { gpa, rdx: self.below(5) },
            16 => Op::Invlpgb { rax: self.next(), ecx: self.next() as u32, edx: 0 },
            17 => [flush_all(), Op::Tlbsync, Op::Pause][self.below(3) as usize].clone(),
            18 => Op::Wrmsr(0xc001_0130, gpa),
            _ => [Op::Hlt, Op::Vmgexit(Regs { rax: 1, rcx: gpa, ..REGS })][self.below(2) as usize].clone(),
        }
    }
}

fn disturb(m: &mut Machine, random: &mut Random) {
    let (a, b, large) = (random.address(), random.address(), random.below(4) == 0);
    match random.below(8) {
        0..=2 => drop(m.rmpupdate(a, large, Some(b))),
        3 => drop(m.rmpupdate(a, large, None)),
        4 => drop(m.psmash(a)),
        5 => m.map(a, large, (random.below(3) != 0).then_some(b)),
        6 => drop(m.host_write(a, &b.to_le_bytes())),
        _ => m.host_read(a, &mut [0; 16]),
    }
}

fn run(seed: u64, change: impl FnOnce(&mut Config)) -> Machine {
    let mut random = Random(seed | 1);
    let mut m = machine_with(|config| {
        config.trace = seed.is_multiple_of(4);
        config.honest_host = false;
        change(config);
    });
    m.declare_monitor_pages(PAGE, 0x4000);
    m.tag_secret(BLOCK, 0x1000);
    m.tag_secret_bytes(b"a long enough secret");
    m.registry_add(vmsa_of(CPU0, 1));
    for _ in 0..3000 {
        let vcpu = Vcpu(random.below(2) as u8);
        if random.below(8) == 0 {
            disturb(&mut m, &mut random);
        }
        if m.running(vcpu).is_none() {
            let owner = Vcpu(random.below(2) as u8);
            let _ = m.vmrun(vcpu, vmsa_of(owner, random.below(4) as u8));
        }
        m.step(vcpu, random.op());
    }
    m.check_all();
    let _ = m.snapshot().diff(&machine().snapshot());
    m
}

#[test]
fn random_programs_and_hosts_do_not_panic() {
    for seed in 0..24 {
        run(seed, |config| {
            if seed % 2 == 1 {
                config.vmsa_write = VmsaWrite::Plain;
            }
        });
    }
}

#[test]
fn nor_do_they_with_any_rule_removed() {
    for (rule, _) in RULES {
        run(7, |config| {
            config.broken_rules.insert(rule);
        });
    }
}

#[test]
fn two_runs_are_identical() {
    let (a, b) = (run(4, |_| {}), run(4, |_| {}));
    assert_eq!(a.trace(), b.trace());
    assert_eq!(a.violations(), b.violations());
    assert_eq!(a.snapshot(), b.snapshot());
}

#[test]
fn lower_levels_alone_never_reach_what_vmpl0_keeps() {
    let mut random = Random(99);
    let mut m = machine();
    m.declare_monitor_pages(PAGE, 0x4000);
    for page in 0..4 {
        take(&mut m, PAGE + page * 0x1000, false);
        assert_eq!(at(&mut m, 0, write(PAGE + page * 0x1000, b"secret")), done());
    }
    grant(&mut m, PAGE + 0x4000, false, 1, RWX);
    let kept = m.snapshot();
    for _ in 0..3000 {
        let vmpl = 1 + random.below(3) as u8;
        if m.running_vmpl(CPU0) == Some(0) {
            assert_eq!(m.step(CPU0, Op::Hlt), Outcome::Exit);
        }
        if m.running(CPU0).is_none() {
            let _ = m.vmrun(CPU0, vmsa_of(CPU0, vmpl));
        }
        m.step(CPU0, random.op());
    }
    m.check_all();
    assert!(m.violations().is_empty(), "{:?}", m.violations());
    for page in 0..4 {
        let gpa = PAGE + page * 0x1000;
        assert_eq!(m.peek(gpa, 6, Some(0)).as_deref(), Some(&b"secret"[..]));
    }
    assert!(kept.diff(&m.snapshot()).iter().all(|line| !line.contains("page 0x60300")));
}

#[test]
fn rules_have_distinct_ids() {
    for (index, (id, _)) in RULES.iter().enumerate() {
        assert!(RULES[..index].iter().all(|(other, _)| other != id), "{id}");
    }
}

#[test]
#[should_panic(expected = "no rule has the id RMP-999")]
fn an_unknown_rule_cannot_be_removed() {
    broken(&["RMP-999"]);
}
