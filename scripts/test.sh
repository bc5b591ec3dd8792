#!/usr/bin/env bash
# Every test of the workspace. Some make network namespaces and start engines
# of their own, so the test programs run as root; the build does not. Arguments
# go to `cargo test`.
set -euo pipefail
. "$(dirname "$0")/common.sh"
cd "$ROOT"

scripts/setup.sh up test
run_tests_as_root
# The tests run the program too; with all targets, what both need is built once.
cargo build --workspace --all-targets --locked
cargo test --workspace --locked "$@"
