//! Who goes where: the rules of the split, as plain functions of their arguments.
//!
//! Nothing in here awaits, logs, reads a clock, rolls dice or fails: what enters has been checked, and chance is an
//! argument. It uses `std` only, so that the same rules can be read, tested and quoted without the proxy around them.

pub mod actor;
pub mod admission;
pub mod balance;
pub mod bucket;
pub mod budget;
pub mod decision;
pub mod drain;
pub mod ejection;
pub mod guard;
pub mod health;
pub mod latch;
pub mod naming;
pub mod network;
pub mod outcome;
pub mod path;
pub mod query;
pub mod ramp;
pub mod rollout;
pub mod route;
pub mod schedule;
pub mod shield;
pub mod standing;
