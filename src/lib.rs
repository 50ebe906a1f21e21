#![doc = "tidegate"]
pub mod policy;
