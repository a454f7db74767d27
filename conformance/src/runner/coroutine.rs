//! A program of one level as a coroutine: it runs until it hands an operation over and is suspended there.

use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

use corosensei::stack::DefaultStack;
use corosensei::{Coroutine, CoroutineResult, Yielder};

use super::model::Model;

thread_local! {
    /// True while this thread runs a program.
    static IN_PROGRAM: Cell<bool> = const { Cell::new(false) };
}

/// True while a program runs on this thread: a panic is then caught and told by [`Progress::Panicked`].
pub fn is_in_program() -> bool {
    IN_PROGRAM.get()
}

/// Bytes of a program's stack. Only touched pages cost memory.
const STACK: usize = 1 << 20;

/// What a program gets back for an operation.
pub type Reply<M> = Result<<M as Model>::Answer, <M as Model>::Fault>;

/// The processor as a program has it: a handle it may copy into ports and memory windows.
pub struct Cpu<'y, M: Model> {
    yielder: &'y Yielder<Reply<M>, M::Op>,
    start: Start,
    steps: &'y Cell<u64>,
}

impl<M: Model> Clone for Cpu<'_, M> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<M: Model> Copy for Cpu<'_, M> {}

/// Where and as what a program began.
#[derive(Clone, Copy, Debug)]
pub struct Start {
    /// vCPU.
    pub vcpu: u8,
    /// Vendor number of the level, 0 for L1.
    pub level: u8,
}

impl<M: Model> Cpu<'_, M> {
    /// Executes one operation: the program is suspended here until the machine has answered.
    ///
    /// # Errors
    /// The exception that the operation raised.
    pub fn execute(&self, op: M::Op) -> Reply<M> {
        self.steps.set(self.steps.get() + 1);
        self.yielder.suspend(op)
    }

    /// Operations this program has executed.
    pub fn steps(&self) -> u64 {
        self.steps.get()
    }

    /// Where and as what the program began.
    pub fn start(&self) -> Start {
        self.start
    }
}

/// The body of a program. Shared state sits behind `Rc` in what it captures.
pub type Body<M> = Box<dyn FnOnce(Cpu<'_, M>)>;

/// What resuming a program led to.
pub enum Progress<M: Model> {
    /// It wants this done.
    Wants(M::Op),
    /// It is over.
    Over,
    /// It panicked; the message.
    Panicked(String),
}

/// A suspended program.
pub struct Program<M: Model> {
    coroutine: Coroutine<Reply<M>, M::Op, (), DefaultStack>,
    /// The operation it waits for, to run it again.
    pub(super) waits_for: Option<M::Op>,
}

impl<M: Model> Program<M> {
    /// A program that begins with its first resumption; the reply given then is dropped.
    pub fn new(start: Start, body: Body<M>) -> Self {
        let stack = DefaultStack::new(STACK).expect("memory for a program's stack");
        let coroutine = Coroutine::with_stack(stack, move |yielder: &Yielder<Reply<M>, M::Op>, _| {
            let steps = Cell::new(0);
            body(Cpu { yielder, start, steps: &steps });
        });
        Self { coroutine, waits_for: None }
    }

    /// Goes on with the reply to the operation it waits for.
    pub fn resume(&mut self, reply: Reply<M>) -> Progress<M> {
        IN_PROGRAM.set(true);
        let resumed = catch_unwind(AssertUnwindSafe(|| self.coroutine.resume(reply)));
        IN_PROGRAM.set(false);
        match resumed {
            Ok(CoroutineResult::Yield(op)) => {
                self.waits_for = Some(op.clone());
                Progress::Wants(op)
            }
            Ok(CoroutineResult::Return(())) => {
                self.waits_for = None;
                Progress::Over
            }
            Err(payload) => Progress::Panicked(message(payload.as_ref())),
        }
    }
}

fn message(payload: &(dyn Any + Send)) -> String {
    payload
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "panic without a message".to_owned())
}
