use std::time::Duration;

use proptest::prelude::*;
use tokio::time::Instant;

use super::*;
use crate::config::{PathPattern, PlaceholderKey};

const NOW: UnixSeconds = UnixSeconds(1_760_000_000);

fn signer(byte: u8) -> Signer {
    Signer::new(&PlaceholderKey(zeroize::Zeroizing::new([byte; 32])))
}

fn client(name: &str, key: &str) -> config::Client {
    config::Client {
        name: ClientName::parse(name).unwrap(),
        key_sha256: Some(digest(key)),
        cert_san: Vec::new(),
        cert_sha256: Vec::new(),
        accounts: config::ClientAccounts::These(vec![account("shop")]),
        allow: None,
        requests_per_s: None,
        requests_at_once_max: None,
        streamed_body_bytes_max: None,
    }
}

fn account(name: &str) -> AccountName {
    AccountName::parse(name).unwrap()
}

fn patterns(texts: &[&str]) -> Vec<PathPattern> {
    texts
        .iter()
        .map(|text| match text.strip_suffix('*') {
            Some(prefix) => PathPattern::Below(prefix.to_owned()),
            None => PathPattern::Exact((*text).to_owned()),
        })
        .collect()
}

#[test]
fn a_client_is_found_by_its_key_and_by_nothing_else() {
    let clients = Clients::new(&[client("orders", "k1"), client("crm", "k2")], signer(1));
    assert_eq!(clients.by_key("k2").unwrap().name.as_str(), "crm");
    assert!(clients.by_key("k3").is_none());
    assert!(clients.by_key("").is_none());
    assert!(clients.anonymous().is_none());
}

#[test]
fn keys_are_random_and_recognisable() {
    let (one, two) = (generate().unwrap(), generate().unwrap());
    assert!(one.expose().starts_with(KEY_PREFIX) && one.expose().len() == 47);
    assert_ne!(one.expose(), two.expose());
    assert!(!format!("{one:?}").contains(one.expose()));
}

#[test]
fn a_placeholder_stands_for_its_client_and_account_until_it_expires() {
    let clients = Clients::new(&[client("orders", "k1")], signer(1));
    let orders = clients.by_key("k1").unwrap();
    let placeholder = clients.placeholder(orders, &account("shop"), NOW);
    assert!((40..=512).contains(&placeholder.len()), "{}", placeholder.len());
    assert!(placeholder.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)));

    let (found, shop, _) = clients.by_placeholder(&placeholder, NOW).unwrap();
    assert_eq!((found.name.as_str(), shop.as_str()), ("orders", "shop"));
    let last = UnixSeconds(NOW.plus(PLACEHOLDER_LIVES).0 - 1);
    assert!(clients.by_placeholder(&placeholder, last).is_ok());
    let over = NOW.plus(PLACEHOLDER_LIVES);
    assert_eq!(clients.by_placeholder(&placeholder, over).unwrap_err(), PlaceholderError::Expired);
}

#[test]
fn the_longest_names_make_a_placeholder_of_at_most_512_characters() {
    let name = "n".repeat(64);
    let clients = Clients::new(&[client(&name, "k1")], signer(1));
    let placeholder = clients.placeholder(clients.by_key("k1").unwrap(), &account(&name), NOW);
    assert!(placeholder.len() <= 512);
    assert!(clients.by_placeholder(&placeholder, NOW).is_ok());
}

#[test]
fn a_changed_key_a_removed_client_and_another_signer_each_kill_a_placeholder() {
    let clients = Clients::new(&[client("orders", "k1")], signer(1));
    let placeholder = clients.placeholder(clients.by_key("k1").unwrap(), &account("shop"), NOW);
    let others = [
        Clients::new(&[client("orders", "k2")], signer(1)),
        Clients::new(&[client("crm", "k1")], signer(1)),
        Clients::new(&[client("orders", "k1")], signer(2)),
        Clients::new(&[], signer(1)),
    ];
    for other in others {
        assert_eq!(other.by_placeholder(&placeholder, NOW).unwrap_err(), PlaceholderError::Forged);
    }
}

