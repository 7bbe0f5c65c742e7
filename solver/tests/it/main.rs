//! The solver with a worker that adds small integers and counts how often it is asked.

mod build;
mod cutoff;
mod fake;
mod hits;
mod random;
mod records;
mod schedule;
mod speed;
