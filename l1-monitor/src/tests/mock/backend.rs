//! The verbs.

use std::sync::Arc;
use std::vec::Vec;

use coco_part_api::{
    AdmitVcpu, After, Attest, AttestFor, Binding, BootGuest, BootInfo, BootPage, CallRegs, Capabilities, Completion,
    Context, CreateVcpu, DataForm, ErrorKind, ErrorType, Event, Evidence, Exit, FlushReach, FrameRange, Grant, Grants,
    GuestLevel, GuestState, Hierarchy, HostReach, Identify, Level, NewVcpu, NotYet, Origin, PendingCall, REPORT_DATA,
    Rights, RunLevel, Source, Stopped, Support, Terms, Validate, VcpuId,
};
use x86_64::structures::paging::{PhysFrame, Size4KiB};

use super::{At, Books, MockError, Op, Page, World};
use crate::tests::{LEVEL, frame};

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct MockSeed {
    state: u64,
    terms: Terms,
}

pub(crate) struct MockBackend {
    pub(super) world: Arc<World>,
    vcpu: VcpuId,
}

impl MockBackend {
    pub(crate) fn new(world: Arc<World>, vcpu: VcpuId) -> Self {
        Self { world, vcpu }
    }

    fn note<R>(&self, op: Op, work: impl FnOnce(&mut Books) -> R) -> R {
        self.world.with(|books| {
            books.log.push(op);
            work(books)
        })
    }

    fn simple(&self, op: Op, at: At, work: impl FnOnce(&mut Books)) -> Result<(), MockError> {
        self.note(op, |books| match books.failure(at) {
            Some(failure) => Err(MockError(failure.kind)),
            None => {
                work(books);
                Ok(())
            }
        })
    }
}

impl ErrorType for MockBackend {
    type Error = MockError;
}

impl Identify for MockBackend {
    fn level(&self) -> Level {
        Level::Monitor
    }

    fn vcpu(&self) -> VcpuId {
        self.vcpu
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            hierarchy: Hierarchy::Ordered,
            guest_levels: 3,
            host_reach: HostReach::Direct,
            rescind_unassigned: if self.world.with(|books| books.only_shared) { Support::No } else { Support::Yes },
            flush: FlushReach::OwnVcpu,
            binding: if self.world.with(|books| books.bound_by_monitor) { Binding::Monitor } else { Binding::Hardware },
            inject: Support::No,
        }
    }
}

impl Validate for MockBackend {
    fn validate(&mut self, range: FrameRange) -> Result<(), Stopped<MockError>> {
        let _ = range;
        Err(Stopped::at_start(MockError(ErrorKind::Unsupported)))
    }

    fn rescind(&mut self, range: FrameRange, then: After) -> Result<(), Stopped<MockError>> {
        let _ = (range, then);
        Err(Stopped::at_start(MockError(ErrorKind::Unsupported)))
    }
}

/// Frames that were cut.
#[derive(Debug, Default)]
pub(crate) struct MockCut(Vec<FrameRange>);

#[derive(Debug)]
pub(crate) struct MockFlushed;

impl Grant for MockBackend {
    type Cut = MockCut;
    type Flushed = MockFlushed;

    fn validate_for(&mut self, range: FrameRange, grants: &Grants, by: Origin) -> Result<(), Stopped<MockError>> {
        let rights = grants.of(LEVEL);
        assert_eq!(*grants, Grants::one(LEVEL, Rights::RAM));
        self.note(Op::ValidateFor(range, by), |books| {
            let done = books.ranged(
                At::ValidateFor,
                range,
                |page| page.is_valid.then_some(ErrorKind::AlreadyInState),
                |page| *page = Page { is_valid: true, rights, is_state: false },
            );
            let frames = done.as_ref().map_or_else(|stopped| stopped.done, |()| range.frames());
            if let Some(zeroed) = range.take(frames) {
                books.zero(zeroed);
            }
            done
        })
    }

    fn publish(&mut self, range: FrameRange, grants: &Grants) -> Result<(), Stopped<MockError>> {
        let rights = grants.of(LEVEL);
        self.note(Op::Publish(range), |books| {
            assert!(!books.any(range, |page| !page.is_valid || page.is_state));
            books.ranged(At::Publish, range, |_| None, |page| page.rights = rights)
        })
    }

