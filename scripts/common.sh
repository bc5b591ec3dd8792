# shellcheck shell=bash
# Shared by the scripts in this folder; sourced, never run.

# shellcheck disable=SC2034
# The repository's root; every script works from here.
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

say() { printf '%s\n' "$*"; }
die() { printf '%s: %s\n' "$(basename "$0")" "$*" >&2; exit 1; }

# `as_root cmd…`: runs a command as root, by sudo for everybody else.
as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    elif command -v sudo >/dev/null 2>&1; then
        sudo "$@"
    else
        die "this needs root: run it as root, or install sudo"
    fi
}

# True where systemd is the init system (not merely installed).
systemd_runs() { [ -d /run/systemd/system ]; }

# The folders a user's PATH often lacks and these scripts need.
PATH=$PATH:$HOME/.cargo/bin:/usr/local/sbin:/usr/sbin:/sbin
export PATH

# What cargo runs from now on runs as root; what it builds does not.
run_tests_as_root() {
    local triple
    [ "$(id -u)" -ne 0 ] || return 0
    triple=$(rustc -vV | sed -n 's/^host: //p' | tr 'a-z-' 'A-Z_')
    export "CARGO_TARGET_${triple}_RUNNER=sudo -E"
}

# True for a program that needs no library of the machine it runs on.
is_static() {
    grep -qE 'statically linked|not a dynamic executable' <<<"$(ldd "$1" 2>&1)"
}
