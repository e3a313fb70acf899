//! One call, whatever the shape of its function and its items: how each method of the API runs.

use std::sync::Arc;

use futures_core::Stream;

use crate::api::chunks::Chunks;
use crate::api::imap::Imap;
use crate::api::imap::ImapUnordered;
use crate::api::map;
use crate::api::map::Stop;
use crate::api::prepare::Context;
use crate::api::prepare::Options;
use crate::api::prepare::Prepared;
use crate::api::results::AsyncResult;
use crate::api::results::Reader;
use crate::api::stream::PoolStream;
use crate::driver::Backend;
use crate::error::Label;
use crate::error::TaskError;
use crate::work::batch::ChunkSize;
use crate::work::function::LocalFunction;
use crate::work::task::Data;

/// A call without its items: the same for calls with and without a context.
pub(super) struct Request<'c> {
    pub(super) backend: &'c Arc<dyn Backend>,
    pub(super) options: Options<'c>,
    pub(super) function: LocalFunction,
    pub(super) context: Option<Context<'c>>,
}

impl Request<'_> {
    fn prepare(&self, default_chunk: ChunkSize) -> Result<Prepared, TaskError> {
        Prepared::new(self.backend, self.options, default_chunk, self.function, self.context.as_ref())
    }

    pub(super) fn apply<T: Data, V: Data>(&self, args: &T) -> Result<V, TaskError> {
        let prepared = self.prepare(ChunkSize::Fixed(1))?;
        let reader = Reader::of_one(prepared.label.clone());
        let log = prepared.call(args)?;
        reader.read(&log)
    }

    pub(super) fn apply_async<T: Data, V: Data>(&self, args: T) -> AsyncResult<V> {
        self.submit_all(std::iter::once(args), ChunkSize::Fixed(1), Reader::of_one)
    }

    pub(super) fn map_async<A: Data, V: Data>(&self, items: impl Iterator<Item = A>) -> AsyncResult<Vec<V>> {
        self.submit_all(items, ChunkSize::Adaptive, Reader::of_all)
    }

    fn submit_all<A: Data, R>(
        &self,
        items: impl Iterator<Item = A>,
        default_chunk: ChunkSize,
        reader: fn(Label) -> Reader<R>,
    ) -> AsyncResult<R> {
        let backend = Arc::clone(self.backend);
        let prepared = self.prepare(default_chunk);
        // An error that refuses the whole call has its label already.
        let reader = reader(prepared.as_ref().map(|prepared| prepared.label.clone()).unwrap_or_default());
        match prepared.and_then(|prepared| map::submit_all(prepared, items)) {
            Ok(job) => AsyncResult::new(backend, job, reader),
            Err(error) => AsyncResult::refused(backend, error, reader),
        }
    }

    pub(super) fn map<A: Data, V: Data>(&self, items: impl Iterator<Item = A>) -> Result<Vec<V>, TaskError> {
        let stop = if self.options.fail_fast { Stop::AtError } else { Stop::Never };
        map::values(self.prepare(ChunkSize::Adaptive)?, items, stop)
    }

    pub(super) fn map_results<A: Data, V: Data>(
        &self,
        items: impl Iterator<Item = A>,
    ) -> Result<Vec<Result<V, TaskError>>, TaskError> {
        map::results(self.prepare(ChunkSize::Adaptive)?, items)
    }

    pub(super) fn map_chunks<A: Data, V: Data>(self, items: impl Iterator<Item = A>) -> Result<Vec<V>, TaskError> {
        let (request, chunks) = self.in_chunks(items);
        request.map(chunks)
    }

    /// The results of the chunks, combined from the first to the last; `None` if there are no items. The first error in
    /// the order of the items ends it.
    pub(super) fn reduce<A: Data, V: Data>(
        self,
        items: impl Iterator<Item = A>,
        combine: impl FnMut(V, V) -> V,
    ) -> Result<Option<V>, TaskError> {
        let (request, chunks) = self.in_chunks(items);
        let mut error = None;
        let results = request.imap(chunks).map_while(|result| result.map_err(|failed| error = Some(failed)).ok());
        let reduced = results.reduce(combine);
        error.map_or(Ok(reduced), Err)
    }

    /// The same call with chunks for items. The option that sets their size is spent with it.
    fn in_chunks<I: Iterator>(mut self, items: I) -> (Self, Chunks<I>) {
        let size = match self.options.chunk_size {
            // Refused later, with every other option that makes no sense.
            Some(0) => 1,
            Some(size) => {
                self.options.chunk_size = None;
                size
            }
            None => Chunks::size_for(&items),
        };
        (self, Chunks::new(items, size))
    }

    pub(super) fn imap<I: Iterator<Item: Data>, V: Data>(&self, items: I) -> Imap<I, V> {
        Imap::new(Arc::clone(self.backend), self.prepare(ChunkSize::Fixed(1)), items)
    }

    pub(super) fn stream<S: Stream<Item: Data>, V: Data>(&self, items: S) -> PoolStream<S, V> {
        PoolStream::ordered(Arc::clone(self.backend), self.prepare(ChunkSize::Fixed(1)), items)
    }

    pub(super) fn stream_unordered<S: Stream<Item: Data>, V: Data>(&self, items: S) -> PoolStream<S, V> {
        PoolStream::unordered(Arc::clone(self.backend), self.prepare(ChunkSize::Fixed(1)), items)
    }

    pub(super) fn imap_unordered<I: Iterator<Item: Data>, V: Data>(&self, items: I) -> ImapUnordered<I, V> {
        ImapUnordered::new(Arc::clone(self.backend), self.prepare(ChunkSize::Fixed(1)), items)
    }
}
