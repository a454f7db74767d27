//! VMSAs of the levels below: admitted anywhere, installed on their own vCPU, retired from anywhere.
//!
//! [`admit`](L1::admit) works on a page that no lower level can reach any more, and publishes in this order: checks,
//! run bit clear, VMSA attribute, checks again (VC-02), run bit. A VMSA that it has published may run at once, before L1 on
//! the target has installed it: the host does so when the guest asks for it. It is installed before L1 runs the level
//! there, and L1 looks for a waiting call before it enters (see `switch`), so a call that came too early is served.

use core::mem::offset_of;

use coco_part_api::range::FRAMES_PER_LARGE;
use coco_part_api::{FrameRange, GuestLevel, GuestMemory, Source, Terms};
use x86_64::structures::paging::PhysFrame;

use super::frames::{Index, Phase, Place};
use super::gate::{Gate, Still};
use super::grant::Flushed;
use super::switch::Current;
use super::{L1, vmpl};
use crate::abi::ap::{ApCreation, ApRequest};
use crate::abi::exit_codes::ExitCode;
use crate::abi::sev_features::SevFeatures;
use crate::abi::vmsa::Vmsa;
use crate::error::SnpError;
use crate::instr::{Port, Vmpl};
use crate::vmsa_image;

/// An admitted VMSA on its way to its vCPU.
#[derive(Debug)]
#[must_use = "the VMSA serves its level only when it is installed"]
pub struct Seed {
    index: Index,
    terms: Terms,
    /// L1 made the VMSA, so L1 tells the host about it.
    announce: bool,
}

impl Seed {
    /// What it was admitted for.
    pub const fn terms(&self) -> &Terms {
        &self.terms
    }
}

