//! The configuration: what is accepted, what is refused and in which words, and that no value is repeated.

#![expect(clippy::unwrap_used, clippy::panic, reason = "tests may panic")]

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use weigate::config::{
    Config, ConfigErrors, ListenAddress, Loaded, PathPattern, Store, UpstreamHost, load, parse,
};
use weigate::types::{AppId, AppSecret};

/// What stands in files and variables that the configurations name.
const SECRET: &str = "5ecre7-0f-the-shop";
/// What stands where a value is wrong; no message may repeat it.
const CANARY: &str = "CANARY7f3a9e";
const ACCOUNT: &str =
    "[[accounts]]\nname = \"shop\"\napp_id = \"wx0123456789abcdef\"\napp_secret_env = \"SHOP_APP_SECRET\"\n";
const CLIENT: &str = "[[clients]]\nname = \"orders\"\naccounts = [\"shop\"]\n\
    key_sha256 = \"5f78c33274e43fa9de5659265c1d917e25c03722dcb0b8d27db8d5feaa813953\"\n";

#[test]
fn every_accepted_file_loads() {
    let base = base_dir();
    let files = files_in("accepted");
    assert!(files.len() >= 10, "only {} files", files.len());
    for file in files {
        let loaded = parse("proxy.toml", &fs::read_to_string(&file).unwrap(), &environment, base.path());
        let loaded = loaded.unwrap_or_else(|errors| panic!("{}:\n{errors}", file.display()));
        assert!(!format!("{loaded:?}").contains(SECRET), "{}", file.display());
    }
}

/// `WEIGATE_BLESS=1` writes the expected texts anew; read the difference before you keep it.
#[test]
fn every_refused_file_gives_the_text_beside_it() {
    let base = base_dir();
    let files = files_in("refused");
    assert!(files.len() >= 30, "only {} files", files.len());
    let mut differing = Vec::new();
    for file in files {
        let errors = refusal(&fs::read_to_string(&file).unwrap(), base.path());
        let said = format!("{errors}\n");
        for secret in [SECRET, CANARY, "0123456789abcdef0123456789abcdef"] {
            assert!(!said.contains(secret), "{} repeats a secret:\n{said}", file.display());
            assert!(!format!("{errors:?}").contains(secret), "{} repeats a secret", file.display());
        }
        let expected = file.with_extension("txt");
        if std::env::var_os("WEIGATE_BLESS").is_some() {
            fs::write(&expected, &said).unwrap();
        }
        let wanted = fs::read_to_string(&expected).unwrap_or_default();
        if wanted != said {
            differing.push(format!("{}:\n{said}instead of:\n{wanted}", file.display()));
        }
    }
    assert!(differing.is_empty(), "{}", differing.join("\n"));
}

#[test]
fn the_sample_loads_as_it_stands() {
    let loaded = parse("proxy.toml", &sample(), &environment, base_dir().path()).unwrap();
    assert_eq!(loaded.warnings, Vec::<String>::new());
    assert!(loaded.config.clients.is_empty());
}

#[test]
fn the_sample_loads_with_every_setting_taken_into_use() {
    let base = base_dir();
    let loaded = parse("proxy.toml", &sample_in_full(), &environment, base.path())
        .unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(loaded.config.accounts.len(), 3);
    assert_eq!(loaded.config.clients.len(), 1);
    assert!(loaded.config.server.tls.is_some());
    // The defaults that the sample shows are the defaults: none of them counts as set.
    let shown = |name: &str| loaded.settings.iter().any(|setting| setting.name.starts_with(name));
    assert!(
        !shown("server.limits") && !shown("log") && !shown("upstream.connect_ms_max"),
        "{:?}",
        loaded.settings
    );
}

#[test]
fn the_sample_has_every_setting_there_is() {
    let probe = fs::read_to_string(directory("refused").join("unknown_keys_in_many_sections.txt")).unwrap();
    let lists: Vec<&str> = probe.lines().filter_map(|line| Some(line.split_once("known are ")?.1)).collect();
    assert_eq!(lists.len(), 11, "{probe}");
    let sample = sample_in_full();
    for key in lists.iter().flat_map(|list| list.split(", ")).map(|key| key.trim_matches('`')) {
        let (section, sections) = (format!("[{key}]"), format!("[[{key}]]"));
        let stands = |line: &str| {
            line.starts_with(&format!("{key} = "))
                || line == section
                || line == sections
                || line == format!("[server.{key}]")
        };
        let known_elsewhere = ["key_env", "seal_key_env", "url_env"].contains(&key)
            && sample.contains(&format!("# Or {key} = "));
        assert!(sample.lines().any(stands) || known_elsewhere, "proxy.toml has no {key}");
    }
}