    fn withdraw(&mut self, range: FrameRange, by: Origin, cut: &mut MockCut) -> Result<(), Stopped<MockError>> {
        assert_eq!(by, Origin::Request);
        self.note(Op::Withdraw(range), |books| {
            assert!(!books.any(range, |page| !page.is_valid || page.is_state || page.rights.is_empty()));
            if let Some(failure) = books.failure(At::HalfWithdraw) {
                let lost = range.take(failure.done + 1).unwrap();
                books.each(lost, |page| page.rights = Rights::empty());
                cut.0.push(lost);
                return Err(Stopped { done: failure.done, cause: MockError(failure.kind) });
            }
            let done = books.ranged(At::Withdraw, range, |_| None, |page| page.rights = Rights::empty());
            let frames = done.as_ref().map_or_else(|stopped| stopped.done, |()| range.frames());
            cut.0.extend(range.take(frames));
            done
        })
    }

    fn redeem(&mut self, cut: MockCut) -> Result<MockFlushed, NotYet<MockCut>> {
        self.note(Op::Redeem { is_empty: cut.0.is_empty() }, |books| {
            if cut.0.is_empty() || books.not_yet == 0 {
                return Ok(MockFlushed);
            }
            books.not_yet -= 1;
            Err(NotYet(cut))
        })
    }

    fn regrant(&mut self, range: FrameRange, grants: &Grants, _: &MockFlushed) -> Result<(), Stopped<MockError>> {
        let rights = grants.of(LEVEL);
        self.note(Op::Regrant(range), |books| {
            let fits = |page: &Page| page.rights.is_empty() || page.rights == rights;
            assert!(!books.any(range, |page| !page.is_valid || page.is_state || !fits(page)));
            books.ranged(At::Regrant, range, |_| None, |page| page.rights = rights)
        })
    }

    fn rescind_from(
        &mut self,
        range: FrameRange,
        then: After,
        by: Origin,
        _: &MockFlushed,
    ) -> Result<(), Stopped<MockError>> {
        assert_eq!(by, Origin::Request);
        self.note(Op::Rescind(range, then), |books| {
            assert!(!books.any(range, |page| !page.is_valid || page.is_state || !page.rights.is_empty()));
            books.ranged(At::Rescind, range, |_| None, |page| page.is_valid = false)
        })
    }

    fn set_rights(&mut self, _: FrameRange, _: &Grants, _: &mut MockCut) -> Result<(), Stopped<MockError>> {
        Err(Stopped::at_start(MockError(ErrorKind::Unsupported)))
    }
}

impl AdmitVcpu for MockBackend {
    type Seed = MockSeed;

    fn admit(
        &mut self,
        state: PhysFrame<Size4KiB>,
        _: Source<'_>,
        terms: &Terms,
        _: &MockFlushed,
    ) -> Result<MockSeed, MockError> {
        let at = state.start_address().as_u64();
        self.simple(Op::Admit(at), At::Admit, |books| {
            books.each(FrameRange::of(state), |page| {
                assert!(page.is_valid && page.rights.is_empty() && !page.is_state);
                page.is_state = true;
            });
        })?;
        Ok(MockSeed { state: at, terms: *terms })
    }

    fn install(&mut self, seed: MockSeed) -> Result<(), (MockSeed, MockError)> {
        assert_eq!(seed.terms.target, self.vcpu);
        let (vcpu, state) = (self.vcpu.index(), seed.state);
        let area = seed.terms.call_area.start_address().as_u64();
        let done = self.simple(Op::Install(state), At::Install, |books| {
            assert!(books.pages[(state >> 12) as usize].is_state);
            books.installed[vcpu] = Some(state);
            books.call_areas[vcpu] = Some(area);
        });
        done.map_err(|error| (seed, error))
    }

    fn retire(&mut self, state: PhysFrame<Size4KiB>, terms: &Terms) -> Result<(), MockError> {
        let at = state.start_address().as_u64();
        let target = terms.target.index();
        self.simple(Op::Retire(at), At::Retire, |books| {
            books.each(FrameRange::of(state), |page| {
                assert!(page.is_state);
                page.is_state = false;
            });
            if books.installed[target] == Some(at) {
                books.installed[target] = None;
                books.call_areas[target] = None;
            }
        })
    }
}

impl RunLevel for MockBackend {
    fn run(&mut self, level: GuestLevel) -> Result<Exit, MockError> {
        assert_eq!(level, LEVEL);
        let vcpu = self.vcpu.index();
        self.note(Op::Run, |books| {
            if books.installed[vcpu].is_none() {
                return Err(MockError(ErrorKind::NotFound));
            }
            books.exits[vcpu].pop_front().unwrap_or(Ok(Exit::Spurious)).map_err(MockError)
        })
    }

    fn answer(&mut self, call: PendingCall, regs: CallRegs) -> Result<(), MockError> {
        let _ = call;
        let vcpu = self.vcpu.index();
        if self.world.with(|books| books.installed[vcpu].is_none()) {
            return Err(MockError(ErrorKind::NotFound));
        }
        self.simple(Op::Answer, At::Answer, |books| {
            assert!(books.answers[vcpu].is_none());
            books.answers[vcpu] = Some(regs);
        })
    }

