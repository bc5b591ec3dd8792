# The first process of a node: arguments are its name, its folder, its address
# and, if its programs are not the machine's, the root that they are in. It makes the mounts, says its process id, and lives until its input
# ends, that is, as long as the harness lives. As process 1 of its namespace
# it takes every process of the node with it, and, as a shell that waits, it
# collects the orphans of dockerd.
set -e
read -r pid rest </proc/self/stat
mount --make-rprivate /
mount -t proc proc /proc
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/lock /run/over
# Programs and libraries of a newer release before those of the machine, which
# has the rest.
if [ -n "$4" ]; then
    mount -t overlay overlay -o "lowerdir=$4/usr:/usr" /usr
fi
# Its own /etc, /root, /var and /usr/local over those of the machine.
for folder in etc root var usr/local; do
    mkdir -p "/run/over/$folder/upper" "/run/over/$folder/work"
    mount -t overlay overlay \
        -o "lowerdir=/$folder,upperdir=/run/over/$folder/upper,workdir=/run/over/$folder/work" \
        "/$folder"
done
if [ -n "$4" ]; then
    # What the machine has in /usr/local is not newer.
    (cd "$4/usr" && find bin sbin ! -type d) | sed 's,^,/usr/local/,' | xargs rm -f
fi
hostname "$1"
echo "$1" >/etc/hostname
rm -rf /etc/docker /etc/resolv.conf /root/.docker
mkdir -p /etc/docker /var/lib/docker /var/lib/dokkaa /var/lib/etcd "$2/docker"
mount --bind "$2/docker" /var/lib/docker
# State of the machine's own cluster, if it has one, stays out of sight.
for state in dokkaa etcd; do
    like=$(stat -c 'mode=%a,uid=%u,gid=%g' "/var/lib/$state")
    mount -t tmpfs -o "$like" tmpfs "/var/lib/$state"
done
printf '127.0.0.1 localhost\n%s %s\n' "${3%/*}" "$1" >/etc/hosts
printf 'nameserver 10.99.0.1\n' >/etc/resolv.conf
ip link set lo up
echo "$pid"
exec >/dev/null 3<&0
# Whoever kills all processes of the node spares this one.
cat <&3 &
echo $! >/run/keeper
wait $!
exit 0
