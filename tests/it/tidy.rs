//! The house's rules that a compiler does not hold: layers, the ways to a secret's text, units, sizes.

#![expect(clippy::unwrap_used, clippy::string_slice, reason = "tests may panic")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// What each room may name; `src/lib.rs` has the map. `main` stands for the binary, `commands` included.
const LAYERS: [(&str, &[&str]); 11] = [
    ("types", &[]),
    ("wechat", &["types"]),
    ("config", &["types"]),
    ("telemetry", &["types", "config"]),
    ("token", &["types", "wechat", "config", "telemetry"]),
    ("clients", &["types", "config", "telemetry"]),
    ("proxy", &["types", "wechat", "config", "telemetry", "token", "clients"]),
    ("admin", &["types", "wechat", "config", "telemetry", "token", "clients"]),
    // A stand-in for WeChat that shared our reading of WeChat would prove nothing.
    ("sandbox", &["types"]),
    ("app", &["types", "wechat", "config", "telemetry", "token", "clients", "proxy", "admin"]),
    // `status` and `health` ask the admin listener with the product's own HTTP client and its TLS set-up.
    ("main", &["types", "config", "telemetry", "clients", "token", "proxy", "sandbox", "app"]),
];

/// The places that call `expose()`, and why each may.
const EXPOSES: [(&str, usize, &str); 14] = [
    ("src/app/tls.rs", 1, "the server's private key goes to rustls"),
    ("src/commands/key.rs", 2, "a new key is digested, and shown once"),
    ("src/commands/serve.rs", 2, "the trial key of `serve --sandbox` is digested, and shown once"),
    ("src/config/check/store.rs", 1, "a test"),
    ("src/proxy/forward.rs", 2, "the token, or the AppSecret, goes into the query of a request to WeChat"),
    (
        "src/token/publish/format.rs",
        2,
        "the token goes under others' keys, one of which is made from the AppSecret",
    ),
    ("src/token/store/file/format.rs", 1, "the token goes into its file"),
    ("src/token/store/redis/connect.rs", 1, "the passwords log in to Redis and to its Sentinels"),
    ("src/token/store/redis/record.rs", 1, "the token goes into its value"),
    ("src/token/store/seal.rs", 1, "the seal key goes into the cipher"),
    ("src/wechat/token_call/mod.rs", 1, "the AppSecret goes into the token call"),
    ("src/wechat/token_call/rejection.rs", 1, "the AppSecret is struck out of what WeChat said"),
    ("src/token/source/tests.rs", 1, "a test"),
    ("src/wechat/token_call/tests.rs", 1, "a test"),
];

