//! What only a guest needs.

use std::sync::Once;

use crate::bindings::method::peft::plugin::report;

/// Sends the message and the place of a panic to the host before the guest
/// aborts.
pub fn carry_panics_out() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        std::panic::set_hook(Box::new(|panic| report::panicked(&panic.to_string())));
    });
}
