#!/usr/bin/env bash
# Measures dokkaa, as it is released, against what Docker alone takes.
set -euo pipefail
. "$(dirname "$0")/common.sh"
cd "$ROOT"

scripts/setup.sh up test
run_tests_as_root
cargo build --release --locked -p dokkaa -p dokkaa-tests --bins
cargo run --release --locked -p dokkaa-tests --bin bench -- "$@"
