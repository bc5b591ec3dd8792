//! Name resolution of the static binary: `/etc/hosts` and DNS, no NSS plugins.
//!
//! A static glibc loads NSS plugins of the machine it runs on. They belong to that
//! machine's glibc and may crash the program.

/// Keeps glibc from loading NSS plugins. Called first in `main`, before any thread is started.
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

/// A dynamically linked glibc uses its own plugins.
#[cfg(not(all(target_env = "gnu", target_feature = "crt-static")))]
pub(crate) fn without_plugins() {}
