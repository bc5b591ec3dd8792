//! Name resolution in the static binary: files and DNS, and no plugins.
//!
//! A static glibc looks host names up through plugins that it loads from the
//! machine it runs on. Those belong to that machine's own glibc and may crash
//! the program. What is linked in, `/etc/hosts` and DNS, needs none of them.

/// Keeps glibc from loading plugins. To be called first in `main`, before any
/// other thread runs.
#[cfg(all(target_env = "gnu", target_feature = "crt-static"))]
pub(crate) fn without_plugins() {
    #[expect(
        unsafe_code,
        reason = "glibc offers this choice as a C function and nowhere else"
    )]
    mod glibc {
        use std::ffi::{CStr, c_char, c_int};

        unsafe extern "C" {
            fn __nss_configure_lookup(database: *const c_char, sources: *const c_char) -> c_int;
        }

        pub(super) fn configure(database: &CStr, sources: &CStr) {
            // SAFETY: both are strings that end in a zero byte and live for
            // the call, which copies them; no other thread runs yet.
            unsafe { __nss_configure_lookup(database.as_ptr(), sources.as_ptr()) };
        }
    }
    glibc::configure(c"hosts", c"files dns");
}

/// The machine's own, dynamically linked libraries look names up as they are
/// configured.
#[cfg(not(all(target_env = "gnu", target_feature = "crt-static")))]
pub(crate) fn without_plugins() {}
