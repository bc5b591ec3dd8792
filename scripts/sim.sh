#!/usr/bin/env bash
# Plays whole clusters in one thread by seed, with every fault: one seed with its
# story (SEED=17), or many (SEEDS=10000, from FROM on). HOSTS, STEPS, SCENARIO
# and WITHOUT (a rule that is left out) as `sim --help` says.
set -euo pipefail
. "$(dirname "$0")/common.sh"
cd "$ROOT"

scripts/setup.sh up
words=()
for name in SEED SEEDS FROM HOSTS STEPS SCENARIO WITHOUT; do
    [ -z "${!name:-}" ] || words+=("--${name,,}" "${!name}")
done
cargo build --profile sim --locked -p sim
exec target/sim/sim "${words[@]}" "$@"
