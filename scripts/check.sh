#!/usr/bin/env bash
# Format, lints and documentation, all without a warning.
set -euo pipefail
. "$(dirname "$0")/common.sh"
cd "$ROOT"

scripts/setup.sh up
for part in fmt clippy; do
    cargo "$part" --version >/dev/null 2>&1 ||
        die "cargo $part is not installed (rustup component add rustfmt clippy)"
done
cargo fmt --all --check
cargo clippy --workspace --all-targets --locked -- -D warnings
RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --document-private-items --locked
# Where it is installed; advisories need a copy of their database, which `cargo deny fetch db` makes or renews.
if cargo deny --version >/dev/null 2>&1; then
    parts=(bans licenses sources)
    advisories=${CARGO_HOME:-$HOME/.cargo}/advisory-dbs
    if compgen -G "$advisories/*/crates" >/dev/null; then
        parts+=(advisories)
    else
        say "skipped: advisories of crates: there is no database in $advisories (cargo deny fetch db)"
    fi
    # It reads those of other systems, too, which no build here has fetched.
    cargo fetch --locked --quiet
    cargo deny --locked --offline check "${parts[@]}"
else
    say "skipped: licenses, sources and advisories of crates: cargo deny is not installed (cargo install cargo-deny --locked)"
fi