#[test]
fn the_smallest_file_has_the_defaults() {
    let config = accepted(ACCOUNT).config;
    assert_eq!(config.server.listen, [ListenAddress::Tcp(([127, 0, 0, 1], 8080).into())]);
    assert_eq!(config.admin.unwrap().listen, ListenAddress::Tcp(([127, 0, 0, 1], 9090).into()));
    let hosts: Vec<String> = config.upstream.hosts.iter().map(ToString::to_string).collect();
    assert_eq!(hosts, ["https://api.weixin.qq.com", "https://api2.weixin.qq.com"]);
    assert!(matches!(config.store, Store::File { dir, .. } if dir.ends_with("state")));
    assert!(config.placeholder_key.is_none() && config.clients.is_empty() && config.server.tls.is_none());
}

#[test]
fn a_secret_loses_its_line_end_and_nothing_else() {
    let base = base_dir();
    let text = ACCOUNT.replace("app_secret_env = \"SHOP_APP_SECRET\"", "app_secret_file = \"shop.secret\"");
    let loaded = parse("proxy.toml", &text, &environment, base.path()).unwrap();
    assert_eq!(loaded.config.accounts.first().unwrap().app_secret.expose(), SECRET);
    assert_eq!(loaded.warnings, Vec::<String>::new());
}

#[test]
fn a_secret_file_open_to_others_is_warned_about() {
    let base = base_dir();
    fs::set_permissions(base.path().join("shop.secret"), fs::Permissions::from_mode(0o640)).unwrap();
    let text = ACCOUNT.replace("app_secret_env = \"SHOP_APP_SECRET\"", "app_secret_file = \"shop.secret\"");
    let loaded = parse("proxy.toml", &text, &environment, base.path()).unwrap();
    assert!(loaded.warnings.concat().starts_with("proxy.toml:4:19: the file in `app_secret_file` is open"));
}

#[test]
fn a_listener_for_everyone_is_warned_about() {
    let open = accepted(&format!("server = {{ listen = \"0.0.0.0:1\", allow_anonymous = true }}\n{ACCOUNT}"));
    assert!(open.warnings.concat().contains("every account, without a key"), "{:?}", open.warnings);
    let plain = accepted(&format!("server.listen = \"0.0.0.0:1\"\n{ACCOUNT}{CLIENT}"));
    assert!(plain.warnings.concat().contains("unencrypted"), "{:?}", plain.warnings);
}

#[test]
fn what_is_set_is_listed_without_secrets() {
    let loaded =
        accepted(&format!("server.limits.idle_ms_max = 5000\nlog.format = \"text\"\n{ACCOUNT}{CLIENT}"));
    let listed: Vec<String> =
        loaded.settings.iter().map(|setting| format!("{}={}", setting.name, setting.value)).collect();
    assert_eq!(listed, ["server.limits.idle_ms_max=5000", "accounts=shop", "clients=orders"]);
}

#[test]
fn every_limit_is_taken_at_its_edges_and_refused_just_past_them() {
    let base = base_dir();
    for (section, name, least, most) in LIMITS {
        let with = |value: u64| {
            // Room for those that may not be above another.
            let room = match name {
                "held_memory_bytes_max" => "body_bytes_max = 1073741824\n",
                "idle_connections_max" => "connections_max = 65536\n",
                _ => "",
            };
            let (head, tail) = if section == "clients" { (CLIENT, "") } else { ("", ACCOUNT) };
            let head = if section == "clients" {
                format!("{ACCOUNT}{head}")
            } else {
                format!("[{section}]\n{room}")
            };
            parse("proxy.toml", &format!("{head}{name} = {value}\n{tail}"), &environment, base.path())
        };
        for edge in [least, most] {
            assert!(with(edge).is_ok(), "{name} = {edge}: {}", with(edge).unwrap_err());
        }
        for beyond in [least.checked_sub(1), Some(most + 1)].into_iter().flatten() {
            let errors = with(beyond).unwrap_err().to_string();
            assert!(errors.contains(name) && errors.contains("out of bounds"), "{name} = {beyond}: {errors}");
            assert_eq!(errors.lines().count(), 1, "{errors}");
        }
    }
}

#[test]
fn patterns_become_exact_paths_and_prefixes() {
    let text = format!("{ACCOUNT}{CLIENT}allow = [\"/cgi-bin/menu/get\", \"/wxa/*\"]\n");
    let allow = accepted(&text).config.clients.into_iter().next().unwrap().allow.unwrap();
    assert_eq!(
        allow,
        [PathPattern::Exact("/cgi-bin/menu/get".to_owned()), PathPattern::Below("/wxa/".to_owned())]
    );
}

