//! The parser from outside: a corpus of Dockerfiles, and what holds for any text at all.

mod corpus;
mod dump;
mod positions;
mod properties;
mod triggers;
