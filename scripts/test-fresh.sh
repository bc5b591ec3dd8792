#!/usr/bin/env bash
# `make up` and `make down PURGE=1` from a clean clone in a fresh Debian 12: a
# debootstrap root with namespaces and control groups of its own.
# Afterwards nothing is there that was not there before, neither inside nor on
# this machine. It tests the last commit, not the work tree.
# shellcheck disable=SC2016  # expanded inside, not here
set -euo pipefail
. "$(dirname "$0")/common.sh"
cd "$ROOT"

[ "$(id -u)" -eq 0 ] || exec sudo -E "$0" "$@"
scripts/setup.sh fresh

suite=bookworm
mirror=http://deb.debian.org/debian
cache=${XDG_CACHE_HOME:-$HOME/.cache}/dokkaa
base=$cache/debian-$suite.tar
name=dkf$$ # also of the interfaces: at most 15 characters
work=$(mktemp -d /var/tmp/dokkaa-fresh.XXXXXX)
root=$work/root
first= # the first process of the namespaces, seen from here
groups=() # its control groups
started=$SECONDS

# A network of four addresses that nothing here uses.
net=
for third in $(seq 10 250 | shuf); do
    net=10.97.$third
    ip -4 route show to match "$net.1" | grep -qv '^default' || break
done

note() { printf '=== %s (%d s)\n' "$*" $((SECONDS - started)); }

accept() { # -I or -D
    iptables "$1" FORWARD -i "${name}a" -j ACCEPT
    iptables "$1" FORWARD -o "${name}a" -j ACCEPT
    iptables -t nat "$1" POSTROUTING -s "$net.0/30" ! -o "${name}a" -j MASQUERADE
}

cleanup() {
    set +e
    [ -z "$first" ] || { kill -KILL "$first" && wait "$unshared"; } 2>/dev/null
    accept -D 2>/dev/null
    ip link delete "${name}a" 2>/dev/null
    ip netns delete "$name" 2>/dev/null
    # The first `ip netns add` of a machine mounts it.
    [ -z "$mounts_netns" ] || { umount /run/netns && rmdir /run/netns; } 2>/dev/null
    for group in "${groups[@]}"; do
        find "$group" -depth -type d -exec rmdir {} \; 2>/dev/null
    done
    groups=()
    [ -z "$forwarding" ] || echo "$forwarding" >/proc/sys/net/ipv4/ip_forward
    rm -rf --one-file-system "$root"
}

forwarding=
mounts_netns=1
! mountpoint -q /run/netns || mounts_netns=
scripts/machine-state.sh >"$work/before"
trap 'cleanup; rm -rf "$work"' EXIT
trap 'exit 130' INT TERM HUP

# === the fresh machine ===

if [ ! -e "$base" ]; then
    note "debootstrap $suite"
    mkdir -p "$cache"
    debootstrap --variant=minbase --include=ca-certificates,git,make \
        $suite "$work/base" $mirror >"$work/debootstrap.log" 2>&1 ||
        { tail -n 20 "$work/debootstrap.log"; die "debootstrap failed"; }
    tar -C "$work/base" -cf "$base.$$" .
    mv "$base.$$" "$base"
    rm -rf "$work/base"
fi
note "unpacking $base"
mkdir "$root"
tar -C "$root" -xf "$base"
# The sources that Debian's installer writes.
cat >"$root/etc/apt/sources.list" <<EOF
deb $mirror $suite main
deb $mirror $suite-updates main
deb ${mirror%/debian}/debian-security $suite-security main
EOF
cp -L /etc/resolv.conf "$root/etc/resolv.conf"
# What this machine trusts and what cargo has fetched already; neither is needed
# where the registries are reached directly.
if [ -d /usr/local/share/ca-certificates ]; then
    cp -a /usr/local/share/ca-certificates/. "$root/usr/local/share/ca-certificates/"
fi
registry=${CARGO_HOME:-$HOME/.cargo}/registry
if [ -d "$registry/cache" ]; then
    mkdir -p "$root/root/.cargo/registry"
    cp -a "$registry/cache" "$registry/index" "$root/root/.cargo/registry/"
