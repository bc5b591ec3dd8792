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
registry_limit=20 # seconds
example_limit=180 # seconds

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
    unit=$($PROGRAM cloud-config --format up-unit -- "${flags[@]}")
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
    say "No systemd here: after a reboot, start it again with: $PROGRAM up --detach"
fi

# === the example ===

registry_answers() {
    local code
    code=$(curl -s -o /dev/null -w '%{http_code}' --max-time "$registry_limit" \
        https://registry-1.docker.io/v2/) || return 1
    [ "$code" = 401 ] || [ "$code" = 200 ]
}

image=$(sed -n 's/.*"image": "\(.*\)".*/\1/p' manifests/examples/hello/hello/web.json)
example=manifests/examples/hello
if ! docker_ image inspect "$image" >/dev/null 2>&1; then
    if registry_answers && docker_ pull "$image"; then
        :
    else
        example=manifests/examples/offline
        say "No registry answers here: the example uses an image made of this machine's busybox ($example)."
        scripts/setup.sh offline
        images=$(mktemp -d)
        scripts/test-images.sh "$images"
        if ! docker_ image inspect "$OFFLINE_IMAGE" >/dev/null 2>&1; then
            docker_ import "$images/hello.tar" "$OFFLINE_IMAGE" >/dev/null
        fi
        rm -rf "$images"
    fi
fi
# What somebody changed stays changed.
for manifest in "$example"/*/*.json; do
    name=${manifest#"$example"/} name=${name%.json}
    $PROGRAM get "$name" >/dev/null 2>&1 || $PROGRAM apply "$name" "$manifest"
done

say "Waiting until the crawler has fetched a page ..."
start=$SECONDS
until $PROGRAM logs --since 10s "$EXAMPLE_APP/crawler" 2>/dev/null | grep -q '<title>'; do
    if [ $((SECONDS - start)) -gt "$example_limit" ]; then
        $PROGRAM ps "$EXAMPLE_APP" >&2 || true
        $PROGRAM why "$EXAMPLE_APP/crawler" >&2 || true
        die "the crawler fetched no page in $example_limit s"
    fi
    sleep 0.5
done

port=$(docker_ port "$EXAMPLE_APP---web" 80/tcp | head -n1)
say "
The example runs: http://$port
This address works on this machine only. This publishes it on all addresses of it:
  dokkaa set $EXAMPLE_APP/web services.web.host_port=8080 services.web.bind=0.0.0.0 --wait

Four commands to go on with:
  dokkaa ps
  dokkaa logs -f $EXAMPLE_APP/crawler
  dokkaa scale $EXAMPLE_APP/web=3 --wait
  curl -s http://${KEYS_LISTEN%%,*}/v2/keys/apps/$EXAMPLE_APP/web/manifest

make down stops and removes it."
[ "$KEYS_LISTEN" = 127.0.0.1:4001 ] || say "The API listens elsewhere, so: export DOKKAA_ADDR=$DOKKAA_ADDR"
