//! Two vCPUs at once: whoever is second is refused, and the books stay right.

use std::sync::Barrier;

use coco_part_api::VcpuId;
use coco_part_api::svsm::{CREATE_VCPU, CallResult, DELETE_VCPU, DEPOSIT_MEM, PVALIDATE, REMAP_CA, WITHDRAW_MEM};

use super::*;

const ROUNDS: usize = 300;
const SUCCESS: CallResult = CallResult::SUCCESS;

/// Has vCPUs 0 and 1 call at the same time, again and again, and looks at both answers after each round.
fn race(calls: [CallRegs; 2], prepare: impl Fn(&Fixture), check: impl Fn(&Fixture, [CallResult; 2])) {
    let fixture = Fixture::new();
    vcpus::start(&fixture, 1);
    for _ in 0..ROUNDS {
        prepare(&fixture);
        let barrier = Barrier::new(2);
        let on = |vcpu: u32| {
            let mut monitor = fixture.monitor(vcpu);
            barrier.wait();
            call_on(&mut monitor, &fixture.world, vcpu, calls[vcpu as usize]).result()
        };
        let results = std::thread::scope(|scope| {
            let other = scope.spawn(|| on(1));
            [on(0), other.join().unwrap()]
        });
        assert!(!fixture.ledger().survey(range(0, FRAMES)).has(State::Changing));
        check(&fixture, results);
        fixture.world.clear_log();
    }
}

fn core(call: u32, rcx: u64, rdx: u64, r8: u64) -> CallRegs {
    CallRegs::call(CallId::new(svsm::CORE, call), rcx, rdx, r8)
}

fn winners(results: [CallResult; 2]) -> usize {
    results.iter().filter(|result| result.is_success()).count()
}

#[test]
fn one_frame_becomes_one_vcpu() {
    let (state, area) = vcpus::frames_of(2);
    let (_, other) = vcpus::frames_of(3);
    race(
        [core(CREATE_VCPU, state, area, 2), core(CREATE_VCPU, state, other, 3)],
        |_| (),
        |fixture, results| {
            assert_eq!(winners(results), 1, "{results:?}");
            let lost = [CallResult::INVALID_ADDRESS, CallResult::BUSY];
            assert!(results.iter().all(|result| result.is_success() || lost.contains(result)));
            assert_eq!(fixture.state(state), State::VcpuState);
            assert_eq!(fixture.storage.registered(), 3);
            let winner = if results[0].is_success() { 2 } else { 3 };
            assert!(fixture.storage.is_posted(VcpuId(winner)) && !fixture.storage.is_posted(VcpuId(5 - winner)));
            let (used, free) = if winner == 2 { (area, other) } else { (other, area) };
            assert_eq!((fixture.state(used), fixture.state(free)), (State::CallArea, OWN));
            assert_eq!(fixture.call(DELETE_VCPU, state, 0, 0), SUCCESS);
        },
    );
}

#[test]
fn one_target_gets_one_seed() {
    let ((state, area), (other, other_area)) = (vcpus::frames_of(2), vcpus::frames_of(3));
    race(
        [core(CREATE_VCPU, state, area, 2), core(CREATE_VCPU, other, other_area, 2)],
        |_| (),
        |fixture, results| {
            assert_eq!(winners(results), 1, "{results:?}");
            let lost = [CallResult::FAIL_INUSE, CallResult::BUSY];
            assert!(results.iter().all(|result| result.is_success() || lost.contains(result)));
            let won = if results[0].is_success() { state } else { other };
            let lost = state + other - won;
            assert_eq!((fixture.state(won), fixture.state(lost)), (State::VcpuState, OWN));
            assert_eq!(fixture.call(DELETE_VCPU, won, 0, 0), SUCCESS);
        },
    );
}

#[test]
fn one_page_is_validated_once() {
    let second = LIST + 0x1000;
    let small = validate(FRESH + 0x7000);
    let large = entry(FRESH, PageSize::Large, Action::Validate, false);
    race(
        [core(PVALIDATE, LIST, 0, 0), core(PVALIDATE, second, 0, 0)],
        |fixture| {
            fixture.write_list(LIST, 1, 0, &[small]);
            fixture.write_list(second, 1, 0, &[large]);
        },
        |fixture, results| {
            assert_eq!(winners(results), 1, "{results:?}");
            let lost = [CallResult::NO_CHANGE, CallResult::BUSY];
            assert!(results.iter().all(|result| result.is_success() || lost.contains(result)));
            let (word, frames) = if results[0].is_success() { (rescind(FRESH + 0x7000), 1) } else { (large & !4, 512) };
            let own = (0..512).filter(|number| fixture.state(FRESH + (number << 12)) == OWN).count();
            assert_eq!(own, frames);
            assert_eq!(count(&fixture.world.log(), |op| matches!(op, Op::ValidateFor(..))), 1);
            assert_eq!(fixture.list(&[word]), (SUCCESS, 1));
        },
    );
}

#[test]
fn a_page_is_given_up_or_becomes_a_vcpu_but_not_both() {
    let (state, area) = vcpus::frames_of(2);
    race(
        [core(PVALIDATE, LIST, 0, 0), core(CREATE_VCPU, state, area, 2)],
        |fixture| fixture.write_list(LIST, 1, 0, &[rescind(state)]),
        |fixture, results| {
            assert_eq!(winners(results), 1, "{results:?}");
            if results[0].is_success() {
                assert_eq!((fixture.state(state), fixture.world.is_state(state)), (State::NotPrivate, false));
                assert_eq!(fixture.list(&[validate(state)]), (SUCCESS, 1));
            } else {
                assert_eq!((fixture.state(state), fixture.world.is_state(state)), (State::VcpuState, true));
                assert_eq!(fixture.call(DELETE_VCPU, state, 0, 0), SUCCESS);
            }
        },
    );
}

