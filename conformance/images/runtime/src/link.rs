//! A vCPU's way to the devices of the host: the console, the port of the result, and its MSRs.

use backend_snp::SnpError;
use backend_snp::host::{GhcbPage, PortAccess, PortSize, Segment};
use backend_snp::instr::{NativePort, NativeWindow};
use image_layout::{CONSOLE_PORT, MARK_PORT, NO_PORT, RESULT_PORT};
use x86_64::structures::paging::PhysFrame;

use crate::vcpu::PerVcpu;

/// A GHCB page and the port to go to the host with it.
#[derive(Debug)]
pub struct Link {
    port: NativePort,
    page: GhcbPage<NativeWindow>,
}

/// The link of each vCPU.
pub static LINKS: PerVcpu<Link> = PerVcpu::new();

impl Link {
    /// Opens the link over this vCPU's GHCB page, which is shared already. It may be the one that the backend uses: neither
    /// begins a request before the other one's is over.
    ///
    /// # Errors
    /// As [`GhcbPage::register`].
    pub fn open(mut port: NativePort, shared: NativeWindow, at: PhysFrame) -> Result<Self, SnpError> {
        let page = GhcbPage::register(&mut port, shared, at)?;
        Ok(Self { port, page })
    }

    /// Writes bytes to the console.
    ///
    /// # Errors
    /// As [`GhcbPage::port_out_string`].
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), SnpError> {
        let console = PortAccess::new(CONSOLE_PORT, PortSize::Byte);
        self.page.port_out_string(&mut self.port, console, Segment::Ds, bytes)
    }

    /// Ends the guest with a result, 0 for success.
    ///
    /// # Errors
    /// As [`GhcbPage::port_out`]. After a success the host did not end the guest.
    pub fn end(&mut self, result: u8) -> Result<(), SnpError> {
        self.page.port_out(&mut self.port, PortAccess::new(RESULT_PORT, PortSize::Byte), result.into())
    }

    /// Has the counts of instructions written down, with a number.
    ///
    /// # Errors
    /// As [`GhcbPage::port_out`].
    pub fn mark(&mut self, number: u8) -> Result<(), SnpError> {
        self.page.port_out(&mut self.port, PortAccess::new(MARK_PORT, PortSize::Byte), number.into())
    }

    /// Asks for a byte from a port that nobody has.
    ///
    /// # Errors
    /// As [`GhcbPage::port_in`].
    pub fn ask(&mut self) -> Result<u32, SnpError> {
        self.page.port_in(&mut self.port, PortAccess::new(NO_PORT, PortSize::Byte))
    }

    /// Reads an MSR of the host.
    ///
    /// # Errors
    /// As [`GhcbPage::read_msr`].
    pub fn read_msr(&mut self, number: u32) -> Result<u64, SnpError> {
        self.page.read_msr(&mut self.port, number)
    }

    /// Writes an MSR of the host.
    ///
    /// # Errors
    /// As [`GhcbPage::write_msr`].
    pub fn write_msr(&mut self, number: u32, value: u64) -> Result<(), SnpError> {
        self.page.write_msr(&mut self.port, number, value)
    }
}
