//! tidegate: a progressive traffic router that runs as a sidecar in front of a service.
//!
//! It decides, request by request, whether the OLD or the NEW version of the service answers, keeps every user on one side,
//! and follows its config file as it changes. The modules below stand in the order in which they may import: a module
//! uses those above it. ARCHITECTURE.md is the map.

pub mod descriptors;
pub mod gather;
pub mod policy;
pub mod proxy_header;
pub mod telemetry;
pub mod tls;

pub mod capacity;
pub mod config;
pub mod metrics;

pub mod hold;
pub mod listen;
pub mod snapshot;
pub mod upstream;

pub mod proxy;

pub mod control;

pub mod admin;

pub mod app;
pub mod cli;
