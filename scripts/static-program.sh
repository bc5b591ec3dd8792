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
# It is relocated when it starts; packed, the list of what to relocate is a
# fiftieth, and half a megabyte less of the program is read into memory for it.
env "$flag_name=-C target-feature=+crt-static $paths" \
    cargo rustc --locked -p dokkaa --bin dokkaa --profile dist --target "$triple" \
    -- -C link-arg=-Wl,-z,pack-relative-relocs
printf '%s\n' "${CARGO_TARGET_DIR:-$ROOT/target}/$triple/dist/dokkaa"
