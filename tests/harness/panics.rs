//! A panic is told where and when it happens, beside its test's line.

use std::io::{self, Write as _};
use std::panic;
use std::sync::Once;
use std::thread;

/// From here on every panic is told at once, on the real standard error. What libtest keeps of it is shown at the very end,
/// which a run that is cut off or cut down never reaches.
pub fn tell_at_once() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            let thread = thread::current();
            let text = format!("{}: {info}\n", thread.name().unwrap_or("a thread of a test"));
            let _nobody_reads = io::stderr().write_all(text.as_bytes());
            usual(info);
        }));
    });
}
