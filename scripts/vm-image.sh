#!/usr/bin/env bash
# Makes the virtual machine of `make test-vm`: target/vm/{disk.img,vmlinuz,initrd}.
# A Debian 13 as its installer leaves it, with Docker, etcd and cloud-init.
set -euo pipefail
. "$(dirname "$0")/common.sh"
cd "$ROOT"

PACKAGES=(linux-image-cloud-amd64 initramfs-tools kmod systemd systemd-sysv
    systemd-resolved udev dbus openssh-server cloud-init curl iproute2 iptables
    docker.io docker-cli etcd-server etcd-client)

[ "$(id -u)" -eq 0 ] || exec sudo -E "$0" "$@"
folder=target/vm
# Made anew when this script is another one.
made=$(cat scripts/vm-image.sh scripts/debian-root.sh | sha256sum)
[ "$(cat $folder/made 2>/dev/null)" != "$made" ] || exit 0
say "Making the virtual machine's disk ($folder)"

root=$folder/root
rm -rf --one-file-system "$folder"
scripts/debian-root.sh trixie "$root" "${PACKAGES[@]}"
# The first start gives it a number of its own.
: >"$root/etc/machine-id"
echo debian >"$root/etc/hostname"
printf '127.0.0.1 localhost debian\n' >"$root/etc/hosts"
printf '/dev/vda / ext4 defaults 0 1\n' >"$root/etc/fstab"
# On a busy machine an emulated one starts slowly.
mkdir -p "$root/etc/systemd/system.conf.d"
printf '[Manager]\nDefaultTimeoutStartSec=10min\n' >"$root/etc/systemd/system.conf.d/slow.conf"
printf '[Match]\nName=e*\n\n[Network]\nDHCP=yes\n' >"$root/etc/systemd/network/80-dhcp.network"
ln -sf ../run/systemd/resolve/stub-resolv.conf "$root/etc/resolv.conf"
# Everything is installed: no mirror is asked from inside.
rm -f "$root"/etc/apt/sources.list "$root"/etc/apt/sources.list.d/*
printf 'ssh_deletekeys: false\n' >"$root/etc/cloud/cloud.cfg.d/90-keys.cfg"
# An emulated processor has better things to do.
chroot "$root" sh -ec '
    systemctl enable systemd-networkd systemd-resolved
    systemctl disable etcd
    systemctl mask apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer \
        e2scrub_all.timer e2scrub_reap.service fstrim.timer \
        getty@tty1.service serial-getty@ttyS0.service
    echo virtio_blk >>/etc/initramfs-tools/modules
    sed -i "s/^MODULES=.*/MODULES=list/" /etc/initramfs-tools/initramfs.conf
    update-initramfs -u' >>"$root.log" 2>&1 ||
    { tail -n 20 "$root.log" >&2; die "its root file system could not be set up"; }
# Its caches are new.
touch "$root/etc/.updated" "$root/var/.updated"
cp "$root"/boot/vmlinuz-* $folder/vmlinuz
cp "$root"/boot/initrd.img-* $folder/initrd
mkfs.ext4 -q -d "$root" $folder/disk.img 4G
rm -rf --one-file-system "$root"
printf '%s\n' "$made" >$folder/made
