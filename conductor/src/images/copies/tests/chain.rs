//! Images that are passed on while they come.

use futures_util::future::join_all;

use super::*;

const NAMES: [&str; 11] = [
    "h1", "h2", "h3", "h4", "h5", "h6", "h7", "h8", "h9", "h10", "h11",
];
/// Longer than anything takes in paused time.
const LONG: Duration = Duration::from_secs(600);

impl Hosts {
    /// h1 has the image, and gives no more than its beginning.
    async fn with_a_slow_source(self) -> (Self, Decided, watch::Sender<Gate>) {
        self.build("h1", "app:1", "sha256:own");
        self.engine("h1")
            .world(|world, _| world.archive_padding = 1_000_000);
        let decided = self.decide("h1", "app:1").await;
        let gate = self.hold("h1");
        (self, decided, gate)
    }

    /// Waits until so many archives were given by all hosts.
    async fn gave(&self, archives: u32) {
        let given = || self.way.given.lock().unwrap().values().sum::<u32>();
        let waits = async {
            while given() < archives {
                sleep(Duration::from_millis(50)).await;
            }
        };
        let in_time = tokio::time::timeout(LONG, waits).await;
        in_time.unwrap_or_else(|_| panic!("{} were given", given()));
    }

    /// Nothing is left of what was passed on.
    fn are_idle(&self) -> bool {
        let (id, content) = ("sha256:own", "content of sha256:own");
        self.images.values().all(|images| {
            let shared = &images.shared;
            shared.relays.of_id(id).is_none() && shared.serving.of(content) == 0
        })
    }
}

#[tokio::test(start_paused = true)]
async fn hosts_that_ask_at_once_become_a_chain_and_the_source_serves_one() {
    let (hosts, decided, gate) = Hosts::new(&NAMES).with_a_slow_source().await;
    let all = join_all(
        NAMES[1..]
            .iter()
            .map(|h| hosts.ensure(h, "app:1", &decided)),
    );
    let checks = async {
        hosts.gave(10).await;
        assert_eq!(NAMES.map(|host| hosts.loads(host)), [0; 11]);
        assert_eq!(hosts.given("h1"), 1);
        assert!(NAMES.iter().all(|host| hosts.given(host) <= 1));
        // It is offered to those who know which image it is to be.
        let any = WantedImage {
            name: "app:1".to_owned(),
            ..WantedImage::default()
        };
        assert_eq!(hosts.of("h2").offer(&any).await, Ok(None));
        let wanted = WantedImage {
            content: decided.content.clone(),
            ..any
        };
        let offer = hosts.of("h2").offer(&wanted).await.unwrap().unwrap();
        assert!(offer.receiving && !offer.busy && !offer.in_registry);
        gate.send(Gate::Open).unwrap();
    };
    let (sources, ()) = tokio::join!(all, checks);
    for (host, source) in NAMES[1..].iter().zip(sources) {
        assert_eq!(source.unwrap().reference, "app:1");
        assert_eq!(hosts.loads(host), 1);
        assert_eq!(hosts.content(host, "app:1").await, decided.content);
    }
    assert_eq!(hosts.given("h1"), 1);
    assert!(hosts.are_idle());
}

#[tokio::test(start_paused = true)]
async fn who_asks_later_gets_it_from_the_beginning_by_who_asked_before() {
    let (hosts, decided, gate) = Hosts::new(&NAMES[..4]).with_a_slow_source().await;
    let later = async |before: u32, host| {
        hosts.gave(before).await;
        hosts.ensure(host, "app:1", &decided).await.unwrap();
    };
    let opens = async {
        hosts.gave(3).await;
        gate.send(Gate::Open).unwrap();
    };
    tokio::join!(later(0, "h2"), later(1, "h3"), later(2, "h4"), opens);
    assert_eq!(NAMES[..4].iter().map(|h| hosts.given(h)).max(), Some(1));
    assert_eq!(hosts.given("h4"), 0);
    assert_eq!(hosts.content("h4", "app:1").await, decided.content);
}

