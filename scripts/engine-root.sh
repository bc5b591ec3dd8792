#!/usr/bin/env bash
# Docker Engine and etcd of a newer Debian than this machine's, for hosts of the
# lab: engine-root.sh SUITE unpacks them, with the libraries they need, into
# target/roots/SUITE. Nothing is installed, and no maintainer script runs.
set -euo pipefail
. "$(dirname "$0")/common.sh"

[ $# -eq 1 ] || die "usage: engine-root.sh SUITE"
suite=$1
mirror=http://deb.debian.org/debian
packages=(docker.io docker-cli etcd-server etcd-client iptables)
root=$ROOT/target/roots/$suite

mkdir -p "$ROOT/target/roots"
work=$(mktemp -d "$ROOT/target/roots/.$suite.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM HUP
mkdir -p "$work"/{root,state/lists/partial,cache/archives/partial}
# Nothing is installed there yet: what is named comes with all it needs.
: >"$work/status"
printf 'deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] %s %s main\n' \
    "$mirror" "$suite" >"$work/sources.list"

# An old copy of the suite on a mirror is as good as today's.
apt() {
    apt-get -q -o Dir::State="$work/state" -o Dir::State::status="$work/status" \
        -o Dir::Cache="$work/cache" -o Dir::Etc::SourceList="$work/sources.list" \
        -o Dir::Etc::SourceParts=/dev/null -o Dir::Etc::Preferences=/dev/null \
        -o Dir::Etc::PreferencesParts=/dev/null -o APT::Default-Release= \
        -o Acquire::Check-Valid-Until=false -o Acquire::Check-Date=false \
        -o Acquire::Languages=none -o Acquire::Retries=3 -o APT::Sandbox::User= \
        "$@" >"$work/log" 2>&1 ||
        { tail -n 20 "$work/log" >&2; die "no packages of Debian $suite from $mirror"; }
}
apt update --error-on=any
apt install -y --no-install-recommends --download-only "${packages[@]}"
for package in "$work"/cache/archives/*.deb; do
    dpkg-deb -x "$package" "$work/root"
done
rm -rf "$work/root/usr/share"
# Only /usr is used (tests/src/node.sh); what is there is whole.
rm -rf "$root"
mkdir "$work/whole"
mv "$work/root/usr" "$work/whole/usr"
mv "$work/whole" "$root"
