//! Resolvers that answer late, badly or not, in virtual time.

use std::cell::RefCell;

use hickory_proto::op::ResponseCode;

use super::super::answer::tests::coded;
use super::*;

fn addr(number: u8) -> SocketAddr {
    ([192, 0, 2, number], 53).into()
}

/// What a resolver does after some milliseconds.
#[derive(Clone, Copy)]
enum Does {
    Say(u64, ResponseCode),
    Fail,
    Nothing,
}

const GOOD: ResponseCode = ResponseCode::NXDomain;

/// The code of the answer, how long it took, and who was asked in which order.
async fn run(ranking: &Ranking, does: &[Does]) -> (Option<ResponseCode>, u128, Vec<u8>) {
    let upstreams: Vec<SocketAddr> = (0..does.len()).map(|n| addr(n as u8)).collect();
    let order = RefCell::new(Vec::new());
    let ask = |to: SocketAddr| {
        let number = upstreams.iter().position(|at| *at == to).expect("known");
        order.borrow_mut().push(number as u8);
        let does = does[number];
        async move {
            match does {
                Does::Say(after, code) => {
                    sleep(Duration::from_millis(after)).await;
                    Ok(coded(code))
                }
                Does::Fail => Err(io::ErrorKind::ConnectionRefused.into()),
                Does::Nothing => std::future::pending().await,
            }
        }
    };
    let begin = Instant::now();
    let outcome = first_good(&upstreams, ranking, ask).await;
    let code = outcome.answer.map(|answer| answer.code());
    (code, begin.elapsed().as_millis(), order.take())
}

#[tokio::test(start_paused = true)]
async fn the_first_is_preferred_and_the_next_asked_after_a_head_start() {
    let fast = Does::Say(10, GOOD);
    let run = async |does: &[Does]| run(&Ranking::default(), does).await;
    assert_eq!(
        run(&[Does::Say(200, GOOD), fast]).await,
        (Some(GOOD), 200, vec![0])
    );
    assert_eq!(
        run(&[Does::Nothing, fast]).await,
        (Some(GOOD), 260, vec![0, 1])
    );
    assert_eq!(run(&[Does::Fail, fast]).await, (Some(GOOD), 10, vec![0, 1]));
    let bad = Does::Say(20, ResponseCode::ServFail);
    assert_eq!(run(&[bad, fast]).await, (Some(GOOD), 30, vec![0, 1]));
    // The slow first may still be the first.
    let slow = Does::Say(400, GOOD);
    let slower = Does::Say(900, ResponseCode::NoError);
    assert_eq!(run(&[slow, slower]).await, (Some(GOOD), 400, vec![0, 1]));
}

#[tokio::test(start_paused = true)]
async fn without_a_good_answer_a_bad_one_is_better_than_none() {
    let run = async |does: &[Does]| run(&Ranking::default(), does).await;
    let bad = Does::Say(20, ResponseCode::Refused);
    let refused = Some(ResponseCode::Refused);
    assert_eq!(run(&[bad, Does::Fail]).await, (refused, 20, vec![0, 1]));
    assert_eq!(
        run(&[bad, Does::Nothing]).await,
        (refused, 4500, vec![0, 1])
    );
    assert_eq!(run(&[Does::Nothing]).await, (None, 4500, vec![0]));
    assert_eq!(run(&[Does::Fail]).await, (None, 0, vec![0]));
    assert_eq!(run(&[]).await, (None, 0, vec![]));
}

#[tokio::test(start_paused = true)]
async fn a_dead_resolver_is_asked_last_until_it_is_tried_again() {
    let ranking = Ranking::default();
    let dead = [Does::Nothing, Does::Say(10, GOOD)];
    for _ in 0..MISSES {
        assert_eq!(run(&ranking, &dead).await.2, [0, 1]);
    }
    for _ in 0..3 {
        assert_eq!(run(&ranking, &dead).await, (Some(GOOD), 10, vec![1]));
    }
    tokio::time::advance(PAUSE).await;
    // One query tries it, while others do not wait for it.
    let (first, second) = tokio::join!(run(&ranking, &dead), run(&ranking, &dead));
    assert_eq!((first.2, second.2), (vec![0, 1], vec![1]));
    assert_eq!(run(&ranking, &dead).await.2, [1]);
    tokio::time::advance(PAUSE).await;
    let back = [Does::Say(20, GOOD), Does::Say(10, GOOD)];
    for _ in 0..3 {
        assert_eq!(run(&ranking, &back).await.2, [0], "it is back");
    }
}

#[tokio::test(start_paused = true)]
async fn one_lost_packet_changes_no_order_and_all_dead_is_as_none() {
    let ranking = Ranking::default();
    let good = Does::Say(10, GOOD);
    run(&ranking, &[Does::Nothing, good]).await;
    assert_eq!(run(&ranking, &[good, good]).await.2, [0]);
    run(&ranking, &[Does::Nothing, good]).await;
    assert_eq!(run(&ranking, &[good, good]).await.2, [0]);
    for _ in 0..3 {
        run(&ranking, &[Does::Nothing, Does::Nothing]).await;
    }
    assert_eq!(run(&ranking, &[good, good]).await.2, [0]);
}

#[test]
fn resolvers_that_are_remembered_are_few() {
    let (ranking, now) = (Ranking::default(), Instant::now());
    for number in 0..=u8::MAX {
        ranking.missed(addr(number), now);
        assert!(ranking.lock().len() <= REMEMBERED);
    }
}