impl<P: Port, M: GuestMemory> L1<'_, P, M> {
    /// Makes the frame a VMSA. [`Source::Image`]: the guest filled it, and tells the host itself. [`Source::Context`]: L1
    /// fills it, and [`install`](Self::install) tells the host.
    ///
    /// # Errors
    /// [`SnpError::VmsaAligned2m`], [`SnpError::Range`], [`SnpError::UnknownVcpu`], [`SnpError::NoVcpu`] for a level not in
    /// use, [`SnpError::FrameInUse`], [`SnpError::NoRoom`], [`SnpError::FrameBusy`], [`SnpError::BadVmsa`], and what machine
    /// and memory refuse.
    /// Contents and attribute are then as before. [`SnpError::Quarantined`] if the machine did not let.
    pub fn admit(
        &mut self,
        state: PhysFrame,
        from: Source<'_>,
        terms: &Terms,
        _proof: &Flushed,
    ) -> Result<Seed, SnpError> {
        self.check_frame(state)?;
        demand_usable(state)?;
        if !self.levels.contains(&terms.level) {
            return Err(SnpError::NoVcpu { level: terms.level });
        }
        if terms.call_area == state {
            return Err(SnpError::BadVmsa { field: "call area" });
        }
        let features = self.features_of(terms.level);
        let place = self.frames.claim(terms.target, vmpl(terms.level), state)?;
        let published = match from {
            Source::Image => self.publish_image(state, vmpl(terms.level), features),
            Source::Context(context) => {
                let image = vmsa_image::image(context, vmpl(terms.level), features);
                self.publish_own(state, image)
            }
        };
        match published {
            Ok(()) => {
                place.shift(Phase::Changing, Phase::Admitted);
                let announce = matches!(from, Source::Context(_));
                Ok(Seed { index: place.index(), terms: *terms, announce })
            }
            // The word stays: nobody may use the page again.
            Err(cause @ SnpError::Quarantined { .. }) => Err(cause),
            Err(cause) => {
                place.free();
                Err(cause)
            }
        }
    }

    /// Makes the VMSA the current one. The older one, if any, is made to stand still and stays admitted.
    ///
    /// A mark in the call area of a VMSA that has not run yet is not its own, but left by one that had the area before. It
    /// is taken away: else the first exit of the new one would pass for a call.
    ///
    /// # Errors
    /// [`SnpError::WrongVcpu`]; [`SnpError::NotAStateFrame`] for a seed whose frame was retired; [`SnpError::FrameBusy`]
    /// while it is being retired; [`SnpError::VcpuRuns`] or [`SnpError::CallUnanswered`] for the older one; for a VMSA
    /// that L1 made, what the host says.
    pub fn install(&mut self, seed: Seed) -> Result<(), (Seed, SnpError)> {
        match self.try_install(&seed) {
            Ok(()) => Ok(()),
            Err(error) => Err((seed, error)),
        }
    }

    /// Stops the VMSA and makes the page an ordinary one of L1.
    ///
    /// # Errors
    /// [`SnpError::NotAStateFrame`]; [`SnpError::FrameBusy`] while another vCPU retires it, or its own one looks at it or
    /// serves a call of it; [`SnpError::VcpuRuns`] while it runs, or a call of it waits for an answer from this vCPU. It is
    /// then as before.
    pub fn retire(&mut self, state: PhysFrame, terms: &Terms) -> Result<(), SnpError> {
        let at = state.start_address();
        let place = self.frames.find(terms.target, vmpl(terms.level), state);
        let place = place.ok_or(SnpError::NotAStateFrame { at })?;
        let before = self.begin_change(&place)?;
        match self.gate(state).stop() {
            Ok(()) => {
                place.free();
                Ok(())
            }
            Err(cause) => {
                place.shift(Phase::Changing, before);
                Err(cause)
            }
        }
    }

    /// Moves a word to `Changing` and says where it was.
    fn begin_change(&mut self, place: &Place<'_>) -> Result<Phase, SnpError> {
        let at = place.frame().start_address();
        for phase in [Phase::Ready, Phase::Admitted] {
            if place.shift(phase, Phase::Changing) {
                return Ok(phase);
            }
        }
        Err(match place.phase() {
            // Only what this vCPU itself has to end first is more than a matter of time.
            Some(Phase::Held) if self.current.iter().flatten().any(|current| current.is(place)) => {
                SnpError::VcpuRuns { at }
            }
            Some(_) => SnpError::FrameBusy { at },
            None => SnpError::NotAStateFrame { at },
        })
    }

    fn try_install(&mut self, seed: &Seed) -> Result<(), SnpError> {
        let Terms { level, target, call_area } = seed.terms;
        if target != self.vcpu {
            return Err(SnpError::WrongVcpu { target, here: self.vcpu });
        }
        let at = seed.index.frame().start_address();
        let gone = SnpError::NotAStateFrame { at };
        let place = self.frames.at(seed.index).ok_or(gone)?;
        if !place.shift(Phase::Admitted, Phase::Held) {
            return Err(if place.phase().is_some() { SnpError::FrameBusy { at } } else { gone });
        }
        let new = Current::new(place, call_area);
        let aside = self.put_aside(level).and_then(|()| {
            let ready = self.drop_stale_mark(&new).and_then(|()| self.announce(seed, place.frame()));
            if let (Err(_), Some(older)) = (&ready, *self.current_mut(level)) {
                older.place().shift(Phase::Held, Phase::Ready);
            }
            ready
        });
        if let Err(cause) = aside {
            place.shift(Phase::Held, Phase::Admitted);
            return Err(cause);
        }
        if let Some(older) = self.current_mut(level).replace(new) {
            older.place().shift(Phase::Held, Phase::Admitted);
        }
        place.shift(Phase::Held, Phase::Ready);
        Ok(())
    }

    /// Makes the current VMSA of a level stand still, and leaves its word in `Held` (VC-12). Does nothing without one.
    fn put_aside(&mut self, level: GuestLevel) -> Result<(), SnpError> {
        let Some(older) = *self.current_mut(level) else { return Ok(()) };
        if older.is_waiting() {
            return Err(SnpError::CallUnanswered { level });
        }
        let place = older.place();
        if !place.shift(Phase::Ready, Phase::Held) {
            return match place.phase() {
                Some(Phase::Changing) => Err(SnpError::FrameBusy { at: place.frame().start_address() }),
                // Retired.
                _ => Ok(()),
            };
        }
        let closed = match self.gate(place.frame()).close() {
            Ok(Still::Yes) => Ok(()),
            Ok(Still::No) => Err(SnpError::VcpuRuns { at: place.frame().start_address() }),
            Err(cause) => Err(cause),
        };
        if closed.is_err() {
            // The next run opens the gate.
            place.shift(Phase::Held, Phase::Ready);
        }
        closed
    }

    /// Tells the host about a VMSA that L1 made, so that it is what the host runs for the level.
    fn announce(&mut self, seed: &Seed, frame: PhysFrame) -> Result<(), SnpError> {
        if !seed.announce {
            return Ok(());
        }
        let features = self.features_of(seed.terms.level);
        let request = ApCreation {
            request: ApRequest::CreateOnInit { features },
            vmpl: vmpl(seed.terms.level),
            apic_id: self.vcpu.0,
            vmsa: frame,
        };
        self.host.ap_creation(&mut self.port, &request)
    }

    /// Takes the mark out of the call area of a VMSA that is about to be installed, if that VMSA has never run. The host may
    /// run it at any time, so the gate is closed meanwhile.
    fn drop_stale_mark(&mut self, new: &Current<'_>) -> Result<(), SnpError> {
        let frame = new.place().frame();
        if !self.has_mark(new) || self.gate(frame).has_left()? {
            return Ok(());
        }
        let stopped = self.gate(frame).close();
        let never_ran = match stopped {
            Ok(Still::Yes) => self.gate(frame).has_left().map(|left| !left),
            // It runs: the mark may be its own.
            Ok(Still::No) => Ok(false),
            Err(cause) => Err(cause),
        };
        if never_ran == Ok(true) {
            self.take_mark(new);
        }
        let opened = self.gate(frame).open();
        never_ran.and(opened)
    }

    /// Publishes a page that a guest filled. Nobody below can reach it any more.
    fn publish_image(&mut self, frame: PhysFrame, vmpl: Vmpl, features: SevFeatures) -> Result<(), SnpError> {
        let image: Vmsa = self.gate(frame).read(0)?;
        check_image(&image, vmpl, features)?;
        if image.efer & Vmsa::EFER_SVME == 0 {
            return Err(SnpError::BadVmsa { field: "efer" });
        }
        let mut gate = self.gate(frame);
        let closed = image.efer & !Vmsa::EFER_SVME;
        let marked = gate.write(offset_of!(Vmsa, efer), &closed).and_then(|()| gate.mark());
        let opened = marked.and_then(|()| {
            // What counts is what the page holds now that it is a VMSA.
            let now: Vmsa = gate.read(0)?;
            let checked = check_image(&now, vmpl, features).and_then(|()| open_fresh(&mut gate, closed));
            if checked.is_err() {
                gate.unmark().map_err(|_| SnpError::Quarantined { at: gate.at() })?;
            }
            checked
        });
        match opened {
            Err(cause) if !matches!(cause, SnpError::Quarantined { .. }) => {
                gate.write(0, &image)?;
                Err(cause)
            }
            other => other,
        }
    }

    /// Publishes a page of L1 with an image of L1. Contents come back after an error.
    pub(super) fn publish_own(&mut self, frame: PhysFrame, mut image: Vmsa) -> Result<(), SnpError> {
        let mut gate = self.gate(frame);
        let before: Vmsa = gate.read(0)?;
        image.efer &= !Vmsa::EFER_SVME;
        let marked = gate.write(0, &image).and_then(|()| gate.mark());
        let opened = marked.and_then(|()| {
            let opened = open_fresh(&mut gate, image.efer);
            if opened.is_err() {
                gate.unmark().map_err(|_| SnpError::Quarantined { at: gate.at() })?;
            }
            opened
        });
        match opened {
            Err(cause) if !matches!(cause, SnpError::Quarantined { .. }) => {
                gate.write(0, &before)?;
                Err(cause)
            }
            other => other,
        }
    }
}

