//! The GHCB page: how a request gets into it and an answer out of it. The events are in [`events`](super::events).

use core::fmt;
use core::mem::offset_of;

use coco_part_api::{FrameRange, GuestMemory, HostState, Stopped};
use x86_64::PhysAddr;
use x86_64::structures::paging::PhysFrame;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::answer::{Answer, Part, Registers};
use super::msr_protocol::MsrProtocol;
use super::request::Request;
use super::{HostChannel, features, page_list, preferred_ghcb, register_ghcb, unregister_ghcb};
use crate::abi::ghcb::{Ghcb, ValidBit, ValidBitmap};
use crate::abi::ghcb_msr::ghcb_gpa;
use crate::abi::nae::{HvFeatures, NaeCode};
use crate::abi::terminate::TerminateReason;
use crate::abi::vmpl::Vmpl;
use crate::error::SnpError;
use crate::instr::{CallFrame, Port};

/// The host reached by a page that both can write.
///
/// The page is zeroed before each request, and only that request's fields are set (GH-16). It belongs to one vCPU at one
/// level; an interrupt handler that talks to the host needs a page of its own or must not run in between (GH-14).
///
/// Every event can fail with the answer errors: [`SnpError::MissingField`], [`SnpError::UnknownStatus`] and
/// [`SnpError::ForbiddenException`] for a host that misbehaves, [`SnpError::MalformedRequest`] and [`SnpError::Exception`]
/// for one that refuses, and [`SnpError::Memory`] when the page is out of reach. The caller of an emulated instruction
/// raises the exception that the host asks for; it is #GP or #UD.
pub struct GhcbPage<M: GuestMemory> {
    memory: M,
    at: PhysFrame,
}

/// The page from SW_EXITCODE to the valid bitmap.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
struct Head {
    sw_exit_code: NaeCode,
    sw_exit_info_1: u64,
    sw_exit_info_2: u64,
    sw_scratch: u64,
    between: [u8; 0x40],
    valid_bitmap: ValidBitmap,
}

/// Offset of [`Head`] in the page.
const HEAD: usize = offset_of!(Ghcb, sw_exit_code);
/// Offset of the shared buffer.
const BUFFER: usize = offset_of!(Ghcb, shared_buffer);

const _: () = assert!(offset_of!(Ghcb, sw_exit_info_1) == HEAD + offset_of!(Head, sw_exit_info_1));
const _: () = assert!(offset_of!(Ghcb, sw_exit_info_2) == HEAD + offset_of!(Head, sw_exit_info_2));
const _: () = assert!(offset_of!(Ghcb, sw_scratch) == HEAD + offset_of!(Head, sw_scratch));
const _: () = assert!(offset_of!(Ghcb, valid_bitmap) == HEAD + offset_of!(Head, valid_bitmap));

impl<M: GuestMemory> GhcbPage<M> {
    /// Registers a page with the host and selects it. The page has to be shared already; `memory` is the handle to shared
    /// memory.
    ///
    /// # Errors
    /// As [`register_ghcb`].
    pub fn register<P: Port>(port: &mut P, memory: M, at: PhysFrame) -> Result<Self, SnpError> {
        register_ghcb(port, at)?;
        port.write_ghcb_msr(ghcb_gpa(at));
        Ok(Self { memory, at })
    }

    /// Registers the page that the host prefers, if it is one of `pages`, else the first of them.
    ///
    /// The pages have been set aside for this and are shared already: the host's wish never leads to any other page.
    ///
    /// # Errors
    /// As [`preferred_ghcb`] and [`register_ghcb`].
    pub fn register_preferred<P: Port>(port: &mut P, memory: M, pages: FrameRange) -> Result<Self, SnpError> {
        let wish = preferred_ghcb(port)?.filter(|wish| pages.contains(FrameRange::of(*wish)));
        Self::register(port, memory, wish.unwrap_or(pages.first()))
    }

    /// Takes the registration back, with the host feature `GHCB_UNREGISTER` only, and gives the page. It stays shared.
    ///
    /// # Errors
    /// With the page as it was. As [`unregister_ghcb`].
    pub fn unregister<P: Port>(self, port: &mut P, features: HvFeatures) -> Result<PhysFrame, (Self, SnpError)> {
        match unregister_ghcb(port, self.at, features) {
            Ok(()) => Ok(self.at),
            Err(error) => Err((self, error)),
        }
    }

    /// The page.
    pub const fn frame(&self) -> PhysFrame {
        self.at
    }

    /// Asks, and wants nothing back but success.
    pub(super) fn ask<P: Port>(&mut self, port: &mut P, request: &Request<'_>) -> Result<(), SnpError> {
        self.send::<Answer, P>(port, request)?.check()
    }

    /// Asks, and gives SW_EXITINFO2 of a success.
    pub(super) fn ask_for_detail<P: Port>(&mut self, port: &mut P, request: &Request<'_>) -> Result<u64, SnpError> {
        let answer: Answer = self.send(port, request)?;
        answer.check()?;
        answer.detail()
    }

    /// Asks, and gives the registers of a success.
    pub(super) fn ask_for_registers<P: Port>(
        &mut self,
        port: &mut P,
        request: &Request<'_>,
    ) -> Result<Registers, SnpError> {
        let registers: Registers = self.send(port, request)?;
        registers.answer().check()?;
        Ok(registers)
    }

