#!/usr/bin/env bash
# Packets that nobody should send, to the DNS server from both sides, guided by
# what they reach: TARGET (queries or answers, both by default) for TIME seconds
# each (60), from the corpus in dns/fuzz/corpus on. What is found is left in
# target/fuzz/TARGET, and replayed by giving its file. MERGE=1 instead adds to
# the corpus what reaches more.
#
# The flags are those of cargo-fuzz, which is not needed; they are stable.
set -euo pipefail
. "$(dirname "$0")/common.sh"
cd "$ROOT"

[ $# -eq 0 ] || [[ ${TARGET:-} =~ ^(queries|answers)$ ]] ||
    die "whose file is it? TARGET=queries or TARGET=answers"

scripts/setup.sh up fuzz
triple=$(rustc -vV | sed -n 's/^host: //p')
# `--target` leaves build scripts and macros without instruments.
flags=(--cfg fuzzing -Cpasses=sancov-module)
for flag in level=4 inline-8bit-counters pc-table trace-compares; do
    flags+=("-Cllvm-args=-sanitizer-coverage-$flag")
done
CARGO_TARGET_DIR=target/fuzz RUSTFLAGS="${flags[*]}" \
    cargo build --profile sim --locked -p dns-fuzz --features fuzzing --target "$triple"

for target in ${TARGET:-queries answers}; do
    corpus=dns/fuzz/corpus/$target
    program=target/fuzz/$triple/sim/$target
    found=target/fuzz/$target
    mkdir -p "$found/corpus"
    if [ $# -gt 0 ]; then
        "$program" "$@"
    elif [ -n "${MERGE:-}" ]; then
        "$program" -merge=1 "$corpus" "$found/corpus"
    else
        say "$target: ${TIME:-60} s"
        "$program" -max_total_time="${TIME:-60}" -timeout=10 -rss_limit_mb=1024 -verbosity=0 \
            -print_final_stats=1 -artifact_prefix="$found/" "$found/corpus" "$corpus"
    fi
done
