//! One function for each reader of bytes from outside: it may not panic, and more than that, what it reads must be
//! what anybody else would read. Each panics where that is not so.
//!
//! `cargo fuzz run NAME` drives them with libFuzzer; `short`, on a stable compiler, with the corpus and mutations of it.

use std::path::Path;
use std::sync::LazyLock;

use bytes::{Bytes, BytesMut};
use http::header::{CONNECTION, HeaderMap, HeaderName, HeaderValue};
use sha2::{Digest as _, Sha256};
use weigate::proxy::headers;
use weigate::proxy::upstream::{ChunkDecoder, Framing, Piece, parse_head};
use weigate::token::store::{Stored, decode_token, encode_token};
use weigate::types::{AccessToken, AccountName, AppId, UnixSeconds};
use weigate::wechat::{envelope, paths, query};

/// A target: its name, and the function.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: [Target; 8] = [
    ("query", query),
    ("path", path),
    ("fields", fields),
    ("envelope", envelope),
    ("config", config),
    ("state", state),
    ("reply", reply),
    ("chunks", chunks),
];

/// The query that is sent is the one that came without any `access_token`, and with ours.
pub fn query(data: &[u8]) {
    let Ok(came) = std::str::from_utf8(data) else { return };
    let drop = query::Drop { access_token: true, ..query::Drop::default() };
    let mut sent = Vec::new();
    query::rewrite(Some(came), drop, &[("access_token", "REAL")], &mut sent);
    let sent = String::from_utf8(sent).unwrap();
    let is_token = |pair: &&str| {
        let name = pair.split('=').next().unwrap_or_default();
        let name = String::from_utf8_lossy(&unescaped(name)).into_owned();
        let name = name.trim_matches(|c: char| c.is_whitespace() || c == '\0').to_ascii_lowercase();
        name == "access_token" || name.starts_with("access_token[")
    };
    let kept =
        came.split('&').filter(|pair| !came.is_empty() && !is_token(pair)).chain(["access_token=REAL"]);
    assert_eq!(sent, format!("?{}", kept.collect::<Vec<_>>().join("&")));
    // What is read in the query is one of its values, as it stands there.
    let found = query::parameters(came);
    for value in [found.access_token, found.from_appid, found.appid, found.secret].into_iter().flatten() {
        assert!(came.split('&').any(|pair| pair.split_once('=').map_or("", |(_, value)| value) == value));
    }
}

/// A path that is let through has one reading, which is the one that was judged; nothing guarded hides in another.
pub fn path(data: &[u8]) {
    let Ok(path) = std::str::from_utf8(data) else { return };
    let path = format!("/{}", path.trim_start_matches('/'));
    let Ok(judged) = paths::judge(&path) else { return };
    let decoded = &*judged.decoded;
    assert_eq!(decoded.as_bytes(), percent_decoded(&path), "the judged path is another one");
    assert!(!decoded.contains(['\\', '?', '#', ';', '%']), "{decoded:?}");
    assert!(!decoded.chars().any(char::is_control), "{decoded:?}");
    assert!(
        decoded == "/" || !decoded.split('/').skip(1).any(|part| matches!(part, "." | "..")),
        "{decoded:?}"
    );
    assert!(!decoded.contains("//"), "{decoded:?}");
    let plain = decoded.to_lowercase();
    let plain = plain.trim_end_matches(['/', '.', ' ']);
    let is_guarded = GUARDED.contains(&plain) || plain.starts_with("/cgi-bin/component/");
    assert!(
        !is_guarded || judged.guarded || judged.need != paths::Need::Token,
        "{decoded:?} passes as any other"
    );
}

const GUARDED: [&str; 6] = [
    "/cgi-bin/token",
    "/cgi-bin/stable_token",
    "/cgi-bin/gettoken",
    "/cgi-bin/clear_quota",
    "/cgi-bin/clear_quota/v2",
    "/cgi-bin/openapi/quota/clear",
];

