#!/usr/bin/env bash
# Random faults on three hosts of this machine with an etcd of three members, by
# seed: SEED=7 FAULTS=12. It prints what it does; a seed does the same again.
set -euo pipefail
. "$(dirname "$0")/common.sh"
cd "$ROOT"

scripts/setup.sh up test
run_tests_as_root
cargo build --locked -p dokkaa
[ -z "${SEED:-}" ] || export FAULTS_SEED=$SEED
cargo test --locked -p dokkaa-tests --test main -- --nocapture random_faults "$@"