#[test]
fn who_knows_the_digest_of_a_key_can_sign_nothing() {
    let clients = Clients::new(&[client("orders", "k1")], signer(1));
    let forged = Signer::new(&PlaceholderKey(zeroize::Zeroizing::new(digest("k1")))).sign(
        &ClientName::parse("orders").unwrap(),
        &account("shop"),
        &digest("k1"),
        NOW.plus(PLACEHOLDER_LIVES),
    );
    assert_eq!(clients.by_placeholder(&forged, NOW).unwrap_err(), PlaceholderError::Forged);
}

#[test]
fn guarded_paths_must_be_meant() {
    let cases: [(Option<&[&str]>, &str, bool, bool); 10] = [
        (None, "/cgi-bin/menu/get", false, true),
        (None, "/cgi-bin/clear_quota", true, false),
        (Some(&["/wxa/*"]), "/wxa/getwxacode", false, true),
        (Some(&["/wxa/*"]), "/cgi-bin/menu/get", false, false),
        (Some(&["/cgi-bin/*", "/*"]), "/cgi-bin/clear_quota", true, false),
        (Some(&["/cgi-bin/clear_quota"]), "/cgi-bin/clear_quota", true, true),
        (Some(&["/cgi-bin/clear_quota"]), "/cgi-bin/clear_quota/v2", true, false),
        (Some(&["/cgi-bin/clear_quota/*"]), "/cgi-bin/clear_quota/v2", true, true),
        (Some(&["/cgi-bin/component/*"]), "/cgi-bin/component/api_query_auth", true, true),
        (Some(&["/sns/*"]), "/sns/component/jscode2session", true, false),
    ];
    for (allow, path, guarded, expected) in cases {
        let client = Client::new(&config::Client { allow: allow.map(patterns), ..client("orders", "k1") }, 0);
        assert_eq!(client.may_call(path, guarded), expected, "{allow:?} {path}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_second_holds_as_many_requests_as_allowed() {
    let client = Client::new(&config::Client { requests_per_s: Some(10), ..client("orders", "k1") }, 0);
    let client = Arc::new(client);
    let admitted = (0..25).filter(|_| client.admit(Instant::now()).is_ok()).count();
    assert_eq!(admitted, 10);
    tokio::time::advance(Duration::from_millis(300)).await;
    let admitted = (0..25).filter(|_| client.admit(Instant::now()).is_ok()).count();
    assert_eq!(admitted, 3);
}

#[test]
fn requests_at_one_time_are_counted_down_when_they_end() {
    let client = Client::new(&config::Client { requests_at_once_max: Some(2), ..client("orders", "k1") }, 0);
    let client = Arc::new(client);
    let first = client.admit(Instant::now()).unwrap();
    let _second = client.admit(Instant::now()).unwrap();
    assert_eq!(client.admit(Instant::now()).unwrap_err(), RateError::AtOnce);
    drop(first);
    assert!(client.admit(Instant::now()).is_ok());
}

proptest! {
    #[test]
    fn a_placeholder_with_any_bit_changed_is_refused(at in 0_usize..200, to in "[A-Za-z0-9_-]") {
        let clients = Clients::new(&[client("orders", "k1")], signer(1));
        let good = clients.placeholder(clients.by_key("k1").unwrap(), &account("shop"), NOW);
        let at = at % good.len();
        let mut bad = good.clone();
        bad.replace_range(at..=at, &to);
        prop_assert_eq!(clients.by_placeholder(&bad, NOW).is_ok(), bad == good);
    }

    #[test]
    fn any_text_is_refused_without_a_panic(text in "(wgt_)?\\PC{0,80}") {
        let clients = Clients::new(&[client("orders", "k1")], signer(1));
        prop_assert!(clients.by_placeholder(&text, NOW).is_err());
    }
}
