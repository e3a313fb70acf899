//! Work that was sent to a worker which has not begun it, so that it can be taken back (recall, work stealing).

/// The number of a frame among those that are sent to one worker. The parent recognizes a frame by it that it takes back
/// unread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FrameNumber(pub(crate) u32);

/// The work that a worker has not begun, as its link reports it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum UnbegunWork {
    /// These whole frames. Of any other frame, an item may have begun if all items before it in the frame are answered.
    Frames(Vec<FrameNumber>),
    /// Exactly this many of the items that were sent last.
    Last(u64),
}

impl UnbegunWork {
    /// As `self`; but if none of the `items` that the worker held has begun, the first of which is in the frame `front`,
    /// as if one had.
    pub(crate) fn with_first_begun(self, items: u64, front: Option<FrameNumber>) -> Self {
        match self {
            UnbegunWork::Last(unbegun) if unbegun == items => UnbegunWork::Last(unbegun.saturating_sub(1)),
            UnbegunWork::Last(unbegun) => UnbegunWork::Last(unbegun),
            UnbegunWork::Frames(mut numbers) => {
                numbers.retain(|&number| Some(number) != front);
                UnbegunWork::Frames(numbers)
            }
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        match self {
            UnbegunWork::Frames(numbers) => numbers.is_empty(),
            UnbegunWork::Last(items) => *items == 0,
        }
    }
}

/// The unit in which a link takes work back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Grain {
    /// Whole frames. So frames are small.
    Frame,
    /// Every item that has not begun. So frames may be as large as is efficient.
    Item,
}