    /// Sends a request and copies a part of the page, once.
    pub(super) fn send<A: Part, P: Port>(&mut self, port: &mut P, request: &Request<'_>) -> Result<A, SnpError> {
        self.fill(request)?;
        port.write_ghcb_msr(ghcb_gpa(self.at));
        port.vmgexit();
        self.copy()
    }

    /// Shared memory beside the page.
    pub(super) const fn memory(&self) -> &M {
        &self.memory
    }

    /// Copies the beginning of the shared buffer out, once.
    pub(super) fn take_buffer(&self, into: &mut [u8]) -> Result<(), SnpError> {
        let at = self.place(BUFFER);
        self.memory.read(at, into).map_err(SnpError::memory(at))
    }

    /// Zeroes the page and sets the fields of one request.
    fn fill(&mut self, request: &Request<'_>) -> Result<(), SnpError> {
        let start = self.at.start_address();
        self.memory.zero(FrameRange::of(self.at)).map_err(SnpError::memory(start))?;
        let mut valid_bitmap = ValidBitmap::default();
        for field in [ValidBit::SW_EXIT_CODE, ValidBit::SW_EXIT_INFO_1, ValidBit::SW_EXIT_INFO_2] {
            valid_bitmap.set(field);
        }
        let mut sw_scratch = 0;
        if request.buffer.is_some() {
            sw_scratch = self.place(BUFFER).as_u64();
            valid_bitmap.set(ValidBit::SW_SCRATCH);
        }
        let fields = request.fields.quadwords();
        let fields = fields.iter().filter_map(|(field, value)| Some((*field, (*value)?)));
        fields.clone().for_each(|(field, _)| valid_bitmap.set(field));
        let head = Head {
            sw_exit_code: request.code,
            sw_exit_info_1: request.info_1,
            sw_exit_info_2: request.info_2,
            sw_scratch,
            between: [0; 0x40],
            valid_bitmap,
        };
        self.put(HEAD, head.as_bytes())?;
        // After the head: XCR0 lies inside of it.
        for (field, value) in fields {
            self.put(field.offset(), value.as_bytes())?;
        }
        if let Some(bytes) = request.buffer.filter(|bytes| !bytes.is_empty()) {
            self.put(BUFFER, bytes)?;
        }
        self.put(offset_of!(Ghcb, version), Ghcb::VERSION_2.as_bytes())
    }

    /// Copies a part of the page out, once.
    fn copy<A: Part>(&self) -> Result<A, SnpError> {
        let at = self.place(A::OFFSET);
        self.memory.read_value(at).map_err(SnpError::memory(at))
    }

    fn put(&self, offset: usize, bytes: &[u8]) -> Result<(), SnpError> {
        let at = self.place(offset);
        self.memory.write(at, bytes).map_err(SnpError::memory(at))
    }

    /// Address of an offset below 4096: the low bits of a frame are zero.
    fn place(&self, offset: usize) -> PhysAddr {
        PhysAddr::new_truncate(self.at.start_address().as_u64() | offset as u64)
    }
}

impl<M: GuestMemory> HostChannel for GhcbPage<M> {
    fn hv_features<P: Port>(&mut self, port: &mut P, needed: HvFeatures) -> Result<HvFeatures, SnpError> {
        let claimed = self.ask_for_detail(port, &Request::plain(NaeCode::HYPERVISOR_FEATURES))?;
        features::demand(HvFeatures::from_bits_retain(claimed), needed)
    }

    fn page_state<P: Port>(&mut self, port: &mut P, range: FrameRange, to: HostState) -> Result<(), Stopped<SnpError>> {
        page_list::change(self, port, range, to)
    }

    fn run_vmpl<P: Port>(&mut self, port: &mut P, vmpl: Vmpl) -> Result<(), SnpError> {
        self.ask(port, &run_vmpl(vmpl))
    }

    fn call_vmpl0<P: Port, F: FnOnce() -> Result<(), SnpError>>(
        &mut self,
        port: &mut P,
        frame: &mut CallFrame,
        mark: F,
    ) -> Result<(), SnpError> {
        self.fill(&run_vmpl(Vmpl::VMPL0))?;
        port.write_ghcb_msr(ghcb_gpa(self.at));
        mark()?;
        port.vmgexit_call(frame);
        self.copy::<Answer>()?.check()
    }

    fn ap_reset_hold<P: Port>(&mut self, port: &mut P) -> Result<bool, SnpError> {
        Ok(self.ask_for_detail(port, &Request::plain(NaeCode::AP_RESET_HOLD))? != 0)
    }

    fn terminate<P: Port>(&mut self, port: &mut P, reason: TerminateReason) -> ! {
        // Whatever comes of it, the register says the same for ever.
        let _ = self.ask(port, &Request::new(NaeCode::TERMINATE, u64::from(reason.bits()), 0));
        MsrProtocol.terminate(port, reason)
    }
}

fn run_vmpl(vmpl: Vmpl) -> Request<'static> {
    Request::new(NaeCode::RUN_VMPL, u64::from(vmpl.number()), 0)
}

impl<M: GuestMemory> fmt::Debug for GhcbPage<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GhcbPage").field("at", &self.at).finish_non_exhaustive()
    }
}
