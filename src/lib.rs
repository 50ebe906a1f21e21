#![doc = "tidegate"]
pub mod config;
pub mod metrics;
pub mod policy;
pub mod proxy;
pub mod snapshot;
pub mod upstream;
