//! The start of a call: options checked, the function located, the context encoded, and the job opened.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use crate::api::encoder::Encoder;
use crate::api::encoder::encode_one;
use crate::driver::Backend;
use crate::driver::IfClosed;
use crate::driver::Opening;
use crate::error::Label;
use crate::error::PoolError;
use crate::error::Side;
use crate::error::TaskError;
use crate::values::output::Output;
use crate::work::batch::ChunkSize;
use crate::work::batch::JobId;
use crate::work::batch::JobPolicy;
use crate::work::batch::Target;
use crate::work::function::FunctionId;
use crate::work::function::LocalFunction;
use crate::work::jobs::JobContext;
use crate::work::jobs::Log;

/// Encodes the context of a call.
pub(super) type Context<'c> = Box<dyn Fn(&mut Output) -> Result<(), String> + 'c>;

/// The options of one call.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Options<'p> {
    /// What the call is called in its errors.
    pub(crate) label: Option<&'p str>,
    /// `None`: the default of the call.
    pub(crate) chunk_size: Option<usize>,
    pub(crate) fail_fast: bool,
    /// How long each item may run.
    pub(crate) timeout: Option<Duration>,
    /// How often an item that was lost with its worker is run again.
    pub(crate) retries: u32,
    /// How many items may be drawn whose results were not consumed; `None`: measured.
    pub(crate) window: Option<usize>,
}

impl Options<'_> {
    /// Checks what makes sense in no pool.
    ///
    /// # Errors
    ///
    /// A size or a limit is zero.
    pub(crate) fn check(&self) -> Result<(), PoolError> {
        if self.chunk_size == Some(0) {
            return Err(PoolError::ZeroChunkSize);
        }
        if self.timeout == Some(Duration::ZERO) {
            return Err(PoolError::ZeroLimit { option: "timeout" });
        }
        if self.window == Some(0) {
            return Err(PoolError::ZeroLimit { option: "window" });
        }
        Ok(())
    }
}

/// A call whose job can be opened.
pub(super) struct Prepared {
    pub(super) backend: Arc<dyn Backend>,
    pub(super) label: Label,
    pub(super) window: Option<u64>,
    policy: JobPolicy,
    fail_fast: bool,
    target: Target,
    context: Option<JobContext>,
}

impl Prepared {
    /// Checks the options, locates the function and encodes the context.
    ///
    /// # Errors
    ///
    /// What makes this call impossible, whatever its items are.
    pub(super) fn new(
        backend: &Arc<dyn Backend>,
        options: Options<'_>,
        default_chunk: ChunkSize,
        function: LocalFunction,
        context: Option<&Context<'_>>,
    ) -> Result<Self, TaskError> {
        // Before anything is encoded: in a forked copy that may take locks that are held for ever.
        if !backend.is_ours() {
            return Err(PoolError::ForkedCopy.into());
        }
        options.check()?;
        let fixed = |items| ChunkSize::Fixed(u32::try_from(items).unwrap_or(u32::MAX));
        let chunk = options.chunk_size.map_or(default_chunk, fixed);
        let label = Label::new(options.label);
        let not_found = |message| TaskError::FunctionNotFound { message, origin: label.call() };
        let function = function.id().map_err(not_found)?;
        let context = match context {
            Some(context) => Some(encode_context(backend.as_ref(), function, context, &label)?),
            None => None,
        };
        let context_id = context.as_ref().map_or(0, |context| context.id);
        Ok(Self {
            backend: Arc::clone(backend),
            label,
            window: options.window.map(|items| items as u64),
            policy: JobPolicy { chunk, retries: options.retries, is_timed: options.timeout.is_some() },
            fail_fast: options.fail_fast,
            target: Target { function, context: context_id, timeout: options.timeout },
            context,
        })
    }

    /// Opens the job, and makes the encoder of its items.
    ///
    /// # Errors
    ///
    /// [`TaskError::Refused`]: the pool takes no more jobs.
    pub(super) fn open(self, if_closed: IfClosed) -> Result<(JobId, Encoder), TaskError> {
        let Self { backend, label, window: _, policy, fail_fast, target, context } = self;
        let job = backend.open(Opening { policy, fail_fast, context, if_closed, label })?;
        Ok((job, Encoder::new(job, target, backend.output())))
    }

    /// Calls the function with one item, and waits for the outcome.
    ///
    /// # Errors
    ///
    /// [`TaskError::Refused`]: the pool takes no more jobs.
    pub(super) fn call<A: Serialize + 'static>(self, item: &A) -> Result<Arc<Log>, TaskError> {
        let Self { backend, label, window: _, policy, fail_fast, target, context } = self;
        let item = encode_one(item, || backend.output());
        let opening = Opening { policy, fail_fast, context, if_closed: IfClosed::Refuse, label };
        Ok(backend.call(opening, target, item)?)
    }
}

fn encode_context(
    backend: &dyn Backend,
    function: FunctionId,
    context: &Context<'_>,
    label: &Label,
) -> Result<JobContext, TaskError> {
    let failed = |message| TaskError::Encode { side: Side::Context, message, origin: label.call() };
    let mut output = backend.output_with_own_files();
    context(&mut output).map_err(failed)?;
    let value = output.take_parcel().map_err(failed)?;
    let id = backend.new_context_id()?;
    Ok(JobContext { id, function, value })
}
