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
# Where it is installed; it wants the network for nothing else than these.
if cargo deny --version >/dev/null 2>&1; then
    cargo deny --offline check bans licenses sources
fi