#[test]
fn no_room_names_one_above_or_beside_it() {
    let rooms: BTreeMap<&str, BTreeSet<&str>> =
        LAYERS.iter().map(|(room, may)| (*room, may.iter().copied().collect())).collect();
    let mut named = BTreeMap::<String, BTreeSet<String>>::new();
    let mut faults = Vec::new();
    for (path, text) in sources() {
        let room = room_of(&path);
        if path == "src/lib.rs" {
            continue;
        }
        let may = rooms.get(room.as_str()).unwrap_or_else(|| panic!("{path}: {room} is not in the table"));
        for target in rooms_named(&code_of(&text), if room == "main" { "weigate" } else { "crate" }) {
            if !rooms.contains_key(target.as_str()) {
                faults.push(format!("{path}: names {target}, which is no room"));
            } else if target != room && !may.contains(target.as_str()) {
                faults.push(format!("{path}: {room} may not name {target}"));
            }
            named.entry(room.clone()).or_default().insert(target);
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    // A reader of paths that reads none passes everything.
    for (room, target) in [("app", "proxy"), ("proxy", "token"), ("token", "wechat"), ("main", "app")] {
        assert!(named[room].contains(target), "{room} names only {:?}", named[room]);
    }
}

#[test]
fn the_reader_of_paths_sees_every_form() {
    let text = "use crate::token::{self, Token};\nuse crate::{admin, proxy::{Refusal, a::b}, types::Id};\n\
                fn f(x: crate::config::Config) { crate::clients::digest() }\n\
                use crate::{\n    app::{\n        online,\n    },\n    wechat,\n};\n";
    let named: Vec<String> = rooms_named(text, "crate").into_iter().collect();
    assert_eq!(named, ["admin", "app", "clients", "config", "proxy", "token", "types", "wechat"]);
    assert_eq!(code_of("a // crate::x\n/// crate::y\n//! crate::z\nb"), "a \n\n\nb\n");
}

#[test]
fn a_secrets_text_is_taken_in_these_places_only() {
    let mut found = BTreeMap::new();
    for (path, text) in sources() {
        let code = code_of(&text);
        let count = code.matches(".expose()").count() + code.matches("::expose").count();
        if count > 0 {
            found.insert(path, count);
        }
    }
    // Tests of the clients make keys of their own.
    found.remove("src/clients/tests.rs");
    let wanted: BTreeMap<String, usize> =
        EXPOSES.iter().map(|(path, count, _)| ((*path).to_owned(), *count)).collect();
    assert_eq!(found, wanted, "a new place needs a line with a reason in this test's table");
}

#[test]
fn a_forced_refresh_is_asked_for_by_the_leaked_button_only() {
    let mut found = BTreeMap::new();
    for (path, text) in sources() {
        let count = code_of(&text).matches("Mode::Force").count();
        if count > 0 && !path.ends_with("/tests.rs") {
            found.insert(path, count);
        }
    }
    // The keeper: set when the button's desk wants it, and looks at what it is. The call: one look.
    let wanted = [
        ("src/token/keeper/claim.rs", 1),
        ("src/token/keeper/awake.rs", 2),
        ("src/token/keeper/mod.rs", 1),
        ("src/wechat/token_call/mod.rs", 1),
    ];
    assert_eq!(found, wanted.map(|(path, count)| (path.to_owned(), count)).into());
    let wants = sources().into_iter().filter(|(_, text)| code_of(text).contains("ring(Ring::Forced)"));
    assert_eq!(wants.map(|(path, _)| path).collect::<Vec<_>>(), ["src/token/leak.rs"]);
}

#[test]
fn every_number_in_the_configuration_has_its_unit_and_its_bound_in_its_name() {
    let text = std::fs::read_to_string(root().join("src/config/file.rs")).unwrap();
    let numbers: Vec<&str> = code_of(&text)
        .lines()
        .filter(|line| line.contains(": Option<Spanned<u64>>"))
        .map(|line| line.split_once(':').unwrap().0.trim().trim_start_matches("pub(super) ").to_owned())
        .map(|name| &*name.leak())
        .collect();
    assert!(numbers.len() >= 15, "{numbers:?}");
    // Counts: the name says of what.
    let counts = [
        "workers",
        "replicas",
        "connections_max",
        "headers_max",
        "requests_per_connection_max",
        "token_waiters_max",
        "idle_connections_max",
        "requests_at_once_max",
        "metrics_accounts_max",
    ];
    for name in numbers {
        let has_unit = ["_ms_max", "_bytes_max", "_per_s", "_ms_min", "_s_max", "_per_s_min"]
            .iter()
            .any(|end| name.ends_with(end));
        assert!(has_unit || counts.contains(&name), "{name} has no unit, or no bound");
    }
}

/// 400 lines are the aim; what is above it, and why, stands here, and nothing is above 500.
#[test]
fn no_file_is_too_long_to_read() {
    let above_the_aim: [(&str, &str); 0] = [];
    let mut long = Vec::new();
    for (path, text) in sources() {
        let lines = text.lines().count();
        let is_known = above_the_aim.iter().any(|(known, _)| *known == path);
        if lines > 500 || (lines > 400 && !is_known) {
            long.push(format!("{path}: {lines} lines"));
        }
    }
    assert!(long.is_empty(), "{}", long.join("\n"));
}

#[test]
fn every_file_says_what_it_is_for() {
    for (path, text) in sources() {
        let is_test = path.ends_with("/tests.rs") || path.contains("/tests/");
        assert!(is_test || text.starts_with("//! "), "{path} does not begin with //!");
    }
}

#[test]
fn nothing_is_left_to_do_without_a_name_and_a_reason() {
    let marks =
        ["TO", "FIX", "XX"].into_iter().zip(["DO", "ME", "X"]).map(|(one, other)| format!("{one}{other}"));
    let marks: Vec<String> = marks.collect();
    let mut found = Vec::new();
    for (path, text) in sources().into_iter().chain(files_below("tests")) {
        for (number, line) in text.lines().enumerate() {
            if marks.iter().any(|mark| line.contains(mark.as_str())) {
                found.push(format!("{path}:{}: {line}", number + 1));
            }
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

/// Only `main` and tests report with anyhow, end the process or take signals.
#[test]
fn only_the_binary_knows_anyhow_clap_and_exit_codes() {
    let mut seen = 0;
    for (path, text) in sources() {
        let code = code_of(&text);
        for word in ["anyhow::", "clap::", "process::exit", "signal::unix"] {
            let is_there = code.contains(word);
            seen += usize::from(is_there);
            assert!(!is_there || room_of(&path) == "main", "{path} names {word}");
        }
    }
    assert!(seen > 3, "the binary itself names {seen} of them");
}

// === helpers ===

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Path below the root, and text, of every Rust file of the product.
fn sources() -> Vec<(String, String)> {
    let files = files_below("src");
    assert!(files.len() > 80, "only {} files", files.len());
    files
}

fn files_below(dir: &str) -> Vec<(String, String)> {
    let mut files = Vec::new();
    let mut dirs: Vec<PathBuf> = vec![root().join(dir)];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                dirs.push(path);
            } else if path.extension().is_some_and(|end| end == "rs") {
                let name = path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned();
                files.push((name, std::fs::read_to_string(&path).unwrap()));
            }
        }
    }
    assert!(!files.is_empty());
    files
}

/// `src/token/cell.rs` is in `token`, `src/main.rs` and `src/commands/` are in `main`.
fn room_of(path: &str) -> String {
    let room = path.trim_start_matches("src/").split('/').next().unwrap().trim_end_matches(".rs");
    if room == "commands" { "main" } else { room }.to_owned()
}

/// The text without line comments. That `//` in a string goes too does no harm here.
fn code_of(text: &str) -> String {
    text.lines()
        .map(|line| line.split_once("//").map_or(line, |(code, _)| code))
        .flat_map(|line| [line, "\n"])
        .collect()
}

/// The first names of all paths that begin with `crate::`, in `use` trees too.
fn rooms_named(code: &str, base: &str) -> BTreeSet<String> {
    let mut rooms = BTreeSet::new();
    let base = format!("{base}::");
    for (at, _) in code.match_indices(&base) {
        let is_whole = !code[..at].ends_with(|before: char| before.is_ascii_alphanumeric() || before == '_');
        let rest = &code[at + base.len()..];
        if !is_whole {
            continue;
        }
        let Some(tree) = rest.strip_prefix('{') else {
            rooms.insert(first_name(rest));
            continue;
        };
        let mut depth = 0;
        let mut is_first = true;
        for (at, character) in tree.char_indices() {
            match character {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' if depth == 0 => is_first = true,
                letter if depth == 0 && is_first && letter.is_ascii_alphabetic() => {
                    rooms.insert(first_name(&tree[at..]));
                    is_first = false;
                }
                _ => {}
            }
        }
    }
    rooms
}

fn first_name(text: &str) -> String {
    text.chars().take_while(|character| character.is_ascii_alphanumeric() || *character == '_').collect()
}
