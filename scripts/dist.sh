#!/usr/bin/env bash
# Packages dokkaa into target/packages: a static program, a tarball and a .deb,
# the same bytes from the same commit on any machine with the same Rust.
#
#   PROGRAM=path   packs this program instead of building one
#   OUT=folder     instead of target/packages; what is in it is removed
set -euo pipefail
. "$(dirname "$0")/common.sh"
cd "$ROOT"
umask 022

version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n1)
triple=$(rustc -vV | sed -n 's/^host: //p')
case ${triple%%-*} in
x86_64) architecture=amd64 ;;
aarch64) architecture=arm64 ;;
*) die "no package architecture is known for $triple" ;;
esac
# Times in the packages are those of the commit.
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || echo 0)}
export SOURCE_DATE_EPOCH

program=${PROGRAM:-$(scripts/static-program.sh)}
is_static "$program" || die "$program is not static"

# === the files, as they are installed ===

# Not target/dist: that is cargo's, for what this profile runs while it builds.
out=${OUT:-$ROOT/target/packages}
rm -rf "$out"
root=$out/root
doc=$root/usr/share/doc/dokkaa
install -D -m 755 "$program" "$root/usr/bin/dokkaa"
install -d "$root/usr/lib/systemd/system" "$root/usr/share/man/man1" "$doc"
# The unit of one machine's cluster; a host's own agent unit, in /etc, takes its place.
"$program" cloud-config --format up-unit --program /usr/bin/dokkaa |
    sed 's#^\[Service\]#&\nEnvironmentFile=-/etc/default/dokkaa#' \
        >"$root/usr/lib/systemd/system/dokkaa.service"
"$program" man-pages "$root/usr/share/man/man1"
gzip -9n "$root"/usr/share/man/man1/*.1
completion() { "$program" completion "$1" | install -D -m 644 /dev/stdin "$root/usr/share/$2"; }
completion bash bash-completion/completions/dokkaa
completion zsh zsh/vendor-completions/_dokkaa
completion fish fish/vendor_completions.d/dokkaa.fish
cp README.md CHANGELOG.md LICENSE-MIT LICENSE-APACHE "$doc"
gzip -9n "$doc/CHANGELOG.md"
chmod -R u=rwX,go=rX "$root"

# === packages ===

pack() { # FOLDER, to standard output
    tar -C "$1" --owner=0 --group=0 --numeric-owner --sort=name \
        --mtime="@$SOURCE_DATE_EPOCH" -c . | gzip -9n
}
name=dokkaa-$version-linux-$architecture
pack "$root" >"$out/$name.tar.gz"

# Of the files alone: a folder's size depends on the file system.
size=$(find "$root" -type f -printf '%s\n' | awk '{ kib += int(($1 + 1023) / 1024) } END { print kib }')
install -d "$root/DEBIAN"
cat >"$root/DEBIAN/control" <<CONTROL
Package: dokkaa
Version: $version
Architecture: $architecture
Maintainer: dokkaa <dokkaa@localhost>
Section: admin
Priority: optional
Recommends: docker.io | docker-ce
Suggests: etcd-server, etcd-client
Installed-Size: $size
Description: containers on a cluster of Docker hosts
 Manifests are put into etcd; the hosts claim them, run them with Docker,
 announce their services in DNS and connect what links to them.
 .
 A cluster of one machine is started with "dokkaa up --example", which runs an
 etcd of its own: install etcd-server for it. Hosts of a cluster need only
 Docker and an etcd somewhere.
CONTROL
# Nothing is started by an install. A removed unit is stopped; containers run on, and the state stays, also on purge:
# "dokkaa down --purge" removes it.
cat >"$root/DEBIAN/postinst" <<'SCRIPT'
#!/bin/sh
set -e
if [ "$1" = configure ] && [ -e /usr/local/bin/dokkaa ]; then
    echo "dokkaa: /usr/local/bin/dokkaa stays as it is, comes first in PATH, and may be what a unit in /etc/systemd/system" \
        "runs: replace it by this version, too, or remove it and name /usr/bin/dokkaa in the unit" >&2
fi
[ -d /run/systemd/system ] || exit 0
systemctl daemon-reload
[ "$1" != configure ] || [ -z "$2" ] || systemctl try-restart dokkaa.service || true
SCRIPT
cat >"$root/DEBIAN/prerm" <<'SCRIPT'
#!/bin/sh
set -e
[ "$1" = remove ] || exit 0
if [ -e /var/lib/dokkaa ]; then
    cat >&2 <<'TEXT'
dokkaa: its containers run on, and /var/lib/dokkaa stays, with the secrets in it. What removes them is this program, so
install the package again for it: `dokkaa dns uninstall`, and `dokkaa down --purge` where `dokkaa up` ran, `dokkaa leave`
on a host of a cluster. docs/upgrading.md, "Removing dokkaa", has all of it.
TEXT
fi
[ -d /run/systemd/system ] || exit 0
# A unit in its place is the administrator's.
[ ! -e /etc/systemd/system/dokkaa.service ] || exit 0
systemctl disable --now --quiet dokkaa.service || true
SCRIPT
cat >"$root/DEBIAN/postrm" <<'SCRIPT'
#!/bin/sh
set -e
[ "$1" = remove ] && [ -d /run/systemd/system ] || exit 0
systemctl daemon-reload
SCRIPT
chmod 755 "$root"/DEBIAN/{postinst,prerm,postrm}
dpkg-deb --root-owner-group -Zgzip --build "$root" "$out/dokkaa_${version}_$architecture.deb" >/dev/null
rm -rf "$root"
cp "$program" "$out/dokkaa"

# First all sums, then the file: a pipe would count it among them, or not.
sums=$(cd "$out" && sha256sum -- *)
tee "$out/SHA256SUMS" <<<"$sums"
say "
Install it with: apt-get install $out/dokkaa_${version}_$architecture.deb"