    fn set_call_area(&mut self, _: GuestLevel, at: PhysFrame<Size4KiB>) -> Result<(), MockError> {
        let (vcpu, at) = (self.vcpu.index(), at.start_address().as_u64());
        self.simple(Op::SetCallArea(at), At::SetCallArea, |books| books.call_areas[vcpu] = Some(at))
    }
}

/// Registers that nobody reads; instructions are completed once, after their exit.
impl GuestState for MockBackend {
    fn context(&mut self, _: GuestLevel) -> Result<Context, MockError> {
        Err(MockError(ErrorKind::Unsupported))
    }

    fn set_context(&mut self, _: GuestLevel, _: &Context) -> Result<(), MockError> {
        Err(MockError(ErrorKind::Unsupported))
    }

    fn inject(&mut self, level: GuestLevel, event: Event) -> Result<(), MockError> {
        assert_eq!(level, LEVEL);
        self.simple(Op::Inject(event), At::Inject, |_| ())
    }

    fn complete(&mut self, level: GuestLevel, with: Completion) -> Result<(), MockError> {
        assert_eq!(level, LEVEL);
        self.simple(Op::Complete(with), At::Complete, |_| ())
    }

    /// Vouches for leaf 1 alone.
    fn cpuid(&mut self, level: GuestLevel, leaf: u32, _: u32) -> Result<Option<[u32; 4]>, MockError> {
        assert_eq!(level, LEVEL);
        match self.world.with(|books| books.failure(At::Vouch)) {
            Some(failure) => Err(MockError(failure.kind)),
            None => Ok((leaf == 1).then_some([1, 2, 3, 4])),
        }
    }
}

/// What the mock's evidence consists of: level, then nonce.
fn evidence(level: Level, data: &[u8; REPORT_DATA], form: DataForm, out: &mut [u8]) -> Evidence {
    out[0] = level.number();
    out[1..65].copy_from_slice(data);
    Evidence { len: 65, names: level, bound_by: Binding::Hardware, data: form }
}

impl Attest for MockBackend {
    fn attest(&mut self, data: &[u8; REPORT_DATA], out: &mut [u8]) -> Result<Evidence, MockError> {
        self.simple(Op::Attest, At::Attest, |_| ())?;
        let form = if self.world.with(|books| books.bound_by_monitor) { DataForm::Digest } else { DataForm::Verbatim };
        Ok(evidence(Level::Monitor, data, form, out))
    }
}

impl AttestFor for MockBackend {
    fn attest_for(
        &mut self,
        level: GuestLevel,
        nonce: &[u8; REPORT_DATA],
        manifest: &[u8],
        out: &mut [u8],
    ) -> Result<Evidence, MockError> {
        assert!(manifest.is_empty());
        self.simple(Op::AttestFor, At::AttestFor, |_| ())?;
        Ok(evidence(level.into(), nonce, DataForm::Digest, out))
    }
}

impl BootGuest for MockBackend {
    const PAGES: &'static [BootPage] = &[BootPage::Secrets, BootPage::Features];

    fn fill(&mut self, page: BootPage, at: PhysFrame<Size4KiB>, info: &BootInfo) -> Result<(), MockError> {
        assert_eq!(info.level, LEVEL);
        self.simple(Op::Fill(page), At::Fill, |books| {
            let start = at.start_address().as_u64() as usize;
            books.bytes[start..][..4096].fill(0xbb);
        })
    }
}

impl CreateVcpu for MockBackend {
    fn create_vcpu(&mut self, new: NewVcpu<'_>) -> Result<(), MockError> {
        self.simple(Op::CreateVcpu(new.state.start_address().as_u64()), At::CreateVcpu, |_| ())
    }

    fn destroy_vcpu(&mut self, _: VcpuId, _: PhysFrame<Size4KiB>) -> Result<(), MockError> {
        Err(MockError(ErrorKind::Unsupported))
    }
}

#[test]
fn the_mock_refuses_to_validate_twice() {
    let world = Arc::new(World::new(4));
    let mut backend = MockBackend::new(world, VcpuId(0));
    let range = FrameRange::of(frame(0x1000));
    let grants = Grants::one(LEVEL, Rights::RAM);
    assert!(backend.validate_for(range, &grants, Origin::Request).is_ok());
    let again = backend.validate_for(range, &grants, Origin::Request).unwrap_err();
    assert_eq!(again.cause, MockError(ErrorKind::AlreadyInState));
}
