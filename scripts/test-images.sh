#!/usr/bin/env bash
# Builds the image of manifests/examples/offline from this machine's
# busybox-static: test-images.sh FOLDER writes FOLDER/hello.tar, for
#   docker import FOLDER/hello.tar dokkaa.example/hello:offline
set -euo pipefail
. "$(dirname "$0")/common.sh"

[ $# -eq 1 ] || die "usage: test-images.sh FOLDER"
out=$1
busybox=$(command -v busybox) || die "busybox is missing: apt-get install busybox-static"
# One that needs libraries would not run alone.
is_static "$busybox" || die "$busybox is not static: apt-get install busybox-static"

root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
mkdir -p "$root"/{bin,etc,proc,root,run,sys,tmp,var/log,www} "$out"
chmod 1777 "$root/tmp"
cp "$busybox" "$root/bin/busybox"
for applet in $("$busybox" --list); do
    [ "$applet" = busybox ] || ln -s busybox "$root/bin/$applet"
done
printf 'root:x:0:0:root:/root:/bin/sh\n' >"$root/etc/passwd"
printf 'root:x:0:\n' >"$root/etc/group"
cat >"$root/www/index.html" <<'PAGE'
<!DOCTYPE html>
<html><head><title>Hello from dokkaa</title></head>
<body><h1>Hello from dokkaa</h1>
<p>This page comes from a container that dokkaa runs on this machine.</p>
</body></html>
PAGE
tar -C "$root" --owner=0 --group=0 --sort=name --mtime=@0 -cf "$out/hello.tar" .