#[test]
fn a_file_is_loaded_with_paths_relative_to_itself() {
    let base = base_dir();
    let file = base.path().join("proxy.toml");
    let text = ACCOUNT.replace("app_secret_env = \"SHOP_APP_SECRET\"", "app_secret_file = \"shop.secret\"");
    fs::write(&file, text).unwrap();
    let loaded = load(&file).unwrap();
    assert!(matches!(loaded.config.store, Store::File { dir, .. } if dir == base.path().join("state")));
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let base = base_dir();
    let missing = load(&base.path().join("nowhere.toml")).unwrap_err().to_string();
    assert!(
        missing.contains("nowhere.toml: the configuration cannot be read: there is no such file"),
        "{missing}"
    );
    let directory = load(base.path()).unwrap_err().to_string();
    assert!(directory.contains("cannot be read"), "{directory}");
    let file = base.path().join("latin.toml");
    fs::write(&file, b"a = 1\nb = \xe9\n").unwrap();
    let latin = load(&file).unwrap_err().to_string();
    assert!(latin.contains("latin.toml:2:5: not UTF-8"), "{latin}");
}

#[test]
fn the_sandbox_needs_no_file() {
    let upstream = UpstreamHost { tls: true, host: "127.0.0.1".to_owned(), port: 8443 };
    let app_id = AppId::parse("wx0123456789abcdef").unwrap();
    let config = Config::sandbox(upstream, None, app_id, AppSecret::new(SECRET.to_owned()), [7; 32]).unwrap();
    assert!(config.server.listen.iter().all(ListenAddress::is_local));
    assert!(matches!(config.store, Store::Memory));
    assert!(!format!("{config:?}").contains(SECRET));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(256) })]

    #[test]
    fn no_text_makes_it_panic(text in "\\PC{0,200}") {
        let _outcome = parse("proxy.toml", &text, &environment, Path::new("/nonexistent"));
    }

    #[test]
    fn no_pieces_of_toml_make_it_panic(pieces in prop::collection::vec(piece(), 0..40)) {
        let _outcome = parse("proxy.toml", &pieces.concat(), &environment, Path::new("/nonexistent"));
    }

    #[test]
    fn a_secret_in_any_place_is_never_repeated(
        place in any::<prop::sample::Index>(),
        shape in prop::sample::select(SHAPES),
        extra in "[\\[\\]{}=\"'#,.\\\\\n ]{0,2}",
    ) {
        let sample = sample_in_full();
        let lines: Vec<&str> = sample.lines().collect();
        let line = place.index(lines.len());
        let changed: Vec<String> = lines.iter().enumerate().map(|(index, text)| match text.split_once(" = ") {
            Some((key, _)) if index == line => format!("{key} = {}{extra}", shape.replace('@', CANARY)),
            None if index == line => format!("{}{extra}", shape.replace('@', CANARY)),
            Some(_) | None => (*text).to_owned(),
        }).collect();
        if let Err(errors) = parse("proxy.toml", &changed.join("\n"), &environment, Path::new("/nonexistent")) {
            prop_assert!(!errors.to_string().contains(CANARY), "{}", errors);
            prop_assert!(!format!("{errors:?}").contains(CANARY), "{errors:?}");
        }
    }
}

fn piece() -> impl Strategy<Value = &'static str> {
    prop::sample::select(PIECES.split('|').collect::<Vec<_>>())
}

fn refusal(text: &str, base: &Path) -> ConfigErrors {
    match parse("proxy.toml", text, &environment, base) {
        Ok(_) => panic!("accepted:\n{text}"),
        Err(errors) => errors,
    }
}

fn accepted(text: &str) -> Loaded {
    parse("proxy.toml", text, &environment, base_dir().path())
        .unwrap_or_else(|errors| panic!("{errors}\n{text}"))
}

fn directory(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/config").join(name)
}

fn files_in(name: &str) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> =
        fs::read_dir(directory(name)).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "toml"));
    files.sort();
    files
}

fn sample() -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("proxy.toml")).unwrap()
}

/// The sample without the `#` before settings; remarks have a space behind theirs.
fn sample_in_full() -> String {
    let settings = |line: &str| match line.strip_prefix('#') {
        Some(rest) if !rest.is_empty() && !rest.starts_with(' ') => rest.to_owned(),
        Some(_) | None => line.to_owned(),
    };
    sample().lines().map(settings).collect::<Vec<_>>().join("\n")
}

