#!/usr/bin/env bash
# From a clone to a running example: installs what is missing, builds, starts a
# one-machine cluster in the background and waits until the example works. Run
# again, it continues: a new build replaces the program and restarts the agent,
# containers are not touched.
set -euo pipefail
. "$(dirname "$0")/common.sh"
. "$(dirname "$0")/cluster.sh"
cd "$ROOT"

PROFILE=${PROFILE:-release}
# What may be moved where it is in somebody's way.
KEYS_LISTEN=${KEYS_LISTEN:-127.0.0.1:4001}
METRICS_LISTEN=${METRICS_LISTEN:-127.0.0.1:4002}
flags=("--keys-listen=$KEYS_LISTEN" "--metrics-listen=$METRICS_LISTEN")
[ -z "${DNS_LISTEN:-}" ] || flags+=("--dns-listen=$DNS_LISTEN")
[ -z "${PORT_RANGE:-}" ] || flags+=("--port-range=$PORT_RANGE")
export DOKKAA_ADDR=http://${KEYS_LISTEN%%,*}

if is_foreign_unit $UNIT; then
    die "$UNIT runs this host's agent, not dokkaa up: nothing is changed. To take the host out of its cluster first: \
dokkaa leave, then systemctl disable --now dokkaa and rm $UNIT"
fi

say "make up: installs what is missing, builds dokkaa, starts it with an example on this machine."
scripts/setup.sh up

# === build ===

triple=$(rustc -vV | sed -n 's/^host: //p')
case $PROFILE in
dev) folder=debug ;;
*) folder=$PROFILE ;;
esac
built=${CARGO_TARGET_DIR:-target}/$triple/$folder/dokkaa
[ -e "$built" ] || say "Building ($PROFILE); the first time this takes 5 to 10 minutes on two cores."
# Static, so that `scp` to any Linux of this kind is enough. Named by target,
# the flag leaves build scripts and procedural macros alone.
flag_name=CARGO_TARGET_$(tr 'a-z-' 'A-Z_' <<<"$triple")_RUSTFLAGS
env "$flag_name=-C target-feature=+crt-static" \
    cargo build --locked -p dokkaa --profile "$PROFILE" --target "$triple"

if ! cmp -s "$built" $PROGRAM; then
    as_root install -D -m 755 "$built" $PROGRAM.new
    as_root mv $PROGRAM.new $PROGRAM
    say "Installed $PROGRAM ($($PROGRAM version 2>/dev/null | head -n1))"
fi

# === start ===

# A taken port is one line: who has it, and the variable that moves ours.
explain_failure() {
    local taken
    taken=$(grep -o '[^ ]* is taken by .*' <<<"$1" | head -n1) || true
    die "${taken:-the cluster did not start}"
}

# True if what runs is what was built, with these flags.
is_current() {
    local pid
    pid=$(agent_pid) || return 1
    [ "$(as_root readlink "/proc/$pid/exe")" = $PROGRAM ] || return 1
    local flag line
    line=$(as_root cat "/proc/$pid/cmdline" | tr '\0' ' ')
    for flag in "${flags[@]}"; do
        [[ $line == *" $flag "* ]] || return 1
    done
}

said=$(mktemp)
trap 'rm -f "$said"' EXIT

if systemd_runs; then
    unit=$($PROGRAM cloud-config --format up-unit --program $PROGRAM -- "${flags[@]}")
    if [ "$unit" != "$(cat $UNIT 2>/dev/null)" ]; then
        printf '%s\n' "$unit" | as_root tee $UNIT >/dev/null
        as_root systemctl daemon-reload
    fi
    as_root systemctl enable -q dokkaa
    if ! is_current; then
        # One that was started by hand makes place for the unit's.
        if pid=$(agent_pid) && ! grep -q /dokkaa.service "/proc/$pid/cgroup"; then
            as_root kill "$pid"
            while [ -e "/proc/$pid" ]; do sleep 0.1; done
        fi
        if ! as_root systemctl restart dokkaa; then
            as_root journalctl -u dokkaa -n 20 --no-pager -o cat | tee "$said" >&2
            explain_failure "$(cat "$said")"
        fi
    fi
else
    if ! is_current; then
        # What it waits for is shown while it waits. By a pipe: of a process substitution the agent would keep a
        # descriptor, and this would wait for its end.
        as_root env -u DOKKAA_ADDR $PROGRAM up --detach --restart \
            --state-dir "$STATE_DIR" "${flags[@]}" 2>&1 | tee "$said" ||
            explain_failure "$(cat "$said")"
    fi
fi

# === the example ===

as_root env -u DOKKAA_ADDR $PROGRAM up --example --state-dir "$STATE_DIR" "${flags[@]}"
say "make down stops and removes all of it."
