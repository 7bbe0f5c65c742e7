//! Tests of the whole program, and of the workspace it is made of.
//!
//! [`sealed`] gives each test a store, a home and an environment of its own, as root or as an
//! ordinary user; [`oci`] reads images back without any of our own code. What a test expects stands
//! in `testdata` where it is data.

mod architecture;
mod build;
mod cases;
mod checks;
mod claims;
mod configuration;
mod contexts;
mod devices;
mod disk;
mod disk_errors;
mod examples;
mod explain;
mod far;
mod faults;
mod foreign;
mod fuzz;
mod history;
mod images;
mod lazy;
mod limits;
mod oci;
mod offline;
mod platforms;
mod run;
mod s3;
mod sealed;
mod secrets;
mod ssh;
mod travel;
mod uploads;
