//! The parser from outside: a corpus of Dockerfiles, and what holds for any text at all.

mod checks;
mod corpus;
mod dump;
mod limits;
mod positions;
mod properties;
mod triggers;
