//! Where requests wait: one queue, first come first served.

/// Requests that wait.
#[derive(Debug)]
pub struct Queue {}