/// The last steps of publishing. No exit is on record, so no call is served before the vCPU has run (VC-17); the first run
/// flushes the TLB (RMP-056); and it can run.
fn open_fresh<P: Port, M: GuestMemory>(gate: &mut Gate<'_, P, M>, closed: u64) -> Result<(), SnpError> {
    gate.write(offset_of!(Vmsa, guest_exit_code), &ExitCode::INVALID)?;
    gate.write(offset_of!(Vmsa, pcpu_id), &0_u64)?;
    if gate.replace_efer(closed, closed | Vmsa::EFER_SVME)? { Ok(()) } else { Err(SnpError::BadVmsa { field: "efer" }) }
}

/// What L1 demands of a VMSA besides the run bit. Registers are the guest's business: bad ones keep it from running.
fn check_image(image: &Vmsa, vmpl: Vmpl, features: SevFeatures) -> Result<(), SnpError> {
    let demands = [
        ("vmpl", image.vmpl == vmpl.number()),
        ("sev_features", image.sev_features == features),
        // Events and intercepts of a level are for more privileged ones to choose, and a busy VMSA could never run.
        ("vintr_ctrl", image.vintr_ctrl.bits() == 0),
        ("event_inj", image.event_inj.bits() == 0),
        ("guest_intercept_vectors", image.guest_intercept_vectors.iter().all(|word| *word == 0)),
        ("virtual_tom", image.virtual_tom == 0),
        ("secure_avic_ctl", image.secure_avic_ctl == 0),
        ("reg_prot_nonce", image.reg_prot_nonce == 0),
    ];
    match demands.into_iter().find(|(_, met)| !met) {
        Some((field, _)) => Err(SnpError::BadVmsa { field }),
        None => Ok(()),
    }
}

/// A VMSA may not begin at a multiple of 2 MiB (RMP-025).
pub(super) fn demand_usable(frame: PhysFrame) -> Result<(), SnpError> {
    let at = frame.start_address();
    if FrameRange::of(frame).first_number().is_multiple_of(FRAMES_PER_LARGE) {
        return Err(SnpError::VmsaAligned2m { at });
    }
    Ok(())
}
