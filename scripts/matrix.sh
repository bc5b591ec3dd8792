#!/usr/bin/env bash
# The tests that depend on the releases of Docker and etcd: the battery of each,
# and the end-to-end tests below. On every release that people run, or, where
# LAB_ENGINE is set, on what it, LAB_ETCD and LAB_MIN_API say (CONTRIBUTING.md).
# Arguments are other end-to-end tests: `scripts/matrix.sh e2e` runs all of them.
set -euo pipefail
. "$(dirname "$0")/common.sh"
cd "$ROOT"

e2e=(e2e::tutorial e2e::failover e2e::update e2e::under_load e2e::registry logs_are_gathered a_prune)
[ $# -eq 0 ] || e2e=("$@")
# Engine, etcd and, if not the engine's own, its oldest API version.
rows=(
    "20 3.5"
    "26 3.4"
    "28 3.5"
    "28-containerd 3.5"
    "20,28-containerd 3.5"  # a cluster in the middle of an upgrade
    "28-containerd 3.5 1.44" # as Docker 29.0 to 29.2
)
goals=(up test matrix)
if [ -n "${LAB_ENGINE:-}" ]; then
    rows=("$LAB_ENGINE ${LAB_ETCD:-3.4} ${LAB_MIN_API:-}")
    [[ $LAB_ENGINE == *26* ]] || goals=(up test)
fi

scripts/setup.sh "${goals[@]}"
run=()
[ "$(id -u)" -eq 0 ] || run=(sudo -E)
targets=(--workspace --locked --bins --test battery --test main)
cargo build "${targets[@]}"
programs=$(cargo build "${targets[@]}" --message-format=json 2>/dev/null)
program() { # of a package's tests
    sed -n "/\"package_id\":\"[^\"]*\/$1#.*\"kind\":\[\"test\"\].*\"name\":\"$2\".*\"executable\":\"/s/.*\"executable\":\"\([^\"]*\)\".*/\1/p" \
        <<<"$programs"
}
docker_battery=$(program conductor battery)
etcd_battery=$(program store battery)
end_to_end=$(program tests main)

failed=()
try() { # WHAT FOLDER COMMAND …
    local what=$1 folder=$2
    shift 2
    (cd "$folder" && "${run[@]}" "$@") || failed+=("$what")
}
for row in "${rows[@]}"; do
    read -r engine etcd min_api <<<"$row"
    export LAB_ENGINE=$engine LAB_ETCD=$etcd LAB_MIN_API=$min_api
    name="Docker $engine${min_api:+ from API $min_api on}, etcd $etcd"
    say "=== $name ==="
    for one in ${engine//,/ }; do
        tests=(::docker:: real:: proxied::)
        # The oldest that we speak is refused where another is the engine's oldest.
        [ -n "$min_api" ] || tests+=(::docker_oldest_api::)
        # Inside a host, the machine's own engine is that host's.
        try "battery of Docker $one" conductor "$ROOT/target/debug/lab" \
            --hosts 1 --engine "$one" --without-agents --run "$docker_battery" "${tests[@]}"
    done
    try "battery of etcd $etcd" store "$etcd_battery"
    try "end to end on $name" tests "$end_to_end" "${e2e[@]}"
done
[ ${#failed[@]} -eq 0 ] || { printf 'failed: %s\n' "${failed[@]}" >&2; exit 1; }