/// A request's fields, one `name: value` a line: no field of one hop and no credential is sent on, whatever
/// `Connection` says, and the others are, byte by byte.
pub fn fields(data: &[u8]) {
    let mut came = HeaderMap::new();
    for line in data.split(|byte| *byte == b'\n') {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value)) else {
            continue;
        };
        came.append(name, value);
    }
    let mut sent = BytesMut::new();
    headers::copy_request(&came, &headers::Nominated::by(&came), &mut sent);
    let nominated: Vec<String> = came
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(',').map(|name| name.trim().to_ascii_lowercase()))
        .collect();
    let mut rest = &sent[..];
    let mut count = 0;
    while let Some(end) = rest.windows(2).position(|two| two == b"\r\n") {
        let line = &rest[..end];
        rest = &rest[end + 2..];
        count += 1;
        let colon = line.windows(2).position(|two| two == b": ").unwrap();
        let (name, value) = (std::str::from_utf8(&line[..colon]).unwrap(), &line[colon + 2..]);
        assert!(!OF_ONE_HOP.contains(&name.replace('_', "-").as_str()), "{name} is sent on");
        assert!(!nominated.iter().any(|one| one == name), "{name} was nominated");
        assert!(!value.contains(&b'\r') && !value.contains(&b'\n') && !value.contains(&0));
        assert!(name == "max-forwards" || came.get_all(name).iter().any(|one| one.as_bytes() == value));
    }
    assert!(rest.is_empty() && count <= came.len());

    let mut reply = came.clone();
    headers::scrub_reply(&mut reply);
    for name in reply.keys() {
        let is_hop =
            ["connection", "keep-alive", "transfer-encoding", "upgrade", "trailer"].contains(&name.as_str());
        assert!(!is_hop && !name.as_str().starts_with("x-weigate-"), "{name} reaches the client");
    }
}

const OF_ONE_HOP: [&str; 15] = [
    "connection",
    "keep-alive",
    "proxy-connection",
    "transfer-encoding",
    "content-length",
    "te",
    "trailer",
    "upgrade",
    "expect",
    "host",
    "via",
    "authorization",
    "proxy-authorization",
    "forwarded",
    "x-forwarded-for",
];

/// In what is JSON, the `errcode` that is found is the one that a JSON reader finds.
pub fn envelope(data: &[u8]) {
    let found = envelope::errcode(data);
    let literal = b"\"errcode\"";
    let times = data.windows(literal.len()).filter(|window| window == literal).count();
    assert!(found.is_none() || times > 0);
    let Ok(serde_json::Value::Object(object)) = serde_json::from_slice(data) else { return };
    // Escaped names and repeated ones are read by some and not by others.
    if data.contains(&b'\\') || times > 1 {
        return;
    }
    match object.get("errcode") {
        None => assert_eq!(found, None),
        Some(value) => {
            if let Some(number) = value.as_i64() {
                assert_eq!(found.map(|code| code.0), Some(number));
            }
        }
    }
}

/// A configuration is accepted or refused with faults that have places.
pub fn config(data: &[u8]) {
    static EMPTY: LazyLock<tempfile::TempDir> = LazyLock::new(|| tempfile::tempdir().unwrap());
    let Ok(text) = std::str::from_utf8(data) else { return };
    // Files are for whoever writes the configuration to name; a fuzzer is not to read this machine's.
    if text.contains("_file") && text.contains(['/', '.']) {
        return;
    }
    let secret = |name: &str| (name == "SECRET").then(|| "the-app-secret".into());
    match weigate::config::parse("fuzz.toml", text, &secret, EMPTY.path()) {
        Ok(loaded) => assert!(!format!("{:?}", loaded.config).contains("the-app-secret")),
        Err(faults) => {
            let said = faults.to_string();
            assert!(said.lines().next().is_some_and(|line| line.starts_with("fuzz.toml")), "{said}");
            assert!(!said.contains("the-app-secret"));
        }
    }
}

