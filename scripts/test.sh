#!/usr/bin/env bash
# Every test of the workspace, and those that depend on the releases of Docker
# and etcd on the newest of Debian, too. Some make network namespaces and start
# engines of their own, so the test programs run as root; the build does not.
# Arguments go to `cargo test`, and leave the second part out.
set -euo pipefail
. "$(dirname "$0")/common.sh"
cd "$ROOT"

scripts/setup.sh up test
run_tests_as_root
# The tests run the program too; with all targets, what both need is built once.
cargo build --workspace --all-targets --locked
cargo test --workspace --locked "$@"
if [ $# -eq 0 ]; then
    LAB_ENGINE=28-containerd LAB_ETCD=3.5 scripts/matrix.sh
fi
