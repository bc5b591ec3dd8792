#!/bin/sh
# What docs/three-hosts.md needs of systemctl, where no systemd runs: it reads
# the same units and starts what they say, as the user and with the environment
# that they say.
set -eu

file_of() {
    for folder in /etc/systemd/system /lib/systemd/system; do
        [ ! -e "$folder/$1.service" ] || { echo "$folder/$1.service"; return; }
    done
    echo "no unit $1" >&2
    exit 5
}

start() {
    file=$(file_of "$1")
    (
        set -a
        eval "$(sed -n "s/%H/$(hostname)/; s/^Environment=//p" "$file")"
        # Of all units here only the distribution's names a file.
        if grep -q '^EnvironmentFile=-/etc/default/%p' "$file" && [ -e "/etc/default/$1" ]; then
            . "/etc/default/$1"
        fi
        set +a
        command=$(sed -n 's/^ExecStart=//p' "$file" | tail -n 1)
        user=$(sed -n 's/^User=//p' "$file")
        exec setsid setpriv --reuid "${user:-root}" --regid "${user:-root}" --init-groups \
            sh -c "echo \$\$ >&3; exec $command" </dev/null 3>"/run/$1.pid" \
            >>"/var/log/$1.log" 2>&1
    ) &
    # Type=notify: systemctl comes back when the service says that it is ready.
    if [ "$1" = dokkaa ]; then
        for _ in $(seq 600); do
            ! curl --fail --silent --output /dev/null http://127.0.0.1:4002/readyz || return 0
            sleep 0.1
        done
        tail -n 20 "/var/log/$1.log" >&2
        exit 1
    fi
}

stop() {
    [ -e "/run/$1.pid" ] || return 0
    kill "$(cat "/run/$1.pid")" 2>/dev/null || true
    rm -f "/run/$1.pid"
}

verb=$1
shift
case "$verb $*" in
"daemon-reload ") ;;
"enable --now "*) start "$2" ;;
"enable "*) file_of "$1" >/dev/null ;;
"restart --no-block "*) stop "$2"; start "$2" ;;
*) echo "systemctl $verb $*: not known here" >&2; exit 1 ;;
esac