/// A stored token is read as it was written, or not at all.
pub fn state(data: &[u8]) {
    let account: AccountName = AccountName::parse("shop").unwrap();
    let app_id = AppId::parse("wx0123456789abcdef").unwrap();
    // As it is, and with a checksum that is right, so that what stands behind it is reached.
    drop(decode_token(data, &account, &app_id));
    let digest: String = Sha256::digest(data).iter().map(|byte| format!("{byte:02x}")).collect();
    let sealed = [format!("weigate-token 1 {digest}\n").as_bytes(), data].concat();
    if let Some(stored) = decode_token(&sealed, &account, &app_id) {
        assert_same(&stored, &account, &app_id);
    }
    // A token of these bytes.
    let letter =
        |byte: &u8| char::from(b"abcdefghijklmnopqrstuvwxyzABCDEF0123456789-_.~"[usize::from(*byte) % 46]);
    let text: String = data.iter().take(512).map(letter).collect();
    let Ok(access_token) = AccessToken::parse(&text) else { return };
    let number =
        |at: usize| data.iter().skip(at).take(7).fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte));
    let stored = Stored {
        access_token,
        obtained_at: UnixSeconds(number(0)),
        expires_at: UnixSeconds(number(7)),
        fence: number(14),
    };
    let file = assert_same(&stored, &account, &app_id);
    // Any one bit, any one byte less.
    let at = data.iter().fold(0_usize, |sum, byte| sum.wrapping_mul(31) + usize::from(*byte)) % file.len();
    let mut damaged = file.clone();
    damaged[at] ^= 1 << (at % 8);
    assert!(decode_token(&damaged, &account, &app_id).is_none(), "a changed bit is not noticed at {at}");
    assert!(decode_token(&file[..at], &account, &app_id).is_none(), "an end at {at} is not noticed");
    let other = AccountName::parse("other").unwrap();
    assert!(decode_token(&file, &other, &app_id).is_none(), "it is another account's");
}

fn assert_same(stored: &Stored, account: &AccountName, app_id: &AppId) -> Vec<u8> {
    let file = encode_token(account, app_id, stored).unwrap().to_vec();
    let read = decode_token(&file, account, app_id).unwrap();
    let parts = |one: &Stored| (one.access_token.fingerprint(), one.obtained_at, one.expires_at, one.fence);
    assert_eq!(parts(&read), parts(stored));
    file
}

/// A head that is accepted has one reading, and no shorter one.
pub fn reply(data: &[u8]) {
    let Ok(Some((head, length))) = parse_head(data) else { return };
    let text = &data[..length];
    assert!(text.ends_with(b"\r\n\r\n"));
    let bare = |at: usize| text[at] == b'\n' && (at == 0 || text[at - 1] != b'\r');
    assert!(!(0..length).any(bare), "a bare LF is accepted");
    assert!(
        (0..length).all(|at| text[at] != b'\r' || text.get(at + 1) == Some(&b'\n')),
        "a bare CR is accepted"
    );
    assert_eq!(
        text.windows(4).position(|four| four == b"\r\n\r\n"),
        Some(length - 4),
        "the head ends earlier"
    );
    assert!(matches!(parse_head(&text[..length - 1]), Ok(None)), "a part of it is a head");
    // As a reader with nothing but a list of lines sees it.
    let lines: Vec<&[u8]> = split_lines(text);
    let fields: Vec<(String, &[u8])> = lines[1..]
        .iter()
        .map(|line| {
            let colon =
                line.iter().position(|byte| *byte == b':').expect("a line without a colon is accepted");
            (String::from_utf8(line[..colon].to_ascii_lowercase()).unwrap(), line[colon + 1..].trim_ascii())
        })
        .collect();
    assert!(fields.iter().all(|(name, _)| name.bytes().all(|byte| byte.is_ascii_graphic())), "{fields:?}");
    let of = |name: &str| {
        fields.iter().filter(|(one, _)| one == name).map(|(_, value)| *value).collect::<Vec<_>>()
    };
    let (lengths, codings) = (of("content-length"), of("transfer-encoding"));
    let expected = match (&*lengths, &*codings) {
        ([], []) => Framing::UntilClose,
        ([length], []) => Framing::Length(std::str::from_utf8(length).unwrap().parse().unwrap()),
        ([], [coding]) if coding.eq_ignore_ascii_case(b"chunked") => Framing::Chunked,
        _ => panic!("framing with two readings is accepted: {lengths:?} {codings:?}"),
    };
    let is_bodiless = matches!(head.status.as_u16(), 100..=199 | 204 | 304);
    assert_eq!(head.framing(false), if is_bodiless { Framing::Length(0) } else { expected });
    assert_eq!(head.framing(true), Framing::Length(0));
    let is_of_this_connection = |value: &&[u8]| {
        let mut options =
            value.split(|byte| *byte == b',').map(|option| option.trim_ascii().to_ascii_lowercase());
        options.all(|option| matches!(&option[..], b"" | b"close" | b"keep-alive"))
    };
    let gone = of("connection").into_iter().filter(is_of_this_connection).count();
    assert_eq!(head.fields.len(), fields.len() - codings.len() - gone);
}

