mod events;
mod forms;
mod ghcb_page;
mod limits;
mod msr_protocol;
mod page_list;

use crate::host::GhcbPage;
use crate::testing::{Exit, Memory, MockPort, frame};

/// Where the GHCB page of these tests is.
pub(super) const GHCB: u64 = 0x4000;

/// A registered page over a host that serves all requests but the registration.
pub(super) fn page(memory: &Memory, mut host: impl FnMut(Exit<'_>) + 'static) -> (GhcbPage<Memory>, MockPort) {
    let mut port = MockPort::new(move |exit| match *exit.msr {
        msr if msr == GHCB | 0x012 => *exit.msr = GHCB | 0x013,
        _ => host(exit),
    });
    let page = GhcbPage::register(&mut port, memory.clone(), frame(GHCB)).unwrap();
    assert_eq!(port.msr, GHCB);
    port.exits.clear();
    (page, port)
}
