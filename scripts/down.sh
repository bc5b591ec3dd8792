#!/usr/bin/env bash
# Stops and removes what `make up` started: agent, etcd, containers, unit.
# PURGE=1 removes the state too, with the manifests; VOLUMES=1 this cluster's
# volumes too. The program, the packages and the images stay.
set -euo pipefail
. "$(dirname "$0")/common.sh"
. "$(dirname "$0")/cluster.sh"

if [ -e $UNIT ] && systemd_runs; then
    as_root systemctl disable --now -q dokkaa
    as_root rm -f $UNIT
    as_root systemctl daemon-reload
fi
[ -x $PROGRAM ] || {
    say "No $PROGRAM here: nothing to stop."
    exit 0
}
cluster=$(as_root sed -n 's/.*"id": *"\([0-9a-f-]*\)".*/\1/p' "$STATE_DIR/cluster.json" 2>/dev/null) || true
as_root $PROGRAM down --state-dir "$STATE_DIR" ${PURGE:+--purge}

[ -n "$cluster" ] || exit 0
mapfile -t volumes < <(docker_ volume ls -q --filter "label=dokkaa.cluster=$cluster")
[ ${#volumes[@]} -gt 0 ] || exit 0
if [ -n "${VOLUMES:-}" ]; then
    docker_ volume rm "${volumes[@]}" >/dev/null
    say "volumes removed: ${#volumes[@]}"
else
    say "volumes kept (VOLUMES=1 make down removes them): ${volumes[*]}"
fi