fn split_lines(head: &[u8]) -> Vec<&[u8]> {
    let mut lines = Vec::new();
    let mut rest = &head[..head.len() - 2];
    while let Some(end) = rest.windows(2).position(|two| two == b"\r\n") {
        lines.push(&rest[..end]);
        rest = &rest[end + 2..];
    }
    lines
}

/// A chunked body is the same in one piece and byte by byte; the first byte of the data says where it is cut.
pub fn chunks(data: &[u8]) {
    let whole = read_chunks([data]);
    let (bytes, cut) =
        (data.iter().map(std::slice::from_ref), data.first().map_or(0, |byte| usize::from(*byte)));
    assert_eq!(whole, read_chunks(bytes), "byte by byte it is another body");
    let (first, second) = data.split_at(cut.min(data.len()));
    assert_eq!(whole, read_chunks([first, second]), "cut at {cut} it is another body");
}

/// The content, and where the body ended; `None` for a fault.
fn read_chunks<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Option<(Bytes, Option<usize>)> {
    let mut decoder = ChunkDecoder::new();
    let mut content = Vec::new();
    let mut read = 0;
    for mut piece in pieces {
        while !piece.is_empty() {
            let (count, what) = decoder.advance(piece).ok()?;
            assert!(count > 0 && count <= piece.len());
            if let Piece::Data(range) = &what {
                assert!(!range.is_empty() && range.end <= count);
                content.extend_from_slice(&piece[range.clone()]);
            }
            read += count;
            piece = &piece[count..];
            if what == Piece::End {
                return Some((content.into(), Some(read)));
            }
        }
    }
    Some((content.into(), None))
}

/// A query's name as servers read it: `+` is a space.
fn unescaped(text: &str) -> Vec<u8> {
    percent_decoded(&text.replace('+', " "))
}

fn percent_decoded(text: &str) -> Vec<u8> {
    let mut decoded = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let digit = |at: usize| tail.get(at).and_then(|byte| char::from(*byte).to_digit(16));
        let escaped = (*first == b'%').then(|| Some(digit(0)? << 4 | digit(1)?)).flatten();
        decoded.push(escaped.map_or(*first, |byte| u8::try_from(byte).unwrap()));
        rest = if escaped.is_some() { &tail[2..] } else { tail };
    }
    decoded
}

/// The corpus of a target.
pub fn corpus(name: &str) -> Vec<Vec<u8>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name);
    let files = std::fs::read_dir(&dir).unwrap_or_else(|fault| panic!("{}: {fault}", dir.display()));
    let mut paths: Vec<_> = files.map(|file| file.unwrap().path()).collect();
    paths.sort();
    paths.iter().map(|path| std::fs::read(path).unwrap()).collect()
}
