#!/usr/bin/env bash
# Debian 13 with systemd, cgroup v2 and its own Docker Engine in a virtual
# machine: the package, `dokkaa up` under its unit, the example, a reboot; then a
# second machine that is set up by nothing but `dokkaa cloud-config`.
# shellcheck disable=SC2016  # expanded inside, not here
set -euo pipefail
. "$(dirname "$0")/common.sh"
cd "$ROOT"

scripts/setup.sh up vm

# kvm where the machine has one that works; emulation is slow and works anywhere.
processor=(-accel tcg,thread=multi -cpu max,la57=off)
[ "${VM_ACCEL:-}" != kvm ] || processor=(-accel kvm -cpu host)
image=$ROOT/target/vm
work=$(mktemp -d /var/tmp/dokkaa-vm.XXXXXX)
started=$SECONDS
machine=  # QEMU's process
console=  # what the machine writes to its serial line
port=     # of its sshd, on this machine
helpers=() # other processes of this test

note() { printf '=== %s (%d s)\n' "$*" $((SECONDS - started)); }

cleanup() {
    local status=$?
    set +e
    trap - EXIT
    if [ $status -ne 0 ] && [ -n "$machine" ]; then
        tail -n 20 "$console"
        login -o ConnectTimeout=60 -o ServerAliveInterval=30 'systemctl --failed --no-legend
            journalctl -u dokkaa -n 40 --no-pager -o cat; dokkaa ps -o wide'
    fi
    end_machine
    [ ${#helpers[@]} -eq 0 ] || kill "${helpers[@]}" 2>/dev/null
    wait
    rm -rf "$work"
    exit $status
}
trap cleanup EXIT
trap 'exit 130' INT TERM HUP

# === the machine ===

free_port() {
    local port
    while port=$(shuf -n 1 -i 33000-60000); do
        [ -n "$(ss -Hltn "sport = :$port")" ] || break
    done
    printf '%s\n' "$port"
}

# Ends with this script, whatever ends that.
background() { setpriv --pdeathsig KILL nice -n 5 "$@" & }

# start_machine NAME [QEMU ARGUMENT …]: on a throw-away copy of the image. The
# key is handed over as one of systemd's credentials.
start_machine() {
    local name=$1 key
    shift
    console=$work/$name.console
    key=$(base64 -w0 "$work/key.pub")
    port=$(free_port)
    TMPDIR=$work background qemu-system-x86_64 -name "$name" -nodefaults -nographic \
        "${processor[@]}" -smp 2 -m 2048 \
        -kernel "$image/vmlinuz" -initrd "$image/initrd" \
        -append "root=/dev/vda rw console=ttyS0 loglevel=4 systemd.show_status=error mitigations=off nokaslr panic=-1" \
        -smbios "type=11,value=io.systemd.credential.binary:ssh.authorized_keys.root=$key" \
        -drive "file=$image/disk.img,format=raw,if=virtio,cache=unsafe,snapshot=on" \
        -netdev "user,id=net,hostfwd=tcp:127.0.0.1:$port-:22" \
        -device virtio-net-pci,netdev=net,romfile= \
        -device virtio-rng-pci -serial "file:$console" "$@" \
        </dev/null >"$work/$name.qemu" 2>&1
    machine=$!
    answers true
}

end_machine() {
    [ -n "$machine" ] || return 0
    hang_up
    kill "$machine" 2>/dev/null || true
    wait "$machine" 2>/dev/null || true
    machine=
}

login() { # [ssh option …] COMMAND
    ssh -F none -i "$work/key" -p "$port" -o StrictHostKeyChecking=no \
        -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR -o BatchMode=yes \
        root@127.0.0.1 "$@"
}

# vm COMMAND: runs it inside, as root, over one connection for all.
vm() {
    login -o ControlMaster=auto -o ControlPath="$work/ssh" -o ControlPersist=yes "set -eu; $1"
}

hang_up() { login -o ControlPath="$work/ssh" -O exit 2>/dev/null || true; }

# answers COMMAND: waits until it can be logged in to and the command succeeds.
answers() {
    local end=$((SECONDS + 1800))
    until login -o ConnectTimeout=180 -o ServerAliveInterval=60 "$1" 2>/dev/null; do
        kill -0 "$machine" 2>/dev/null || { cat "$work"/*.qemu; die "QEMU has ended"; }
        [ $SECONDS -lt $end ] || die "the machine does not answer"
        sleep 0.5
    done
}

# within SECONDS COMMAND: waits until it succeeds inside.
within() {
    vm "end=\$((\$(date +%s) + $1)); until { $2; } >/tmp/said 2>&1; do
            [ \$(date +%s) -lt \$end ] || { cat /tmp/said; exit 1; }
            sleep 0.3
        done" || die "not within $1 s: $2"
}

OUT=$work/packages scripts/dist.sh
package=$(echo "$work"/packages/dokkaa_*.deb)

ssh-keygen -q -t ed25519 -N '' -f "$work/key"
# An image of busybox, for what the example does not have.
mkdir -p "$work/image/bin" "$work/image/www"
cp "$(command -v busybox)" "$work/image/bin/busybox"
is_static "$work/image/bin/busybox" || die "busybox is not static: apt-get install busybox-static"
for applet in cat httpd nslookup sh sleep tail test touch; do
    ln -s busybox "$work/image/bin/$applet"
done
echo '<title>lab</title>' >"$work/image/www/index.html"
tar -C "$work/image" -cf "$work/busybox.tar" .

# === dokkaa up ===

note "starting a Debian 13"
start_machine first
note "it answers; installing the package"
within 600 'docker version >/dev/null'
vm '[ "$(stat -fc %T /sys/fs/cgroup)" = cgroup2fs ]
    [ "$(docker info -f "{{.CgroupVersion}} {{.CgroupDriver}}")" = "2 systemd" ]'
vm 'cat >/tmp/dokkaa.deb' <"$package"
vm 'dpkg -i /tmp/dokkaa.deb'

# === the example, limits and readiness ===

note "the example"
# No registry answers, so that the result depends on none.
vm 'echo 127.0.0.1 registry-1.docker.io >>/etc/hosts
    dokkaa up --example
    systemctl is-active dokkaa && systemctl is-enabled dokkaa
    dokkaa hosts'
page='curl -fsS "http://$(docker port hello---web 80/tcp)" | grep -q "<title>"'
crawled='dokkaa logs --since 10s hello/crawler | grep -q "<title>"'

note "a health check, a volume and a memory limit"
vm 'docker import - dokkaa.example/busybox:test' <"$work/busybox.tar"
vm 'dokkaa apply lab/data -' <<'END'
{"image": "dokkaa.example/busybox:test", "pull": "never", "stop_signal": "SIGKILL",
 "command": ["/bin/sh", "-c", "cat /sys/fs/cgroup/memory.max; sleep 1000000"],
 "memory": "48m", "volumes": ["data:/data"],
 "healthcheck": {"command": ["/bin/test", "-e", "/data/well"], "interval": "1s"}}
END
within 180 'dokkaa ps lab/data | grep -q unready'
vm 'docker exec lab---data touch /data/well'
within 180 'dokkaa ps lab/data | grep -qw ready'
vm 'dokkaa logs lab/data | grep -qw 50331648
    id=$(docker inspect -f "{{.Id}}" lab---data)
    [ "$(systemctl show -P MemoryMax docker-$id.scope)" = 50331648 ]'
vm 'dokkaa apply lab/hungry -' <<'END'
{"image": "dokkaa.example/busybox:test", "pull": "never",
 "command": ["/bin/tail", "/dev/zero"], "memory": "16m"}
END
# Engines don't always notice it with cgroup v2.
within 180 'dokkaa why lab/hungry | grep "out of memory (limit 16m)"'
vm 'dokkaa rm lab/hungry --yes'

# === a restart of the agent ===

note "a restart of the agent"
vm 'stored() { systemctl show -P NFileDescriptorStore dokkaa; }
    before=$(stored)
    [ "$before" -gt 0 ]
    systemctl restart dokkaa
    journalctl -u dokkaa -o cat | grep "took over the agent.s sockets"
    [ "$(stored)" = "$before" ]'

# === the machine's own names, and its packet filter ===

note "names by systemd-resolved"
vm 'dokkaa dns install'
named='[ "$(getent ahostsv4 web.hello.skydns.local | head -n 1 | cut -d" " -f1)" = 172.17.0.1 ]'
within 180 "$named"
vm 'resolvectl query web.hello.skydns.local
    resolvectl query --type=SRV web.hello.skydns.local
    if resolvectl query nothing.hello.skydns.local; then exit 1; fi'
# Other names go to the resolvers behind the stub, not back to it.
vm 'docker exec lab---data nslookup -type=a example.org. 172.17.0.1 || true'
vm 'journalctl -u dokkaa -o cat | grep "forwarding external DNS queries" | tail -n 1 |
    grep -F 10.0.2.3:53 | grep -vF 172.17.0.1'

note "the packet filter"
filtered='iptables -S DOKKAA | grep -q -- -A && iptables -S DOCKER-USER | grep -q DOKKAA'
vm "iptables -S DOKKAA; $filtered"

# === a reboot ===

vm 'docker ps --no-trunc --format "{{.Names}} {{.ID}}" | sort' >"$work/containers"
vm 'cat /proc/sys/kernel/random/boot_id' >"$work/boot"
note "restarting the machine"
vm 'systemctl reboot' || true
hang_up
answers "[ \$(cat /proc/sys/kernel/random/boot_id) != $(cat "$work/boot") ]"
note "it answers again"
# Until the agent has looked, etcd says what was before.
within 600 '[ "$(docker ps -q | wc -l)" = 3 ] && [ "$(dokkaa ps -o json | grep -oE "\"status\": ?\"ready\"" | wc -l)" = 3 ]'
note "everything runs again, $(vm 'cut -d. -f1 /proc/uptime') s after the start"
vm 'docker ps --no-trunc --format "{{.Names}} {{.ID}}" | sort' | diff "$work/containers" - ||
    die "other containers than before"
vm 'docker exec lab---data test -e /data/well'
vm "$page; $filtered"
within 180 "$crawled"
within 180 "$named"
vm 'if journalctl -u dokkaa --no-pager -o cat | grep panicked; then exit 1; fi'
end_machine

# === a machine set up by its user data ===

# What the user data refers to, at QEMU's address of this machine.
mkdir -p "$work/files" "$work/seed"
cp "$work/packages/dokkaa" "$work/files/dokkaa"
files=$(free_port)
background busybox httpd -f -p "127.0.0.1:$files" -h "$work/files"
helpers+=($!)
background etcd --data-dir "$work/etcd" --enable-v2 \
    --listen-client-urls http://127.0.0.1:0 --advertise-client-urls http://127.0.0.1:0 \
    --listen-peer-urls http://127.0.0.1:0 --initial-advertise-peer-urls http://127.0.0.1:0 \
    --initial-cluster default=http://127.0.0.1:0 >"$work/etcd.log" 2>&1
helpers+=($!)
discovery=
for _ in $(seq 100); do
    discovery=$(sed -n 's/.*serving.* client .* on \(127\.0\.0\.1:[0-9]*\).*/\1/p; s/.*"address":"\(127\.0\.0\.1:[0-9]*\)".*/\1/p' "$work/etcd.log" | tail -n 1)
    [ -z "$discovery" ] || break
    sleep 0.1
done
[ -n "$discovery" ] || { cat "$work/etcd.log"; die "etcd does not start"; }
curl -fsS -X PUT "http://$discovery/v2/keys/discovery/test/_config/size" -d value=1 >/dev/null
"$work/files/dokkaa" cloud-config --format cloud-init \
    --discovery "http://10.0.2.2:${discovery#*:}/v2/keys/discovery/test" \
    --binary-url "http://10.0.2.2:$files/dokkaa" \
    --binary-sha256 "$(sha256sum <"$work/files/dokkaa" | cut -d' ' -f1)" \
    -- --label=zone=a >"$work/seed/user-data"
printf 'instance-id: second\nlocal-hostname: second\n' >"$work/seed/meta-data"
genisoimage -quiet -volid cidata -joliet -rock -o "$work/seed.iso" "$work/seed"

note "starting a machine with the user data of dokkaa cloud-config"
start_machine second -drive "file=$work/seed.iso,format=raw,if=virtio,readonly=on"
note "it answers"
# Its result counts modules that have nothing to do with the user data, too.
vm 'cloud-init status --wait --long || true'
within 600 'systemctl is-active dokkaa'
note "the agent runs"
within 180 'dokkaa hosts | grep -E "^second +up"'
vm 'dokkaa hosts -o wide; dokkaa status; systemctl is-active etcd'
vm 'docker import - dokkaa.example/busybox:test' <"$work/busybox.tar"
vm 'dokkaa apply lab/web - --wait' <<'END'
{"image": "dokkaa.example/busybox:test", "pull": "never", "services": {"web": 80},
 "command": ["/bin/httpd", "-f", "-p", "80", "-h", "/www"]}
END
vm 'curl -fsS "http://$(docker port lab---web 80/tcp)" | grep -q "<title>"'
end_machine
note "the virtual machines worked"
echo "1 passed, 0 failed"
