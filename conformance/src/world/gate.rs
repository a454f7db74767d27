//! Points at which a program waits for the test.

use std::cell::Cell;
use std::rc::Rc;

/// A point in a program: it arrives and waits there until the test opens it. Clones are the same gate.
#[derive(Clone, Debug, Default)]
pub struct Gate(Rc<State>);

#[derive(Debug, Default)]
struct State {
    arrived: Cell<bool>,
    open: Cell<bool>,
}

impl Gate {
    /// A closed gate at which nobody has arrived.
    pub fn new() -> Self {
        Self::default()
    }

    /// For the program: arrives, and calls `pause` until the gate is open.
    pub fn wait(&self, mut pause: impl FnMut()) {
        self.0.arrived.set(true);
        while !self.0.open.get() {
            pause();
        }
    }

    /// For the program: arrives without waiting.
    pub fn pass(&self) {
        self.0.arrived.set(true);
    }

    /// For the test: true when the program is there.
    pub fn is_reached(&self) -> bool {
        self.0.arrived.get()
    }

    /// For the test: lets the program go on.
    pub fn open(&self) {
        self.0.open.set(true);
    }
}