fi
git clone -q --no-hardlinks "$ROOT" "$root/root/dokkaa"

# === its namespaces ===

ip netns add "$name"
ip link add "${name}a" type veth peer name "${name}b" netns "$name"
ip addr add "$net.1/30" dev "${name}a"
ip link set "${name}a" up
ip -n "$name" addr add "$net.2/30" dev "${name}b"
ip -n "$name" link set "${name}b" up
ip -n "$name" link set lo up
ip -n "$name" route add default via "$net.1"
accept -I
if [ "$(cat /proc/sys/net/ipv4/ip_forward)" != 1 ]; then
    forwarding=0
    echo 1 >/proc/sys/net/ipv4/ip_forward
fi

# Control groups of its own, in every hierarchy of this machine.
while read -r _ hierarchy type _; do
    case $type in cgroup | cgroup2) ;; *) continue ;; esac
    group=$hierarchy/$name
    mkdir "$group"
    groups+=("$group")
    for setting in cpuset.cpus cpuset.mems; do
        [ ! -e "$hierarchy/$setting" ] || cat "$hierarchy/$setting" >"$group/$setting"
    done
done </proc/mounts
join_groups() {
    local group
    for group in "${groups[@]}"; do
        # With version 2 a group with groups below has no processes of its own.
        [ ! -d "$group/init" ] || group=$group/init
        echo "$BASHPID" >"$group/cgroup.procs"
    done
}

cat >"$work/inside" <<'INSIDE'
#!/bin/bash
# The first process of the fresh machine: mounts, collects orphans, and waits to
# be killed.
set -e
root=$1
hostname fresh
mount --make-rprivate /
mount --rbind "$root" "$root"
mount -t proc proc "$root/proc"
mount -t sysfs sysfs "$root/sys"
if [ "$(stat -fc %T /sys/fs/cgroup)" = cgroup2fs ]; then
    mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
    mkdir "$root/sys/fs/cgroup/init"
    echo 0 >"$root/sys/fs/cgroup/init/cgroup.procs"
else
    mount -t tmpfs tmpfs "$root/sys/fs/cgroup"
    # One that the machine has not mounted (its hierarchy is 0) can't be mounted from here.
    while read -r controller hierarchy _ enabled; do
        [ "$enabled" = 1 ] && [ "$hierarchy" != 0 ] || continue
        mkdir "$root/sys/fs/cgroup/$controller"
        mount -t cgroup -o "$controller" cgroup "$root/sys/fs/cgroup/$controller"
    done < <(tail -n +2 /proc/cgroups)
fi
mount --rbind /dev "$root/dev"
mount -t tmpfs tmpfs "$root/run"
mkdir "$root/run/lock"
touch "$2"
exec chroot "$root" bash -c 'sleep infinity & wait'
INSIDE
(
    join_groups
    exec nsenter --net="/run/netns/$name" \
        unshare --mount --pid --fork --uts --ipc --cgroup --kill-child \
        bash "$work/inside" "$root" "$work/ready"
) &
unshared=$!
until [ -e "$work/ready" ]; do
    kill -0 "$unshared" 2>/dev/null || die "the namespaces could not be made"
    sleep 0.1
done
first=$(pgrep -P "$unshared")

# Runs a script inside, with the environment of somebody who has just logged in.
inside() {
    (
        join_groups
        exec nsenter --target "$first" --mount --pid --net --uts --ipc --cgroup --root \
            --wdns=/root/dokkaa env -i HOME=/root LANG=C.UTF-8 TERM=dumb \
            PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
            CARGO_TERM_COLOR=never CARGO_PROFILE_DEV_DEBUG=0 CARGO_INCREMENTAL=0 \
            ${https_proxy:+https_proxy="$https_proxy"} ${http_proxy:+http_proxy="$http_proxy"} \
            bash -euo pipefail -c "$1"
    ) &
    # In the background, so that a signal ends the wait and cleans up.
    wait $!
}

# === make up, twice, and make down ===

