#!/usr/bin/env bash
# Three hosts on this machine, with an etcd and agents, until ctrl-C.
set -euo pipefail
. "$(dirname "$0")/common.sh"
cd "$ROOT"

scripts/setup.sh up test matrix
run_tests_as_root
cargo build --locked -p dokkaa -p dokkaa-tests --bins
cargo run --locked -p dokkaa-tests --bin lab -- "$@"
