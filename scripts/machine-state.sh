#!/usr/bin/env bash
# Prints what a program can leave behind on a machine, one thing a line, sorted:
# mounts, interfaces, namespaces, packet filter rules, cgroups, and with
# --processes processes too. Two of these are compared to see what is new.
set -euo pipefail
export LC_ALL=C

{
    awk '{ print "mount " $5 }' /proc/self/mountinfo
    for link in /sys/class/net/*; do printf 'interface %s\n' "${link##*/}"; done
    readlink /proc/[0-9]*/ns/* 2>/dev/null | sed 's/^/namespace /' || true
    for file in /run/netns/*; do [ ! -e "$file" ] || stat -c 'namespace %n %i' "$file"; done
    find /sys/fs/cgroup -type d -printf 'cgroup %p\n' 2>/dev/null || true
    for save in iptables-save ip6tables-save iptables-legacy-save ip6tables-legacy-save; do
        command -v $save >/dev/null 2>&1 || continue
        $save 2>/dev/null | sed -n -e '/^#/d' -e 's/ \[[0-9]*:[0-9]*\]$//' -e '/./s/^/rule /p'
    done
    if command -v nft >/dev/null 2>&1; then
        nft list tables 2>/dev/null | sed 's/^/nft /'
    fi
    if [ "${1:-}" = --processes ]; then
        for line in /proc/[0-9]*/cmdline; do
            words=$(tr '\0' ' ' <"$line" 2>/dev/null) || continue
            case $words in
            '' | *machine-state.sh*) ;;
            *) printf 'process %s\n' "$words" ;;
            esac
        done
    fi
} | sort -u
