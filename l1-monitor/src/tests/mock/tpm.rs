//! A vTPM that says what it was asked, backwards, or does what a test wants.

use std::sync::{Arc, Barrier, Mutex};
use std::vec::Vec;

use crate::{VtpmDevice, VtpmError};

/// A device; the test keeps a clone of it.
#[derive(Clone, Default)]
pub(crate) struct MockTpm {
    state: Arc<Mutex<State>>,
    key: Option<Vec<u8>>,
}

#[derive(Default)]
struct State {
    commands: Vec<Vec<u8>>,
    next: Option<Result<usize, VtpmError>>,
    meets: Option<Arc<Barrier>>,
}

impl MockTpm {
    /// A device with this key.
    pub(crate) fn with_key(key: &[u8]) -> Self {
        Self { key: Some(key.to_vec()), ..Self::default() }
    }

    /// What it was asked.
    pub(crate) fn commands(&self) -> Vec<Vec<u8>> {
        self.state.lock().unwrap().commands.clone()
    }

    /// What it gives as the length of its next response, or fails with.
    pub(crate) fn gives(&self, outcome: Result<usize, VtpmError>) {
        self.state.lock().unwrap().next = Some(outcome);
    }

    /// Its next command meets the test twice at a barrier: when it begins and before it ends.
    pub(crate) fn meets(&self, barrier: &Arc<Barrier>) {
        self.state.lock().unwrap().meets = Some(barrier.clone());
    }
}

impl VtpmDevice for MockTpm {
    fn execute(&mut self, command: &[u8], response: &mut [u8]) -> Result<usize, VtpmError> {
        let meets = self.state.lock().unwrap().meets.take();
        if let Some(barrier) = meets {
            barrier.wait();
            barrier.wait();
        }
        let mut state = self.state.lock().unwrap();
        state.commands.push(command.to_vec());
        assert_eq!(response, [0; 4092], "the place of the response holds an old one");
        for (to, from) in response.iter_mut().zip(command.iter().rev()) {
            *to = *from;
        }
        state.next.take().unwrap_or(Ok(command.len()))
    }

    fn endorsement_key(&self) -> Option<&[u8]> {
        self.key.as_deref()
    }
}
