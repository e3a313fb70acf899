//! What a worker has been sent and has not begun, and what can be taken back from it.

/// Numbers the frames that are sent to one worker, so that the parent recognizes a frame that it takes back unread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FrameNumber(pub(crate) u32);

/// What a worker has not begun, as its link reports it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Unbegun {
    /// These frames, whole. In any other frame, an item may have begun if no item of the frame is before it.
    Frames(Vec<FrameNumber>),
    /// Exactly this many of the items that were sent last.
    Last(u64),
}

impl Unbegun {
    /// As if one more item had begun, if none of the `items` that the worker held has.
    pub(crate) fn with_one_begun(self, items: u64) -> Self {
        match self {
            Unbegun::Last(unbegun) if unbegun == items => Unbegun::Last(unbegun.saturating_sub(1)),
            unbegun => unbegun,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        match self {
            Unbegun::Frames(numbers) => numbers.is_empty(),
            Unbegun::Last(items) => *items == 0,
        }
    }
}

/// The unit in which a link takes work back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Grain {
    /// Whole frames, so frames are cut small.
    Frame,
    /// Any item that has not begun, so frames are cut for speed.
    Item,
}
