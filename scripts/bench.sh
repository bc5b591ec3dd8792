#!/usr/bin/env bash
# Measures dokkaa, as it is shipped, against what Docker alone takes. On the
# newest engine and etcd, if LAB_ENGINE and LAB_ETCD name no others.
set -euo pipefail
. "$(dirname "$0")/common.sh"
cd "$ROOT"

scripts/setup.sh up test bench
run_tests_as_root
export LAB_ENGINE=${LAB_ENGINE:-28-containerd} LAB_ETCD=${LAB_ETCD:-3.5}
DOKKAA_BIN=$(scripts/static-program.sh)
export DOKKAA_BIN
cargo run --release --locked -p dokkaa-tests --bin bench -- "$@"
