//! The GHCB page: requests with operands, lists and registers.

use core::fmt;
use core::mem::offset_of;

use coco_part_api::{FrameRange, GuestMemory, HostState, Stopped};
use x86_64::PhysAddr;
use x86_64::structures::paging::PhysFrame;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::answer::{self, Answer};
use super::msr_protocol::MsrProtocol;
use super::{HostChannel, page_list, register_ghcb};
use crate::abi::ap::ApCreation;
use crate::abi::firmware_status::GuestRequestStatus;
use crate::abi::ghcb::{Ghcb, ValidBit, ValidBitmap};
use crate::abi::ghcb_msr::ghcb_gpa;
use crate::abi::nae::NaeCode;
use crate::abi::psc::PscHeader;
use crate::abi::terminate::TerminateReason;
use crate::abi::vmpl::Vmpl;
use crate::error::SnpError;
use crate::instr::{CallFrame, Port};

/// The host reached by a page that both can write.
///
/// The page is zeroed before each request, and only that request's fields are set (GH-16). It belongs to one vCPU at one
/// level; an interrupt handler that talks to the host needs a page of its own or must not run in between (GH-14).
pub struct GhcbPage<M: GuestMemory> {
    memory: M,
    at: PhysFrame,
}

/// The fields of a request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Request<'a> {
    code: NaeCode,
    info_1: u64,
    info_2: u64,
    rax: Option<u64>,
    /// What goes into the shared buffer; SW_SCRATCH then points there.
    buffer: &'a [u8],
}

impl<'a> Request<'a> {
    pub(super) const fn new(code: NaeCode, info_1: u64, info_2: u64) -> Self {
        Self { code, info_1, info_2, rax: None, buffer: &[] }
    }

    pub(super) const fn with_buffer(self, buffer: &'a [u8]) -> Self {
        Self { buffer, ..self }
    }
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

    /// The page.
    pub const fn frame(&self) -> PhysFrame {
        self.at
    }

    /// Gives the host a VMSA to run, or takes it back. Whether the host does it shows later.
    ///
    /// # Errors
    /// The answer errors: [`SnpError::MalformedRequest`], [`SnpError::Exception`] for a refusal, and those of a host that
    /// misbehaves.
    pub fn ap_creation<P: Port>(&mut self, port: &mut P, request: &ApCreation) -> Result<(), SnpError> {
        let fields = Request::new(NaeCode::AP_CREATION, request.exit_info_1().bits(), request.exit_info_2());
        self.send(port, &Request { rax: request.rax(), ..fields })?.check()
    }

    /// Has the host carry a guest message to the firmware. Both pages are shared, and they differ.
    ///
    /// The two status numbers are the host's word. A failure of any kind leaves open whether the firmware saw the message.
    ///
    /// # Errors
    /// The answer errors, as for [`ap_creation`](Self::ap_creation).
    pub fn guest_request<P: Port>(
        &mut self,
        port: &mut P,
        request: PhysFrame,
        response: PhysFrame,
    ) -> Result<GuestRequestStatus, SnpError> {
        let addresses = [request, response].map(|frame| frame.start_address().as_u64());
        let answer = self.send(port, &Request::new(NaeCode::GUEST_REQUEST, addresses[0], addresses[1]))?;
        answer.check()?;
        Ok(GuestRequestStatus::from_bits_retain(answer.detail()?))
    }

    /// Sends a page state list and gives the answer with a copy of the list's head.
    pub(super) fn send_list<P: Port>(&mut self, port: &mut P, list: &[u8]) -> Result<(Answer, PscHeader), SnpError> {
        let answer = self.send(port, &Request::new(NaeCode::PAGE_STATE_CHANGE, 0, 0).with_buffer(list))?;
        let at = self.place(BUFFER);
        let header = self.memory.read_value(at).map_err(SnpError::memory(at))?;
        Ok((answer, header))
    }

    fn send<P: Port>(&mut self, port: &mut P, request: &Request<'_>) -> Result<Answer, SnpError> {
        self.fill(request)?;
        port.write_ghcb_msr(ghcb_gpa(self.at));
        port.vmgexit();
        self.answer()
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
        if !request.buffer.is_empty() {
            sw_scratch = self.place(BUFFER).as_u64();
            valid_bitmap.set(ValidBit::SW_SCRATCH);
            self.put(BUFFER, request.buffer)?;
        }
        if let Some(rax) = request.rax {
            valid_bitmap.set(ValidBit::RAX);
            self.put(offset_of!(Ghcb, rax), rax.as_bytes())?;
        }
        let head = Head {
            sw_exit_code: request.code,
            sw_exit_info_1: request.info_1,
            sw_exit_info_2: request.info_2,
            sw_scratch,
            between: [0; 0x40],
            valid_bitmap,
        };
        self.put(HEAD, head.as_bytes())?;
        self.put(offset_of!(Ghcb, version), Ghcb::VERSION_2.as_bytes())
    }

    /// Copies the answer out, once.
    fn answer(&self) -> Result<Answer, SnpError> {
        let at = self.place(answer::OFFSET);
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
    fn page_state<P: Port>(&mut self, port: &mut P, range: FrameRange, to: HostState) -> Result<(), Stopped<SnpError>> {
        page_list::change(self, port, range, to)
    }

    fn run_vmpl<P: Port>(&mut self, port: &mut P, vmpl: Vmpl) -> Result<(), SnpError> {
        self.send(port, &Request::new(NaeCode::RUN_VMPL, u64::from(vmpl.number()), 0))?.check()
    }

    fn call_vmpl0<P: Port, F: FnOnce() -> Result<(), SnpError>>(
        &mut self,
        port: &mut P,
        frame: &mut CallFrame,
        mark: F,
    ) -> Result<(), SnpError> {
        self.fill(&Request::new(NaeCode::RUN_VMPL, u64::from(Vmpl::VMPL0.number()), 0))?;
        port.write_ghcb_msr(ghcb_gpa(self.at));
        mark()?;
        port.vmgexit_call(frame);
        self.answer()?.check()
    }

    fn terminate<P: Port>(&mut self, port: &mut P, reason: TerminateReason) -> ! {
        // Whatever comes of it, the register says the same for ever.
        let _ = self.send(port, &Request::new(NaeCode::TERMINATE, u64::from(reason.bits()), 0));
        MsrProtocol.terminate(port, reason)
    }
}

impl<M: GuestMemory> fmt::Debug for GhcbPage<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GhcbPage").field("at", &self.at).finish_non_exhaustive()
    }
}