fn environment(name: &str) -> Option<OsString> {
    let value = match name {
        "SHOP_APP_SECRET" => SECRET,
        "EMPTY" => "\n",
        "SPACED" => "5ecre7-0f-the-shop and more",
        "KEY_HEX" => "6b86b273ff34fce19d6b804eff5a3f5747ada4eaa22f1d49c01e52ddb7875b4b",
        "KEY_ZEROS" => "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
        _ => return None,
    };
    Some(value.into())
}

/// A directory with every file that a configuration of these tests names.
fn base_dir() -> tempfile::TempDir {
    let base = tempfile::tempdir().unwrap();
    let server = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let other = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let revoked = crate::pki::Authority::new().revokes(&[]);
    let secret = format!("{SECRET}\n");
    let files = [
        ("shop.secret", secret.as_str()),
        ("game.secret", "another\r\n"),
        ("empty", ""),
        ("placeholder.key", "a4ayc/80/OGda4BO/1o/V0etpOqiLx1JwB5S3beHW0s=\n"),
        ("seal.key", "b4ayc/80/OGda4BO/1o/V0etpOqiLx1JwB5S3beHW0s=\n"),
        ("redis.url", "redis://orders:5ecre7-0f-redis@127.0.0.1/3\n"),
        ("redis-ca.pem", &other.cert.pem()),
        ("server.pem", &server.cert.pem()),
        ("server.key", &server.signing_key.serialize_pem()),
        ("other.key", &other.signing_key.serialize_pem()),
        ("clients-ca.pem", &other.cert.pem()),
        ("clients.crl", &revoked),
        ("sandbox-ca.pem", &other.cert.pem()),
    ];
    for (name, text) in files {
        let path = base.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    }
    fs::create_dir(base.path().join("proxy.d")).unwrap();
    base
}

const LIMITS: [(&str, &str, u64, u64); 26] = [
    ("admin", "metrics_accounts_max", 0, 100_000),
    ("store", "replicas", 1, 1_000),
    ("store", "op_ms_max", 50, 5_000),
    ("publish", "op_ms_max", 50, 5_000),
    ("server", "workers", 1, 1024),
    ("server.limits", "connections_max", 1, 1_000_000),
    ("server.limits", "handshake_ms_max", 100, 60_000),
    ("server.limits", "header_ms_max", 100, 120_000),
    ("server.limits", "header_bytes_max", 8_192, 1_048_576),
    ("server.limits", "headers_max", 16, 1_000),
    ("server.limits", "idle_ms_max", 1_000, 3_600_000),
    ("server.limits", "requests_per_connection_max", 1, 1_000_000_000),
    ("server.limits", "held_memory_bytes_max", 1_024, 67_108_864),
    ("server.limits", "body_bytes_max", 1_024, 1_073_741_824),
    ("server.limits", "body_bytes_per_s_min", 0, 1_048_576),
    ("server.limits", "request_ms_max", 1_000, 600_000),
    ("server.limits", "stall_ms_max", 1_000, 600_000),
    ("server.limits", "drain_ms_max", 0, 600_000),
    ("server.limits", "token_waiters_max", 1, 1_000_000),
    ("upstream", "connect_ms_max", 100, 30_000),
    ("upstream", "idle_ms_max", 1_000, 600_000),
    ("upstream", "idle_connections_max", 1, 65_536),
    ("upstream", "connections_max", 1, 65_536),
    ("clients", "requests_per_s", 1, 1_000_000),
    ("clients", "requests_at_once_max", 1, 1_000_000),
    // Longer than what is held anyway.
    ("clients", "streamed_body_bytes_max", (32 << 20) + 1, 1 << 34),
];

/// How a secret may stand in a place that is not its own.
const SHAPES: &[&str] = &[
    "\"@\"",
    "\"@",
    "'@",
    "@",
    "@ @",
    "\"\"\"@",
    "[\"@\"]",
    "[\"@\", @",
    "{ a = \"@\" }",
    "{ @ = 1 }",
    "{ \"@\" = 1",
    "\"unix:@\"",
    "\"https://@\"",
    "\"https://u:@@h\"",
    "\"\\@\"",
    "\"@\u{0}\"",
    "0x@",
    "1979-@",
    "@ = 1",
    "[@]",
    "[[@]]",
    "@.@ = 1",
];

/// Pieces of TOML, `|` between them.
const PIECES: &str = "[server]\n|[[accounts]]\n|[[clients]]\n|[|]|[[|{|}|=|,|.|\n|\"|'|\"\"\"|#|\\|\r| |server|limits|\
    listen|accounts|name|tls|hosts|allow|workers|1|-|0x|1e9|true|1979-05-27|\"x\"|\"unix:\"|\"https://[\"|\
    \"https://a:b:1\"|\"/*\"|\"商\"|\u{feff}|\u{0}";
