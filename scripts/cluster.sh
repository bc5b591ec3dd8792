# shellcheck shell=bash
# shellcheck disable=SC2034
# What `make up` and `make down` share about the one-machine cluster; sourced.

PROGRAM=/usr/local/bin/dokkaa
STATE_DIR=/var/lib/dokkaa
UNIT=/etc/systemd/system/dokkaa.service

# True if this file is a unit of `dokkaa up`. A host of a cluster has its agent's under the same name.
unit_runs_up() { # FILE
    grep -qE '^ExecStart=[^[:space:]]+[[:space:]]+up([[:space:]]|$)' "$1"
}

# True if the unit in this file is somebody else's: it is neither replaced nor removed.
is_foreign_unit() { # FILE
    [ -e "$1" ] && ! unit_runs_up "$1"
}

# The cluster's engine as whoever may ask it.
docker_() {
    if docker version >/dev/null 2>&1; then docker "$@"; else as_root docker "$@"; fi
}

# The process that runs the cluster, if one does.
agent_pid() {
    local pid
    pid=$(as_root cut -d' ' -f1 "$STATE_DIR/up.pid" 2>/dev/null) || return 1
    [ -n "$pid" ] && as_root test -e "/proc/$pid/exe" || return 1
    as_root tr '\0' ' ' <"/proc/$pid/cmdline" | grep -q ' up ' || return 1
    printf '%s\n' "$pid"
}
