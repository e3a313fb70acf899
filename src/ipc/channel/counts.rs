//! How full a channel is, as both of its ends tell.

/// Adds the methods to an end of a channel.
macro_rules! counts {
    ($end:ident) => {
        impl<T> $end<T> {
            /// How many messages the channel holds. Other processes may change that at any time.
            ///
            /// # Examples
            ///
            /// ```
            /// let (tx, rx) = procpool::channel::bounded(4)?;
            /// tx.send(1u8)?;
            /// assert_eq!((tx.len(), tx.capacity(), tx.is_empty(), tx.is_full()), (1, 4, false, false));
            /// assert_eq!((rx.len(), rx.capacity(), rx.is_empty(), rx.is_full()), (1, 4, false, false));
            /// # Ok::<(), Box<dyn std::error::Error>>(())
            /// ```
            #[must_use]
            pub fn len(&self) -> usize {
                self.end.len()
            }

            /// Whether the channel holds no message.
            ///
            /// # Examples
            ///
            /// See [`len`](Self::len).
            #[must_use]
            pub fn is_empty(&self) -> bool {
                self.len() == 0
            }

            /// Whether the channel holds as many messages as it may. (A channel with fewer may be full as well, of bytes.)
            ///
            /// # Examples
            ///
            /// See [`len`](Self::len).
            #[must_use]
            pub fn is_full(&self) -> bool {
                self.len() >= self.capacity()
            }

            /// How many messages the channel may hold.
            ///
            /// # Examples
            ///
            /// See [`len`](Self::len).
            #[must_use]
            pub fn capacity(&self) -> usize {
                self.end.shared().messages
            }
        }
    };
}
pub(super) use counts;
