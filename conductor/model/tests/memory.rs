//! A process of its own, which counts what it allocates: what the directory takes in memory.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use model::snapshot::Change;
use model::{Directory, Snapshot};

const SERVICES: usize = 1_000;
const INSTANCES: usize = 10;
const HOSTS: usize = 20;
/// Octets of an instance with its part of the service. It is 500 where 10,000 of them take 5 MB; what is left is for pages
/// that are in part free.
const MOST: usize = 400;

struct Counting;

#[global_allocator]
static COUNTING: Counting = Counting;

/// Octets that are allocated.
static ALLOCATED: AtomicUsize = AtomicUsize::new(0);

/// What glibc takes for an allocation: a length before it, and a multiple of 16 together, at least 32.
fn taken(layout: Layout) -> usize {
    (layout.size() + 8).next_multiple_of(16).max(32)
}

#[expect(unsafe_code, reason = "an allocator can't be told otherwise")]
// SAFETY: the system's allocator does it all.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATED.fetch_add(taken(layout), Ordering::Relaxed);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        ALLOCATED.fetch_sub(taken(layout), Ordering::Relaxed);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(place, layout) }
    }
}

fn put(key: String, value: String, revision: i64) -> Change {
    Change::Put {
        key,
        value: value.into_bytes(),
        modified: revision,
        created: revision,
    }
}

/// Hosts alone.
fn hosts() -> Snapshot {
    let mut hosts = Snapshot::default();
    for host in 0..HOSTS {
        let record = format!(
            r#"{{"id":"00000000-0000-0000-0000-000000000001","session":"00000000-0000-0000-0000-000000000001",
                "epoch":0,"state":"up","addr":"10.0.0.{host}","versions":{{"agent":"","placement":[1]}}}}"#
        );
        hosts.apply([put(format!("/hosts/h{host}/record"), record, 1)], 1);
    }
    hosts
}

/// The instances of a service, the first of which is on this host.
fn place(directory: &mut Directory, hosts: &Snapshot, service: usize, first: usize) {
    let (name, app) = (format!("s{}", service % 100), service / 100);
    let revision = directory.revision + 1;
    let manifest = format!(r#"{{"image":"i","services":{{"{name}":80}}}}"#);
    let key = format!("/apps/a{app}/{name}/manifest");
    let mut changes = vec![put(key, manifest, revision)];
    for slot in 0..INSTANCES {
        let host = (first + slot) % HOSTS;
        let key = format!("/claims/a{app}/{name}/slots/{slot}");
        let claim = format!(r#"{{"host":"h{host}","instance":"i","version":1}}"#);
        let state = format!(
            r#"{{"instance":"i","state":"ready","addr":"10.0.0.{host}","ports":{{"{name}":20000}}}}"#
        );
        changes.push(put(format!("{key}.state"), state, revision));
        changes.push(put(key, claim, revision));
    }
    // A directory takes of a snapshot what was touched, and nothing of it may stay.
    let mut snapshot = hosts.clone();
    let touched = snapshot.apply(changes, revision);
    directory.update(&snapshot, &touched);
}

#[test]
fn an_instance_takes_little_memory() {
    let hosts = hosts();
    let before = ALLOCATED.load(Ordering::Relaxed);
    let mut directory = Directory::default();
    for service in 0..SERVICES {
        place(&mut directory, &hosts, service, service);
    }
    let taken = |directory: &Directory| {
        assert_eq!(directory.services().count(), SERVICES);
        (ALLOCATED.load(Ordering::Relaxed) - before) / (SERVICES * INSTANCES)
    };
    let first = taken(&directory);
    assert!(first <= MOST, "{first} octets an instance");
    // What was replaced is gone.
    for service in 0..SERVICES {
        place(&mut directory, &hosts, service, service + 7);
    }
    let moved = taken(&directory);
    assert!(
        moved <= first + 1,
        "{moved} octets an instance, {first} before"
    );
}
