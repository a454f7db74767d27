//! The end of the guest, from wherever something went wrong: by MSR protocol, which needs no memory.

use backend_snp::host::{HostChannel, MsrProtocol, reason};
use backend_snp::instr::{DirectMap, NativePort};
use x86_64::VirtAddr;

/// Asks the host to end the guest, with a code in the reason set of this project, and does nothing else any more.
pub fn terminate(code: u8) -> ! {
    let Ok(nothing) = DirectMap::try_new(VirtAddr::zero(), 0) else {
        // Zero is aligned, and nothing fits everywhere.
        loop {
            core::hint::spin_loop();
        }
    };
    // SAFETY: CPL 0, as in all of an image. Over a map of nothing the port changes no page; the requests of the MSR protocol are
    // meant for the host.
    let mut port = unsafe { NativePort::new(nothing) };
    MsrProtocol.terminate(&mut port, reason(code))
}
