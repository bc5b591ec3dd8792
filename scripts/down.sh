#!/usr/bin/env bash
# Stops and removes what `make up` started: agent, etcd, containers, unit.
# PURGE=1 removes the state too, with the manifests; VOLUMES=1 this cluster's
# volumes too, also when it was purged before. The program, the packages and
# the images stay.
set -euo pipefail
. "$(dirname "$0")/common.sh"
. "$(dirname "$0")/cluster.sh"

# True while any process on this machine runs the program, or the package's.
agent_runs() {
    # shellcheck disable=SC2016  # expanded by that shell
    as_root sh -c 'for exe in /proc/[0-9]*/exe; do
        case $(readlink "$exe" 2>/dev/null) in
        "$1" | "$1 (deleted)" | /usr/bin/dokkaa | "/usr/bin/dokkaa (deleted)") exit 0 ;;
        esac
    done
    exit 1' sh "$PROGRAM"
}

in_state_dir() { as_root test -e "$STATE_DIR/$1"; }

if is_foreign_unit $UNIT; then
    say "$UNIT runs this host's agent, which make up has not started: it is left alone."
elif [ -e $UNIT ] && systemd_runs; then
    as_root systemctl disable --now -q dokkaa
    as_root rm -f $UNIT
    as_root systemctl daemon-reload
fi

# Which volumes are this cluster's. Purged, it has no name any more: what is left
# of it are the volumes with dokkaa's label that no agent here has a claim to.
label=dokkaa.cluster
if in_state_dir up.lock; then
    cluster=$(as_root sed -n 's/.*"id": *"\([0-9a-f-]*\)".*/\1/p' "$STATE_DIR/cluster.json" 2>/dev/null) || true
    label=${cluster:+$label=$cluster}
elif in_state_dir cluster.json; then
    say "$STATE_DIR is of an agent of another cluster, which make up has not started: nothing is removed."
    exit 0
elif is_foreign_unit $UNIT || agent_runs; then
    label= # an agent with another state directory: its volumes have that label, too
    say "Another agent of dokkaa belongs to this machine: no volumes are looked for."
fi
if [ -x $PROGRAM ]; then
    as_root $PROGRAM down --state-dir "$STATE_DIR" ${PURGE:+--purge}
else
    say "No $PROGRAM here: nothing to stop."
fi

volumes=()
if [ -n "$label" ] && docker_ version >/dev/null 2>&1; then
    mapfile -t volumes < <(docker_ volume ls -q --filter "label=$label")
fi
if [ ${#volumes[@]} -gt 0 ] && [ -n "${VOLUMES:-}" ]; then
    docker_ volume rm "${volumes[@]}" >/dev/null
    say "volumes removed: ${volumes[*]}"
elif [ ${#volumes[@]} -gt 0 ]; then
    say "volumes kept (VOLUMES=1 make down removes them): ${volumes[*]}"
fi
[ -z "${PURGE:-}" ] || say "Left installed: $PROGRAM, images, and the packages and the Rust toolchain that make up has installed (scripts/setup.sh names them)."
