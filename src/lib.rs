#![doc = "tidegate"]
pub mod config;
pub mod policy;
