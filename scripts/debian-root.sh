#!/usr/bin/env bash
# Makes a Debian root file system: debian-root.sh SUITE FOLDER PACKAGE …
#
# No service is started, neither while it is made nor on this machine. The copies
# of a suite that a mirror keeps may be older than the date that they carry.
set -euo pipefail
. "$(dirname "$0")/common.sh"

[ $# -ge 2 ] || die "usage: debian-root.sh SUITE FOLDER PACKAGE …"
[ "$(id -u)" -eq 0 ] || exec sudo -E "$0" "$@"
suite=$1 folder=$2
shift 2
mirror=http://deb.debian.org/debian

new=$folder.new
log=$folder.log
fail() {
    tail -n 20 "$log" >&2
    die "no root file system of Debian $suite: is $mirror reached from here? (whole log: $log)"
}
mounted=
cleanup() {
    [ -z "$mounted" ] || umount "$new/proc"
    rm -rf --one-file-system "$new"
}
trap cleanup EXIT
trap 'exit 130' INT TERM HUP

mkdir -p "$(dirname "$folder")"
rm -rf --one-file-system "$new" "$folder"
debootstrap --variant=minbase "$suite" "$new" $mirror >"$log" 2>&1 || fail
cp -L /etc/resolv.conf "$new/etc/resolv.conf"
if [ -d /usr/local/share/ca-certificates ]; then
    cp -a /usr/local/share/ca-certificates/. "$new/usr/local/share/ca-certificates/"
fi
printf '#!/bin/sh\nexit 101\n' >"$new/usr/sbin/policy-rc.d"
chmod 755 "$new/usr/sbin/policy-rc.d"
cat >"$new/etc/apt/apt.conf.d/99root" <<'END'
Acquire::Check-Valid-Until "false";
Acquire::Check-Date "false";
APT::Install-Recommends "false";
END
mount -t proc proc "$new/proc"
mounted=1
chroot "$new" env DEBIAN_FRONTEND=noninteractive sh -ec '
    apt-get update -qq
    apt-get install -y -qq "$@"
    apt-get clean' sh ca-certificates "$@" >>"$log" 2>&1 </dev/null || fail
umount "$new/proc"
mounted=
rm -rf "$new"/usr/sbin/policy-rc.d "$new"/var/lib/apt/lists/* \
    "$new"/usr/share/{doc,locale,man}/*
mv "$new" "$folder"
