//! Locks on files, with a bound on every wait.
