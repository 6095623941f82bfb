use std::cell::Cell;

use futures_util::FutureExt;
use tokio::net::TcpListener;

use super::*;

type Answer = io::Result<Vec<SocketAddr>>;

/// A dialler for a name that `answer` resolves, and how often it was asked.
fn dialler(answer: impl Fn(usize) -> Answer + 'static) -> (Dialler, Rc<Cell<usize>>) {
    let asked = Rc::new(Cell::new(0));
    let count = Rc::clone(&asked);
    let answer = Rc::new(answer);
    let resolve: Resolve = Rc::new(move |_, _| {
        let (count, answer) = (Rc::clone(&count), Rc::clone(&answer));
        Box::pin(async move {
            tokio::task::yield_now().await;
            count.set(count.get() + 1);
            answer(count.get())
        })
    });
    let host = UpstreamHost { tls: false, host: "upstream.test".to_owned(), port: 80 };
    let tls = Arc::new(crate::proxy::upstream::tls_config(None).unwrap());
    (Dialler::new(host, tls, Duration::from_secs(5), resolve, None), asked)
}

fn addresses(texts: &[&str]) -> Vec<SocketAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

async fn closed_port() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

#[test]
fn families_take_turns_and_the_last_winner_is_first() {
    let given = addresses(&["[::1]:1", "[::1]:2", "[::1]:3", "127.0.0.1:4", "127.0.0.1:5"]);
    let turns = addresses(&["[::1]:1", "127.0.0.1:4", "[::1]:2", "127.0.0.1:5", "[::1]:3"]);
    assert_eq!(in_turn(&given, None), turns);
    let turns = addresses(&["127.0.0.1:5", "[::1]:1", "127.0.0.1:4", "[::1]:2", "[::1]:3"]);
    assert_eq!(in_turn(&given, Some("127.0.0.1:5".parse().unwrap())), turns);
    assert_eq!(in_turn(&given[..1], Some("127.0.0.1:5".parse().unwrap())), addresses(&["[::1]:1"]));
}

#[test]
fn metadata_services_are_no_destination() {
    for ip in
        ["169.254.169.254", "::ffff:169.254.169.254", "fe80::1", "0.0.0.0", "::", "224.0.0.1", "ff02::1"]
    {
        assert!(!is_destination(ip.parse().unwrap()), "{ip}");
    }
    for ip in ["101.226.90.149", "10.0.0.1", "127.0.0.1", "2402:4e00::1"] {
        assert!(is_destination(ip.parse().unwrap()), "{ip}");
    }
}

#[tokio::test]
async fn the_next_address_is_tried_when_one_refuses_and_the_winner_is_first_the_next_time() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (closed, open) = (closed_port().await, listener.local_addr().unwrap());
    let (dialler, asked) = dialler(move |_| Ok(vec![closed, open]));
    assert!(matches!(dialler.dial().await, Ok(Socket::Plain(_))));
    assert_eq!(dialler.best.get(), Some(open));
    assert!(dialler.dial().await.is_ok());
    assert_eq!(asked.get(), 1);
}

#[tokio::test]
async fn all_addresses_refusing_is_a_refusal() {
    let (one, other) = (closed_port().await, closed_port().await);
    let (dialler, _) = dialler(move |_| Ok(vec![one, other]));
    assert_eq!(dialler.dial().await.err(), Some(ConnectError::Refused));
}

#[tokio::test]
async fn a_name_that_leads_to_a_metadata_service_does_not_resolve() {
    let (dialler, _) = dialler(|_| Ok(addresses(&["169.254.169.254:80"])));
    assert_eq!(dialler.dial().await.err(), Some(ConnectError::Dns));
}

#[tokio::test(start_paused = true)]
async fn the_last_good_answer_outlives_a_resolver_that_fails() {
    let good = addresses(&["127.0.0.1:1"]);
    let kept = good.clone();
    let (dialler, asked) =
        dialler(move |nth| if nth == 1 { Ok(good.clone()) } else { Err(io::Error::other("no resolver")) });
    for minute in 1..=10 {
        assert_eq!(dialler.addresses().await.unwrap()[..], kept[..]);
        assert_eq!(dialler.addresses().await.unwrap()[..], kept[..]);
        assert_eq!(asked.get(), minute);
        tokio::time::advance(Duration::from_mins(1)).await;
    }
}

#[tokio::test]
async fn many_diallers_ask_the_resolver_once() {
    let (dialler, asked) = dialler(|_| Ok(addresses(&["127.0.0.1:1"])));
    let answers = futures_util::future::join_all((0..100).map(|_| dialler.addresses())).await;
    assert!(answers.iter().all(Result::is_ok));
    assert_eq!(asked.get(), 1);
}

#[tokio::test]
async fn a_dialler_that_is_dropped_while_asking_leaves_the_turn_to_the_next() {
    let (dialler, asked) = dialler(|_| Ok(addresses(&["127.0.0.1:1"])));
    let mut first = Box::pin(dialler.addresses());
    assert!((&mut first).now_or_never().is_none());
    let mut second = Box::pin(dialler.addresses());
    assert!((&mut second).now_or_never().is_none());
    drop(first);
    assert!(second.await.is_ok());
    assert_eq!(asked.get(), 1);
}
