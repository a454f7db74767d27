//! Where a case makes its worlds.

use std::cell::RefCell;
use std::rc::Rc;

use crate::platform::{Liar, Platform};
use crate::world::{Options, Record, World};

/// What a case says: nothing, or what is wrong.
pub type Check = Result<(), Stop>;

/// Why a case ended early.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Something is wrong.
    Wrong(String),
    /// The backend says that it cannot do this; its own words.
    Unsupported(String),
    /// This vendor's machine has no counterpart; the table of exceptions says why.
    NotApplicable,
}

impl From<String> for Stop {
    fn from(text: String) -> Self {
        Self::Wrong(text)
    }
}

impl From<&str> for Stop {
    fn from(text: &str) -> Self {
        Self::Wrong(text.to_owned())
    }
}

/// Makes the worlds of one case and keeps what happened in them.
pub struct Bench<P: Platform> {
    base: Options<P>,
    record: Rc<RefCell<Record>>,
}

impl<P: Platform> Bench<P> {
    /// A bench whose worlds have these options unless a case changes them.
    pub fn new(base: Options<P>) -> Self {
        Self { base, record: Rc::default() }
    }

    /// The options a case starts from.
    pub fn options(&self) -> Options<P> {
        self.base.clone()
    }

    /// A world with a host that breaks one rule.
    ///
    /// # Errors
    /// [`Stop::NotApplicable`] where this vendor's host cannot.
    pub fn under(&self, liar: Liar) -> Result<Options<P>, Stop> {
        let host = P::liar(liar).ok_or(Stop::NotApplicable)?;
        Ok(Options { host, ..self.options() })
    }

    /// A world.
    pub fn world(&mut self, options: Options<P>) -> World<P> {
        World::new(options, Rc::clone(&self.record))
    }

    /// What happened in all worlds so far.
    pub fn record(&self) -> Record {
        self.record.borrow().clone()
    }
}

/// Fails the case with `text` unless `holds`.
///
/// # Errors
/// [`Stop::Wrong`].
pub fn ensure(holds: bool, text: impl FnOnce() -> String) -> Check {
    if holds { Ok(()) } else { Err(Stop::Wrong(text())) }
}

/// Fails the case unless the two are equal.
///
/// # Errors
/// [`Stop::Wrong`] with both.
pub fn same<T: PartialEq + std::fmt::Debug>(what: &str, got: T, want: T) -> Check {
    ensure(got == want, || format!("{what}: got {got:x?}, want {want:x?}"))
}
