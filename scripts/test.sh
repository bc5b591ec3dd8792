#!/usr/bin/env bash
# Every test of the workspace. Some make network namespaces and start engines
# of their own, so the test programs run as root; the build does not.
set -euo pipefail
. "$(dirname "$0")/common.sh"
cd "$ROOT"

scripts/setup.sh up test
PATH=$PATH:$ROOT/target/tools/usr/bin:$ROOT/target/tools/usr/sbin
if [ "$(id -u)" -ne 0 ]; then
    triple=$(rustc -vV | sed -n 's/^host: //p' | tr 'a-z-' 'A-Z_')
    export "CARGO_TARGET_${triple}_RUNNER=sudo -E"
fi
cargo test --workspace --locked "$@"
