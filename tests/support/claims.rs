//! What the scripts of a backend claim, on threads and in tasks whose panics nobody else would hear of.

use std::any::Any;
use std::sync::{Arc, Mutex};
use std::thread;

/// The claims of one backend. When its backend is dropped, the test fails if one of them was not so.
#[derive(Clone, Debug, Default)]
pub struct Claims(Arc<Mutex<Option<String>>>);

impl Claims {
    /// A script has panicked. That it wanted more from a connection that has ended, and unwrapped what was not there, is no claim.
    pub fn refuted_by(&self, panic: &(dyn Any + Send)) {
        let said = panic.downcast_ref::<String>().cloned();
        let said = said.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string)).unwrap_or_default();
        if !said.starts_with("called `") {
            self.0.lock().unwrap().get_or_insert(said);
        }
    }

    /// Fails the test if one was not so, unless it has failed already.
    #[track_caller]
    pub fn hold(&self) {
        let refuted = self.0.lock().unwrap().take();
        assert!(thread::panicking() || refuted.is_none(), "in a backend: {}", refuted.unwrap_or_default());
    }
}
