//! The environment of a process.
//!
//! A Dockerfile of thousands of instructions has thousands of variables at each of its steps. Steps
//! therefore share them: an environment is a list of pieces, a clone shares all of them, and a
//! change copies the one piece that it is in.

use std::sync::Arc;

/// Variables in one piece: few enough to copy at each change, enough for few pieces.
const PIECE: usize = 32;

/// Names and values, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Environment {
    /// Each but the last has [`PIECE`] variables.
    pieces: Vec<Arc<Vec<(String, String)>>>,
}

impl Environment {
    /// The variables in order.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (&str, &str)> {
        let pairs = self.pieces.iter().flat_map(|piece| piece.iter());
        pairs.map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// The variable at a place, counted from 0.
    pub fn get(&self, place: usize) -> Option<(&str, &str)> {
        let (name, value) = self.pieces.get(place / PIECE)?.get(place % PIECE)?;
        Some((name, value))
    }

    /// Adds a variable behind the others; its place is how many there were.
    pub fn push(&mut self, name: &str, value: &str) {
        let pair = (name.to_owned(), value.to_owned());
        match self.pieces.last_mut().filter(|piece| piece.len() < PIECE) {
            Some(piece) => Arc::make_mut(piece).push(pair),
            None => self.pieces.push(Arc::new(vec![pair])),
        }
    }

    /// Gives the variable at a place another value; nothing where there is none.
    pub fn set(&mut self, place: usize, value: &str) {
        let Some(piece) = self.pieces.get_mut(place / PIECE) else { return };
        if let Some((_, old)) = Arc::make_mut(piece).get_mut(place % PIECE) {
            value.clone_into(old);
        }
    }
}

impl<N: AsRef<str>, V: AsRef<str>> FromIterator<(N, V)> for Environment {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(pairs: I) -> Self {
        let mut environment = Environment::default();
        for (name, value) in pairs {
            environment.push(name.as_ref(), value.as_ref());
        }
        environment
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_leaves_clones_as_they_are_and_shares_the_other_pieces() {
        let mut environment: Environment =
            (0..2 * PIECE + 1).map(|number| (format!("N{number}"), "old")).collect();
        let clone = environment.clone();
        environment.set(PIECE, "new");
        environment.push("LAST", "1");

        assert_eq!(clone.get(PIECE), Some(("N32", "old")));
        assert_eq!(environment.get(PIECE), Some(("N32", "new")));
        assert_eq!(clone.iter().count(), 2 * PIECE + 1);
        assert_eq!(environment.iter().last(), Some(("LAST", "1")));
        let shared: Vec<bool> =
            environment.pieces.iter().zip(&clone.pieces).map(|(a, b)| Arc::ptr_eq(a, b)).collect();
        assert_eq!(shared, [true, false, false]);
    }
}