inside 'update-ca-certificates >/dev/null 2>&1'
note "setup"
inside 'scripts/setup.sh up
    ! [ -e /usr/sbin/policy-rc.d ] || { echo "policy-rc.d was left"; exit 1; }
    ! pgrep -x etcd >/dev/null 2>&1 || { echo "a service was started"; exit 1; }
    # An engine that has run a container before keeps the group above it.
    tar -c --files-from /dev/null | docker import - nothing >/dev/null
    docker run --rm nothing /nothing >/dev/null 2>&1 || true
    docker rmi nothing >/dev/null
    scripts/machine-state.sh --processes >/root/before'
note "make up"
inside 'make up PROFILE=dev 2>&1 | tee /root/up.log
    url=$(sed -n "s/^The example runs: //p" /root/up.log)
    curl -fsS "$url" | grep -q "<title>"
    . scripts/common.sh
    is_static /usr/local/bin/dokkaa || die "the program is not static"
    cut -d" " -f1 /var/lib/dokkaa/up.pid >/root/agent
    docker ps -q | sort >/root/containers
    [ "$(wc -l </root/containers)" = 2 ]'
note "make up again: the same agent and containers"
inside 'make up PROFILE=dev
    [ "$(cut -d" " -f1 /var/lib/dokkaa/up.pid)" = "$(cat /root/agent)" ]
    docker ps -q | sort | cmp - /root/containers'
note "make up with another program: a new agent, the same containers"
inside 'printf x >>/usr/local/bin/dokkaa.changed
    cat /usr/local/bin/dokkaa /usr/local/bin/dokkaa.changed >/usr/local/bin/dokkaa.new
    chmod 755 /usr/local/bin/dokkaa.new
    rm /usr/local/bin/dokkaa.changed
    mv /usr/local/bin/dokkaa.new /usr/local/bin/dokkaa
    make up PROFILE=dev
    [ "$(cut -d" " -f1 /var/lib/dokkaa/up.pid)" != "$(cat /root/agent)" ]
    docker ps -q | sort | cmp - /root/containers'
note "make down, make up: everything is back"
inside 'make down
    [ -z "$(docker ps -aq)" ]
    make up PROFILE=dev'
note "make down PURGE=1"
inside 'id=$(sed -n "s/.*\"id\": *\"\([0-9a-f-]*\)\".*/\1/p" /var/lib/dokkaa/cluster.json)
    docker volume create --label "dokkaa.cluster=$id" hello---db---0---data
    make down PURGE=1 | tee /root/down
    [ -z "$(docker ps -aq)" ]
    ! [ -e /var/lib/dokkaa ] || { echo "the state is still there"; exit 1; }
    grep "VOLUMES=1 make down removes them.*hello---db---0---data" /root/down
    grep "Left installed" /root/down
    VOLUMES=1 make down
    [ -z "$(docker volume ls -q)" ]
    for _ in $(seq 100); do
        scripts/machine-state.sh --processes >/root/after
        new=$(LC_ALL=C comm -13 /root/before /root/after)
        [ -n "$new" ] || exit 0
        sleep 0.1
    done
    echo "left behind inside:"; echo "$new"; exit 1'

# === nothing is left on this machine either ===

note "ending the fresh machine"
inside 'service docker stop >/dev/null 2>&1 || true
    pid=$(cat /run/docker.pid 2>/dev/null) || exit 0
    kill "$pid"
    while [ -e "/proc/$pid" ]; do sleep 0.1; done'
cleanup
first=
for _ in $(seq 100); do
    scripts/machine-state.sh >"$work/after"
    new=$(LC_ALL=C comm -13 "$work/before" "$work/after")
    [ -n "$new" ] || break
    sleep 0.1
done
[ -z "$new" ] || { printf '%s\n' "$new"; die "left behind on this machine"; }
for exe in /proc/[0-9]*/exe; do
    case $(readlink "$exe" || true) in
    "$work"/*) die "still running: $exe" ;;
    esac
done
note "make up and make down leave nothing behind"
echo "1 passed, 0 failed"
