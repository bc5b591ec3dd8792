#!/usr/bin/env bash
# Builds the program that is shipped, which needs no library of the machine it
# runs on, and prints its path.
set -euo pipefail
. "$(dirname "$0")/common.sh"
cd "$ROOT"

scripts/setup.sh up >&2
triple=$(rustc -vV | sed -n 's/^host: //p')
flag_name=CARGO_TARGET_$(tr 'a-z-' 'A-Z_' <<<"$triple")_RUSTFLAGS
# No path of this machine gets into the program.
paths="--remap-path-prefix=$ROOT=/dokkaa --remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}=/cargo"
env "$flag_name=-C target-feature=+crt-static $paths" \
    cargo build --locked -p dokkaa --profile dist --target "$triple"
printf '%s\n' "${CARGO_TARGET_DIR:-$ROOT/target}/$triple/dist/dokkaa"
