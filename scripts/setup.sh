#!/usr/bin/env bash
# Installs what is missing, and says so first: setup.sh up|test|bench|matrix|fresh|fuzz|vm …
#
#   up       what `make up` needs: Docker Engine, etcd, protobuf compiler, Rust
#   test     besides, what the tests use, with the newest Docker and etcd of Debian
#   bench    besides, the name servers that `make bench` compares with
#   matrix   besides, with Docker between that and the machine's own
#   fresh    besides, what `make test-fresh` uses
#   fuzz     besides, what `make fuzz` uses
#   vm       besides, what `make test-vm` uses, and its virtual machine
#   --plan only says what it would do
#
# Packages come from the distribution. No service is started or enabled by an
# install; only the Docker Engine is started, if none answers afterwards.
set -euo pipefail
. "$(dirname "$0")/common.sh"

plan_only=
goals=()
for word in "$@"; do
    case $word in
    --plan) plan_only=1 ;;
    up | test | bench | matrix | fresh | fuzz | vm) goals+=("$word") ;;
    *) die "unknown goal $word (up, test, bench, matrix, fresh, fuzz, vm, --plan)" ;;
    esac
done
[ ${#goals[@]} -gt 0 ] || goals=(up)
has_goal() { [[ " ${goals[*]} " == *" $1 "* ]]; }

# Programs by the package that brings them, `program:package`, for every goal.
BUILD=(cc:gcc make:make git:git protoc:protobuf-compiler curl:curl)
UP=(etcd:etcd-server etcdctl:etcd-client)
TEST=(busybox:busybox-static dig:bind9-dnsutils kdig:knot-dnsutils ip:iproute2 iptables:iptables nft:nftables
    nsenter:util-linux setpriv:util-linux openssl:openssl
    musl-gcc:musl-tools systemd-analyze:systemd htpasswd:apache2-utils nginx:nginx-light
    docker-registry:docker-registry cloud-init:cloud-init promtool:prometheus)
BENCH=(unbound:unbound knotd:knot)
FUZZ=(g++:g++)
FRESH=(debootstrap:debootstrap ip:iproute2 iptables:iptables)
VM=(qemu-system-x86_64:qemu-system-x86 debootstrap:debootstrap mkfs.ext4:e2fsprogs
    genisoimage:genisoimage ssh:openssh-client ss:iproute2 setpriv:util-linux
    busybox:busybox-static)
# What has no program to look for.
BUILD_PACKAGES=(libc6-dev libprotobuf-dev ca-certificates)
# The signatures of ROOTS.
TEST_PACKAGES=(debian-archive-keyring)
# Debian's suites whose Docker and etcd are unpacked into target/roots, by goal:
# as what `make test` runs on besides the machine's own, and `make matrix` too.
declare -A ROOTS=([test]=sid [matrix]=trixie)
# A client that tests drive, where the distribution still has it.
CLIENT=python3-etcd
# Only unpacked, into target/tools: installed, one would change how a machine
# boots, the other would start a server.
UNPACKED=" cloud-init prometheus "
# What cloud-init loads at run time; harmless to install.
UNPACKED_NEED=(python3-configobj python3-jinja2 python3-jsonpatch
    python3-jsonschema python3-netifaces python3-oauthlib python3-requests
    python3-yaml)
# Packages whose service the install enables, though nobody wants it here.
SERVICES=(etcd-server:etcd nginx-light:nginx docker-registry:docker-registry
    unbound:unbound knot:knot)

# === what is missing ===

installed() { dpkg-query -W -f '${Status}' "$1" 2>/dev/null | grep -q 'ok installed'; }

available() {
    local found
    found=$(apt-cache policy "$1" 2>/dev/null | sed -n 's/^  Candidate: //p')
    [ -n "$found" ] && [ "$found" != "(none)" ]
}

candidate_version() {
    apt-cache policy "$1" 2>/dev/null | sed -n 's/^  Candidate: //p'
}

# `at_least 1.89 1.95.0`: is the second version the first or newer?
at_least() { [ "$(printf '%s\n%s\n' "$1" "$2" | sort -V | head -n1)" = "$1" ]; }

# The Docker Engine that answers here, asked as whoever may ask it.
engine_answers() {
    command -v docker >/dev/null 2>&1 || return 1
    docker version >/dev/null 2>&1 || as_root docker version >/dev/null 2>&1
}

wanted_rust=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$ROOT/Cargo.toml")
rust_is_new_enough() {
    local cargo rustc
    cargo=$(cargo --version 2>/dev/null | cut -d' ' -f2) || return 1
    rustc=$(rustc --version 2>/dev/null | cut -d' ' -f2) || return 1
    [ -n "$cargo" ] && [ -n "$rustc" ] &&
        at_least "$wanted_rust" "$cargo" && at_least "$wanted_rust" "$rustc"
}

packages=() # to install
unpacked=() # to unpack into target/tools
roots=()    # suites to unpack into target/roots
notes=()    # what else will be done
rust_from=
start_docker=

need() { # program:package …
    local pair program package
    for pair in "$@"; do
        program=${pair%%:*} package=${pair#*:}
        command -v "$program" >/dev/null 2>&1 && continue
        if [[ $UNPACKED == *" $package "* ]]; then
            [ -e "$ROOT/target/tools/.$package" ] || unpacked+=("$package")
        else
            packages+=("$package")
        fi
    done
}

look() {
    packages=() unpacked=() roots=() notes=() rust_from='' start_docker=''
    need "${BUILD[@]}" "${UP[@]}"
    local package
    for package in "${BUILD_PACKAGES[@]}"; do
        installed "$package" || packages+=("$package")
    done
    if has_goal test; then
        need "${TEST[@]}"
        for package in "${TEST_PACKAGES[@]}"; do
            installed "$package" || packages+=("$package")
        done
        if ! installed $CLIENT && available $CLIENT; then packages+=($CLIENT); fi
        [[ " ${unpacked[*]} " != *" cloud-init "* ]] || for package in "${UNPACKED_NEED[@]}"; do
            installed "$package" || packages+=("$package")
        done
    fi
    if has_goal bench; then need "${BENCH[@]}"; fi
    local goal
    for goal in "${!ROOTS[@]}"; do
        if has_goal "$goal" && [ ! -d "$ROOT/target/roots/${ROOTS[$goal]}" ]; then
            roots+=("${ROOTS[$goal]}")
        fi
    done
    if has_goal fresh; then need "${FRESH[@]}"; fi
    if has_goal fuzz; then need "${FUZZ[@]}"; fi
    if has_goal vm; then need "${VM[@]}"; fi

    if ! engine_answers; then
        start_docker=1
        if ! command -v dockerd >/dev/null 2>&1; then
            packages+=(docker.io)
            notes+=("start the Docker Engine")
        fi
        # The engine's own packages stop at the client on newer releases.
        if ! command -v docker >/dev/null 2>&1 && available docker-cli; then
            packages+=(docker-cli)
        fi
        # Where the kernel has AppArmor, Docker needs its parser.
        if grep -qs Y /sys/module/apparmor/parameters/enabled &&
            ! command -v apparmor_parser >/dev/null 2>&1; then
            packages+=(apparmor)
        fi
    fi

    if ! rust_is_new_enough; then
        local pair cargo_package
        for pair in cargo:rustc cargo-web:rustc-web; do
            cargo_package=${pair%%:*}
            if available "$cargo_package" && at_least "$wanted_rust" \
                "$(distribution_rust "${pair#*:}")"; then
                packages+=("${pair#*:}" "$cargo_package")
                rust_from=distribution
                break
            fi
        done
        if [ -z "$rust_from" ]; then
            rust_from=rustup
            notes+=("install Rust for $(id -un) with rustup: $rustup_command")
        fi
    fi
}
rustup_command="installer=\$(mktemp) && curl --proto '=https' --tlsv1.2 -sSf -o \"\$installer\" https://sh.rustup.rs && sh \"\$installer\" -y --profile minimal"

# The upstream version of the distribution's compiler, without epoch and suffix.
distribution_rust() { candidate_version "$1" | sed 's/^[0-9]*://; s/[^0-9.].*//'; }

# === doing it ===

policy=/usr/sbin/policy-rc.d
policy_mark="# dokkaa setup: refuses service starts during an install"

# While this file answers 101, packages start no service.
refuse_service_starts() {
    restore_policy # what a killed run left behind
    if [ -e $policy ]; then as_root mv $policy $policy.before-dokkaa; fi
    printf '#!/bin/sh\n%s\nexit 101\n' "$policy_mark" | as_root tee $policy >/dev/null
    as_root chmod 755 $policy
}

restore_policy() {
    if grep -qsF "$policy_mark" $policy; then as_root rm -f $policy; fi
    if [ -e $policy.before-dokkaa ]; then as_root mv $policy.before-dokkaa $policy; fi
}

apt_install() {
    local removed
    removed=$(apt-get install -s --no-install-recommends "$@" 2>/dev/null |
        sed -n 's/^Remv \([^ ]*\).*/\1/p') || true
    [ -z "$removed" ] || say "Removing, as they conflict with these: ${removed//$'\n'/ }"
    refuse_service_starts
    trap restore_policy EXIT
    trap 'exit 130' INT TERM HUP
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq \
        --no-install-recommends "$@" >"$log" 2>&1 </dev/null ||
        { tail -n 20 "$log" >&2; die "apt-get install failed (whole log: $log)"; }
    restore_policy
    trap - EXIT INT TERM HUP
    local pair
    for pair in "${SERVICES[@]}"; do
        [[ " $* " == *" ${pair%%:*} "* ]] || continue
        if systemd_runs; then
            as_root systemctl disable -q "${pair#*:}" || true
        else
            as_root update-rc.d "${pair#*:}" disable >/dev/null 2>&1 || true
        fi
    done
}

# Lays the files of packages under target/tools, without their dependencies.
unpack() {
    local tools=$ROOT/target/tools work package
    mkdir -p "$tools"
    work=$(mktemp -d)
    for package in "$@"; do
        (cd "$work" && apt-get download -qq "$package" >"$log" 2>&1) ||
            { tail -n 20 "$log" >&2; die "apt-get download $package failed"; }
        dpkg-deb -x "$work/$package"_*.deb "$tools"
        touch "$tools/.$package"
    done
    rm -rf "$work"
}

# Each suite of `roots` at the same time.
unpack_roots() {
    local suite job jobs=()
    for suite in "$@"; do
        "$ROOT/scripts/engine-root.sh" "$suite" &
        jobs+=($!)
    done
    for job in "${jobs[@]}"; do wait "$job" || exit 1; done
}

engine_answers_within() { # seconds
    local _
    for _ in $(seq $(($1 * 5))); do
        if engine_answers; then return; fi
        sleep 0.2
    done
    return 1
}

start_engine() {
    if systemd_runs; then
        as_root systemctl enable --now -q docker
    elif ! as_root service docker start >"$log" 2>&1; then
        # Some machines without systemd refuse what the service's script asks
        # for, such as higher limits.
        say "The docker service does not start ($(tail -n1 "$log")); starting dockerd itself"
        as_root sh -c 'setsid dockerd >>/var/log/docker.log 2>&1 </dev/null &'
    fi
    engine_answers_within 60 ||
        die "the Docker Engine does not answer; its log: /var/log/docker.log or journalctl -u docker"
}

command -v apt-get >/dev/null 2>&1 ||
    die "this needs Debian or Ubuntu; elsewhere install by hand: Docker Engine, etcd, protobuf compiler and headers, a C compiler, Rust $wanted_rust"

log=$(mktemp)
look
if [ ${#packages[@]} -gt 0 ] || [ ${#unpacked[@]} -gt 0 ] || [ -n "$rust_from" ]; then
    # What can be had is known only with current lists.
    [ -n "$plan_only" ] || as_root apt-get update -qq >"$log" 2>&1 ||
        say "apt-get update failed, going on with the lists that are here"
    look
    [ ${#packages[@]} -eq 0 ] || say "Installing with apt-get: ${packages[*]}"
    [ ${#unpacked[@]} -eq 0 ] || say "Unpacking into target/tools: ${unpacked[*]}"
fi
[ ${#roots[@]} -eq 0 ] || say "Unpacking Docker and etcd of Debian ${roots[*]} into target/roots"
for note in ${notes[@]+"${notes[@]}"}; do say "Going to $note"; done
if [ -n "$plan_only" ]; then
    rm -f "$log"
    exit 0
fi
[ ${#packages[@]} -eq 0 ] || apt_install "${packages[@]}"
[ ${#unpacked[@]} -eq 0 ] || unpack "${unpacked[@]}"
[ ${#roots[@]} -eq 0 ] || unpack_roots "${roots[@]}"
if [ "$rust_from" = rustup ]; then
    sh -c "$rustup_command" >"$log" 2>&1 || { tail -n 20 "$log" >&2; die "rustup failed"; }
fi
[ -z "$start_docker" ] || start_engine
rm -f "$log"
! has_goal vm || "$ROOT/scripts/vm-image.sh"
rust_is_new_enough || die "cargo and rustc $wanted_rust or newer are needed; found: $(cargo --version 2>&1 | head -n1)"
