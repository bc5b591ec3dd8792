"""python-etcd as it is, against one address: each call is one that its users make."""

import sys
import threading

try:
    import etcd
    from etcd import Lock
except ImportError as error:
    sys.exit(f"{error}; install Debian's python3-etcd with: scripts/setup.sh up test")

host, port = sys.argv[1].split(":")
client = etcd.Client(host=host, port=int(port), read_timeout=10)


def refused(error, call, *arguments, **options):
    try:
        call(*arguments, **options)
    except error:
        return
    raise AssertionError(f"{call.__name__}{arguments} was not refused")


written = client.write("/p/a", 1, ttl=60)
assert written.newKey and written.ttl == 60, written
assert client.read("/p/a").value == "1"
refused(etcd.EtcdAlreadyExist, client.write, "/p/a", 2, prevExist=False)
refused(etcd.EtcdCompareFailed, client.test_and_set, "/p/a", "3", "2")
client.test_and_set("/p/a", "2", "1", ttl=60)
refreshed = client.refresh("/p/a", ttl=120)
assert refreshed.value == "2" and refreshed.ttl == 120, refreshed
result = client.read("/p/a")
result.value = "3"
client.update(result)
refused(etcd.EtcdKeyNotFound, client.read, "/p/b")

client.write("/p/dir", None, dir=True, ttl=60)
refused(etcd.EtcdNotFile, client.write, "/p/dir", "x")
client.write("/p/dir/x", "y")
refused(etcd.EtcdDirNotEmpty, client.delete, "/p/dir", dir=True)
first = client.write("/p/queue", "1", append=True)
second = client.write("/p/queue", "2", append=True)
listed = [child.key for child in client.read("/p/queue", sorted=True).children]
assert listed == [first.key, second.key], listed
tree = client.read("/p", recursive=True)
assert {leaf.key for leaf in tree.leaves} >= {"/p/a", "/p/dir/x", first.key}

# A wait that is under way, and one for what has been.
index = client.write("/p/w", "1").modifiedIndex
assert client.watch("/p/w", index=index).value == "1"
threading.Timer(0.2, etcd.Client(host=host, port=int(port)).write, ["/p/w", "2"]).start()
told = client.watch("/p", recursive=True)
assert (told.key, told.value, told.action) == ("/p/w", "2", "set"), told
events = client.eternal_watch("/p/w", index=index)
assert [next(events).value, next(events).value] == ["1", "2"]

short = client.write("/p/short", "1", ttl=1)
ended = client.watch("/p/short", index=short.modifiedIndex + 1)
assert ended.action == "expire" and ended._prev_node.value == "1", ended

lock = Lock(client, "one")
assert lock.acquire(blocking=True, lock_ttl=30)
other = Lock(etcd.Client(host=host, port=int(port)), "one")
assert not other.acquire(blocking=False)
lock.release()
assert other.acquire(blocking=True, timeout=5)
other.release()

client.delete("/p", recursive=True)
refused(etcd.EtcdKeyNotFound, client.read, "/p")
assert f"http://{host}:{port}" in client.machines, client.machines
assert client.leader["clientURLs"] and client.stats["name"] and client.store_stats
assert client.members
print("done")
