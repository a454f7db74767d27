//! SNP backends of other people on the SNP machine.
//!
//! An author implements [`SnpBackend`]: how the two sides of the backend are made over [`ModelPort`](super::ModelPort) and
//! [`Window`](super::Window), or over a port of their own that executes [`machine::Op`]s on a [`Cpu`]. [`OnSnp`] makes a
//! [`Platform`] of that. `examples/outside_backend.rs` shows it in full.

use std::marker::PhantomData;

use coco_part_api::{AdmitVcpu, CreateVcpu, Error, ErrorType, GuestPort, GuestState, Monitor, NewVcpu, VcpuId};
use machine::host::Policy;

use super::model::SnpModel;
use super::platform::{RULES, Snp, launch};
use crate::mutants;
use crate::platform::{Found, Home, Liar, Mutant, Plain, Platform, Property};
use crate::runner::Cpu;
use crate::suite::Case;
use crate::world::{BootMonitor, Options};

/// A backend for SEV-SNP, as the suite needs it.
pub trait SnpBackend: Sized + 'static {
    /// Error of both sides.
    type Error: Error;
    /// What crosses vCPUs when one is created.
    type Seed: Send + 'static;
    /// What L1's vCPUs share.
    type Shared: 'static;
    /// L1's side on one vCPU.
    type Monitor<'y>: Monitor + CreateVcpu + GuestState + AdmitVcpu<Seed = Self::Seed> + ErrorType<Error = Self::Error>;
    /// A guest's side on one vCPU.
    type Guest<'y>: GuestPort + ErrorType<Error = Self::Error>;

    /// Column of the matrix; begins with `snp`, by which exceptions of the vendor are found.
    const NAME: &'static str;

    /// Storage that L1's vCPUs share.
    fn shared() -> Self::Shared;

    /// L1's side on the vCPU of `cpu`.
    ///
    /// # Errors
    /// As [`Platform::monitor`].
    fn monitor<'y>(
        cpu: Cpu<'y, SnpModel>,
        shared: &'y Self::Shared,
        home: &'y Home<OnSnp<Self>>,
    ) -> Result<Self::Monitor<'y>, Self::Error>;

    /// A guest's side on the vCPU of `cpu` that has called nobody yet and shares nothing with the host.
    ///
    /// # Errors
    /// As [`Platform::early_guest`].
    fn early_guest<'y>(cpu: Cpu<'y, SnpModel>, home: &'y Home<OnSnp<Self>>) -> Result<Self::Guest<'y>, Self::Error>;

    /// A guest's side on the vCPU of `cpu`, ready for everything: with its GHCB, and on vCPU 0 with a channel to the firmware.
    ///
    /// # Errors
    /// As [`Platform::guest`].
    fn guest<'y>(cpu: Cpu<'y, SnpModel>, home: &'y Home<OnSnp<Self>>) -> Result<Self::Guest<'y>, Self::Error>;
}

/// The platform of an outside backend: this crate's SNP machine with its hosts.
///
/// Its mutants are machines without one rule. The cases that know `backend-snp` from inside are not among its cases.
#[derive(Clone, Copy, Debug)]
pub struct OnSnp<B>(PhantomData<B>);

impl<B: SnpBackend> Platform for OnSnp<B> {
    type Model = SnpModel;
    type Host = Policy;
    type Error = B::Error;
    type Seed = B::Seed;
    type Shared = B::Shared;
    type Monitor<'y> = B::Monitor<'y>;
    type Guest<'y> = B::Guest<'y>;

    const NAME: &'static str = B::NAME;
    const VARIANTS: &'static [&'static str] = Snp::VARIANTS;

    const PROPERTIES: &'static [Property] = Snp::PROPERTIES;

    fn launch(options: &Options<Self>) -> SnpModel {
        SnpModel(launch(options))
    }

    fn shared(_: &Options<Self>) -> B::Shared {
        B::shared()
    }

    fn monitor<'y>(
        cpu: Cpu<'y, SnpModel>,
        shared: &'y B::Shared,
        home: &'y Home<Self>,
    ) -> Result<B::Monitor<'y>, B::Error> {
        B::monitor(cpu, shared, home)
    }

    fn guest<'y>(cpu: Cpu<'y, SnpModel>, home: &'y Home<Self>) -> Result<B::Guest<'y>, B::Error> {
        B::guest(cpu, home)
    }

    fn early_guest<'y>(cpu: Cpu<'y, SnpModel>, home: &'y Home<Self>) -> Result<B::Guest<'y>, B::Error> {
        B::early_guest(cpu, home)
    }

    fn start_secondary(monitor: &mut BootMonitor<'_, '_, Self>, new: NewVcpu<'_>) -> Result<(), String> {
        monitor.start_secondary(new).map_err(|error| error.to_string())
    }

    fn changes_by_running(line: &str) -> bool {
        Snp::changes_by_running(line)
    }

    fn plain(cpu: Cpu<'_, SnpModel>, instruction: Plain) -> Result<Found, String> {
        Snp::plain(cpu, instruction)
    }

    fn kick(cpu: Cpu<'_, SnpModel>, who: VcpuId) {
        Snp::kick(cpu, who);
    }

    fn pause(cpu: Cpu<'_, SnpModel>) {
        Snp::pause(cpu);
    }

    fn idle(cpu: Cpu<'_, SnpModel>) {
        Snp::idle(cpu);
    }

    fn liar(liar: Liar) -> Option<Policy> {
        Snp::liar(liar)
    }

    fn own_cases() -> Vec<Case<Self>> {
        Vec::new()
    }

    fn mutants() -> Vec<Mutant<Self>> {
        mutants::of(std::iter::empty(), RULES)
    }
}