#[test]
fn a_page_is_deposited_once_or_given_up_but_not_both() {
    let second = LIST + 0x1000;
    for other in [DEPOSIT_MEM, PVALIDATE] {
        race(
            [core(DEPOSIT_MEM, LIST, 0, 0), core(other, second, 0, 0)],
            |fixture| {
                fixture.write_list(LIST, 1, 0, &[memory::OWNED]);
                fixture.write_list(second, 1, 0, &[rescind(memory::OWNED)]);
            },
            |fixture, results| {
                assert_eq!(winners(results), 1, "{results:?}");
                let lost = [CallResult::INVALID_ADDRESS, CallResult::BUSY];
                assert!(results.iter().all(|result| result.is_success() || lost.contains(result)));
                if results[0].is_success() || other == DEPOSIT_MEM {
                    assert_eq!((fixture.state(memory::OWNED), fixture.storage.deposited(LEVEL)), (memory::KEPT, 1));
                    assert_eq!(memory::withdraw(fixture, LIST), (SUCCESS, std::vec![memory::OWNED]));
                } else {
                    assert_eq!(fixture.state(memory::OWNED), State::NotPrivate);
                    assert_eq!(fixture.storage.deposited(LEVEL), 0);
                    assert_eq!(fixture.list(&[validate(memory::OWNED)]), (SUCCESS, 1));
                }
            },
        );
    }
}

#[test]
fn a_deposited_page_is_withdrawn_once() {
    let second = LIST + 0x1000;
    race(
        [core(WITHDRAW_MEM, LIST, 0, 0), core(WITHDRAW_MEM, second, 0, 0)],
        |fixture| {
            let entries: Vec<u64> = (0..9).map(|index| memory::OWNED + (index << 12)).collect();
            assert_eq!(memory::deposit(fixture, &entries), (SUCCESS, 9));
        },
        |fixture, results| {
            assert_eq!(winners(results), 2, "{results:?}");
            let word = |at: u64| u64::from_le_bytes(fixture.world.peek(at, 8).try_into().unwrap());
            let list = |at: u64| (1..=word(at)).map(move |index| word(at + 8 * index));
            let mut got: Vec<u64> = list(LIST).chain(list(second)).collect();
            // What one of them passed over while the other had it is still there.
            let (_, rest) = memory::withdraw(fixture, LIST);
            got.extend(rest);
            got.sort_unstable();
            assert_eq!(got, (0..9).map(|index| memory::OWNED + (index << 12)).collect::<Vec<_>>());
            assert_eq!(fixture.storage.deposited(LEVEL), 0);
        },
    );
}

#[test]
fn a_list_page_never_becomes_a_vcpu_while_its_cursor_is_written() {
    // The mock refuses every write to a state frame.
    let (_, area) = vcpus::frames_of(2);
    race(
        [core(PVALIDATE, LIST, 0, 0), core(CREATE_VCPU, LIST, area, 2)],
        |fixture| fixture.write_list(LIST, 1, 0, &[entry(FRESH, PageSize::Small, Action::Validate, true)]),
        |fixture, results| {
            assert!(winners(results) >= 1, "{results:?}");
            if results[1].is_success() {
                assert_eq!(fixture.call(DELETE_VCPU, LIST, 0, 0), SUCCESS);
            } else {
                assert_eq!(results[1], CallResult::BUSY);
            }
        },
    );
}

#[test]
fn one_page_becomes_one_call_area() {
    let new = RAM + 0x6000;
    race(
        [core(REMAP_CA, new, 0, 0), core(REMAP_CA, new, 0, 0)],
        |_| (),
        |fixture, results| {
            assert_eq!(winners(results), 1, "{results:?}");
            assert_eq!(fixture.state(new), State::CallArea);
            for (vcpu, home) in [(0, BOOT_AREA), (1, vcpus::frames_of(1).1)] {
                let area = fixture.storage.current(VcpuId(vcpu)).unwrap().terms.call_area;
                assert_eq!(area == frame(new), results[vcpu as usize].is_success());
                let back = call_on(&mut fixture.monitor(vcpu), &fixture.world, vcpu, core(REMAP_CA, home, 0, 0));
                assert_eq!(back.result(), SUCCESS);
            }
        },
    );
}

#[test]
fn a_vcpu_is_deleted_or_served_but_not_both() {
    let state = vcpus::frames_of(1).0;
    let fixture = Fixture::new();
    for _ in 0..ROUNDS {
        vcpus::start(&fixture, 1);
        fixture.world.exit(1, Ok(Exit::Call(PendingCall::new(LEVEL, core(svsm::QUERY_PROTOCOL, 1, 0, 0)))));
        let barrier = Barrier::new(2);
        let (deleted, step) = std::thread::scope(|scope| {
            let other = scope.spawn(|| {
                let mut monitor = fixture.monitor(1);
                barrier.wait();
                monitor.step()
            });
            barrier.wait();
            (fixture.call(DELETE_VCPU, state, 0, 0), other.join().unwrap())
        });
        let answered = fixture.world.answer(1).is_some();
        assert_eq!(answered, step == Step::Served(SUCCESS), "{step:?}");
        match deleted {
            SUCCESS => assert_eq!(fixture.state(state), OWN),
            other => {
                assert_eq!(other, CallResult::FAIL_INUSE);
                assert!(answered);
                assert_eq!(fixture.call(DELETE_VCPU, state, 0, 0), SUCCESS);
            }
        }
        fixture.world.drain(1);
    }
}
