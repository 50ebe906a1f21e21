//! What is still to be told, in order and never more than so much: the oldest goes first, both to the receiver and, when there
//! is no room, away.

use std::collections::VecDeque;

/// A bounded queue.
#[derive(Debug)]
pub(super) struct Line<T>(VecDeque<T>);

impl<T> Default for Line<T> {
    fn default() -> Self {
        Self(VecDeque::new())
    }
}

impl<T> Line<T> {
    /// How many may wait.
    pub(super) const MOST: usize = 256;

    /// Lets `last` in at the end. What had to go for it is given back.
    pub(super) fn push(&mut self, last: T) -> Option<T> {
        let gone = if self.0.len() < Self::MOST { None } else { self.0.pop_front() };
        self.0.push_back(last);
        gone
    }

    /// The one that has waited longest.
    pub(super) fn pop(&mut self) -> Option<T> {
        self.0.pop_front()
    }

    /// How many wait.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_goes_when_there_is_no_room_and_the_order_stays() {
        let mut line = Line::default();
        let gone: Vec<usize> = (0..300).filter_map(|n| line.push(n)).collect();
        assert_eq!(gone, (0..44).collect::<Vec<_>>());
        assert_eq!(line.len(), Line::<usize>::MOST);
        let left: Vec<usize> = std::iter::from_fn(|| line.pop()).collect();
        assert_eq!(left, (44..300).collect::<Vec<_>>());
    }
}