#[tokio::test(start_paused = true)]
async fn those_behind_a_source_that_dies_get_it_from_another_and_nobody_a_part() {
    let (hosts, decided, gate) = Hosts::new(&NAMES[..5]).with_a_slow_source().await;
    let all = join_all(
        NAMES[1..4]
            .iter()
            .map(|h| hosts.ensure(h, "app:1", &decided)),
    );
    let dies = async {
        hosts.gave(3).await;
        assert_eq!(hosts.given("h1"), 1);
        hosts.build("h5", "app:1", "sha256:own");
        gate.send(Gate::Broken).unwrap();
    };
    let (sources, ()) = tokio::time::timeout(LONG, async { tokio::join!(all, dies) })
        .await
        .unwrap();
    for (host, source) in NAMES[1..4].iter().zip(sources) {
        source.unwrap();
        // The engine took one archive, and that was whole.
        assert_eq!(hosts.loads(host), 1);
        assert_eq!(hosts.content(host, "app:1").await, decided.content);
    }
    assert!(hosts.given("h5") > 0);
    assert!(hosts.are_idle());
}

#[tokio::test(start_paused = true)]
async fn hosts_that_receive_it_do_not_wait_for_each_other_when_nobody_has_it() {
    let (hosts, decided, gate) = Hosts::new(&NAMES).with_a_slow_source().await;
    let all = join_all(
        NAMES[1..]
            .iter()
            .map(|h| hosts.ensure(h, "app:1", &decided)),
    );
    let dies = async {
        hosts.gave(10).await;
        hosts.engine("h1").world(|world, _| world.images.clear());
        gate.send(Gate::Broken).unwrap();
    };
    let (failed, ()) = tokio::time::timeout(LONG, async { tokio::join!(all, dies) })
        .await
        .unwrap();
    for (host, failed) in NAMES[1..].iter().zip(failed) {
        let EngineError::HostFault { fault, .. } = failed.unwrap_err() else {
            panic!("another fault on {host}");
        };
        assert_eq!((fault, hosts.loads(host)), (HostFault::ImageMissing, 0));
    }
    assert!(hosts.are_idle());
}

#[tokio::test(start_paused = true)]
async fn without_room_a_copy_is_not_passed_on_and_the_source_serves_more() {
    let hosts = Hosts::with_room(&NAMES[..3], 0);
    let (hosts, decided, gate) = hosts.with_a_slow_source().await;
    let all = join_all(
        NAMES[1..3]
            .iter()
            .map(|h| hosts.ensure(h, "app:1", &decided)),
    );
    let begun = Instant::now();
    let opens = async {
        hosts.gave(2).await;
        // First it was waited for one that passes it on.
        assert!(begun.elapsed() > CROWDED / 2);
        gate.send(Gate::Open).unwrap();
    };
    let (sources, ()) = tokio::join!(all, opens);
    assert!(sources.iter().all(Result::is_ok));
    assert_eq!(hosts.given("h1"), 2);
}

#[tokio::test(start_paused = true)]
async fn who_gives_up_lets_those_behind_begin_anew() {
    let (hosts, decided, gate) = Hosts::new(&NAMES[..3]).with_a_slow_source().await;
    let second = hosts.ensure("h2", "app:1", &decided);
    let gives_up = async {
        tokio::select! {
            _ = second => panic!("it is held"),
            () = hosts.gave(2) => {}
        }
        gate.send(Gate::Open).unwrap();
    };
    let third = async {
        hosts.gave(1).await;
        hosts.ensure("h3", "app:1", &decided).await
    };
    let (third, ()) = tokio::time::timeout(LONG, async { tokio::join!(third, gives_up) })
        .await
        .unwrap();
    third.unwrap();
    assert_eq!((hosts.given("h2"), hosts.loads("h3")), (1, 1));
    assert_eq!(hosts.given("h1"), 2);
}
