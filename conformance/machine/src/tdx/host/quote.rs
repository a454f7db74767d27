//! GetQuote: the quoting enclave of the host, and what a liar makes of it.

use alloc::vec;
use alloc::vec::Vec;

use super::Machine;
use super::policy::Policy;
use crate::tdx::status::vmcall;
use crate::{PAGE_SIZE, Vcpu};

/// What a quote of this machine begins with; the report follows.
pub const QUOTE_TAG: [u8; 8] = *b"TESTQUOT";

/// Bytes of the header of the buffer: version, status, input length, output length.
const HEADER: usize = 24;
const REPORT: usize = 1024;
const VERSION: u64 = 1;
const STATUS_ERROR: u64 = 0x8000_0000_0000_0000;
const STATUS_IN_FLIGHT: u64 = u64::MAX;

impl Machine {
    /// R10 for R12 (buffer with the shared bit) and R13 (bytes).
    pub(super) fn get_quote(&mut self, vcpu: Vcpu, buffer: u64, len: u64) -> u64 {
        let bit = self.shared_bit();
        let gpa = buffer & !bit;
        let aligned = (gpa | len).is_multiple_of(PAGE_SIZE) && len > 0;
        let end = gpa.checked_add(len).filter(|end| *end <= bit);
        let first = gpa / PAGE_SIZE;
        let is_shared = |end: u64| self.host.shared.covers(first, end / PAGE_SIZE);
        if buffer & bit == 0 || !aligned || !end.is_some_and(is_shared) {
            return vmcall::INVALID_OPERAND;
        }
        let mut header = [0; HEADER];
        self.host_read(gpa, &mut header);
        let input = u32::from_le_bytes([header[16], header[17], header[18], header[19]]) as usize;
        let fits = len >= (HEADER + QUOTE_TAG.len() + REPORT) as u64;
        let known = header[..8] == VERSION.to_le_bytes() && input == REPORT && fits;
        let (status, quote) = if known { self.make_quote(vcpu, gpa) } else { (STATUS_ERROR, Vec::new()) };
        let mut claimed = quote.len() as u32;
        if self.host.policy(vcpu) == Policy::QuoteOversize {
            claimed = u32::MAX;
        }
        self.host_write(gpa + HEADER as u64, &quote);
        self.host_write(gpa + 8, &status.to_le_bytes());
        self.host_write(gpa + 20, &claimed.to_le_bytes());
        0
    }

    fn make_quote(&mut self, vcpu: Vcpu, gpa: u64) -> (u64, Vec<u8>) {
        let mut quote = vec![0; QUOTE_TAG.len() + REPORT];
        self.host_read(gpa + HEADER as u64, &mut quote[QUOTE_TAG.len()..]);
        quote[..QUOTE_TAG.len()].copy_from_slice(&QUOTE_TAG);
        let before = self.host.quote.replace(quote.clone());
        match self.host.policy(vcpu) {
            Policy::QuoteError(status) => (status, Vec::new()),
            Policy::QuoteInFlight => (STATUS_IN_FLIGHT, Vec::new()),
            Policy::QuoteFlip(offset) => {
                quote.iter_mut().skip(usize::from(offset)).take(1).for_each(|byte| *byte ^= 1);
                (0, quote)
            }
            Policy::QuoteReplay => (0, before.unwrap_or(quote)),
            _ => (0, quote),
        }
    }
}
