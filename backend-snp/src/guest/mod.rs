//! The guest side: what the shim needs of a vCPU at VMPL1 to 3.
//!
//! [`Placement::find`] says where this guest runs, from L1's copy of the secrets page and from probes that the host cannot
//! influence (rule H3). [`GuestSide`] is one vCPU: it calls L1, agrees page states with the host, fills VMSAs for further
//! vCPUs and gets reports under the key of its own level.
//!
//! A guest starts with the MSR protocol. When it has shared a page with the host it may go over to the GHCB page
//! ([`GuestSide::use_ghcb`]), which batches page states and which AP creation and reports need.

mod placement;
mod port;
#[cfg(test)]
mod tests;

use coco_part_api::{GuestLevel, GuestMemory, VcpuId};
use x86_64::structures::paging::PhysFrame;

use crate::abi::sev_features::SevFeatures;
use crate::abi::terminate::TerminateReason;
use crate::abi::vmpl::Vmpl;
use crate::error::SnpError;
use crate::host::{GhcbPage, Host, HostChannel, MsrProtocol};
use crate::instr::Port;
use crate::message::{Channel, MessagePages};

pub use placement::Placement;

/// One vCPU of a guest at VMPL1 to 3.
///
/// `private` and `shared` are two views of the same memory: one for what is the guest's, one for what it shares with the
/// host.
pub struct GuestSide<P: Port, M: GuestMemory> {
    port: P,
    private: M,
    shared: M,
    host: Host<M>,
    level: GuestLevel,
    vmpl: Vmpl,
    features: SevFeatures,
    vcpu: VcpuId,
    call_area: PhysFrame,
    channel: Option<Channel<M>>,
}

impl<P: Port, M: GuestMemory> GuestSide<P, M> {
    /// The side of one vCPU. The first one's call area is [`Placement::call_area`]; others have the one that they were
    /// created with.
    pub fn new(port: P, private: M, shared: M, placement: &Placement, vcpu: VcpuId, call_area: PhysFrame) -> Self {
        Self {
            port,
            private,
            shared,
            host: Host::Msr(MsrProtocol),
            level: placement.level(),
            vmpl: placement.vmpl(),
            features: placement.features(),
            vcpu,
            call_area,
            channel: None,
        }
    }

    /// Registers a page that is shared with the host already as this vCPU's GHCB, and uses it from now on.
    ///
    /// # Errors
    /// As [`GhcbPage::register`]; the way to the host is then as it was.
    pub fn use_ghcb(&mut self, at: PhysFrame) -> Result<(), SnpError> {
        self.host = Host::Page(GhcbPage::register(&mut self.port, self.shared.clone(), at)?);
        Ok(())
    }

    /// Takes the key of the own level out of the secrets page and opens the channel to the firmware with it, on two pages
    /// that are shared with the host already.
    ///
    /// The key in the page is zero afterwards: it has one user, and only this vCPU attests without L1. The channel goes on
    /// behind the message number that the page says was used last.
    ///
    /// # Errors
    /// [`SnpError::ChannelClosed`] when the page has no key of this level (any more), [`SnpError::Range`] for two equal
    /// pages, [`SnpError::Memory`].
    pub fn open_channel(&mut self, secrets: PhysFrame, pages: MessagePages) -> Result<(), SnpError> {
        let channel = Channel::open(&self.private, secrets, self.vmpl, self.shared.clone(), pages)?;
        self.channel = Some(channel);
        Ok(())
    }

    /// The way to the host, together with the port it needs. To end the VM there is [`terminate`](Self::terminate).
    pub fn host(&mut self) -> (&mut Host<M>, &mut P) {
        (&mut self.host, &mut self.port)
    }

    /// Speaks on the channel: for an extended report, a derived key, the values of the secure TSC.
    ///
    /// # Errors
    /// [`SnpError::ChannelClosed`] when this vCPU has no channel; those of `speak`.
    pub fn with_channel<T>(
        &mut self,
        speak: impl FnOnce(&mut Channel<M>, &mut P, &mut Host<M>) -> Result<T, SnpError>,
    ) -> Result<T, SnpError> {
        let channel = self.channel.as_mut().ok_or(SnpError::ChannelClosed)?;
        speak(channel, &mut self.port, &mut self.host)
    }

    /// Ends the whole VM. Does not come back, whatever the host does.
    pub fn terminate(&mut self, reason: TerminateReason) -> ! {
        if let Some(channel) = &mut self.channel {
            channel.close();
        }
        self.host.terminate(&mut self.port, reason)
    }
}
