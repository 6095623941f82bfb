//! Texts that look like WeChat's: tokens, media ids, tickets, request ids. Random, and no secret to anyone.

use sha2::{Digest, Sha256};

use super::clock::Ms;

/// An access token: a number, an underscore and some 130 characters (§1: "do not assume length or prefix").
pub(super) fn token() -> String {
    format!("{}_{}", fastrand::u8(60..99), text(133))
}

/// A token of `WeCom`: some 210 characters, without a number in front (as its pages print them; up to 512 bytes, §9).
pub(super) fn wecom_token() -> String {
    text(214)
}

/// `rid`: three groups of eight hexadecimal digits, the first the time (§3.3).
pub(super) fn rid(now: Ms) -> String {
    let seconds = u32::try_from((now / 1000) & 0xffff_ffff).unwrap_or(0);
    format!("{seconds:08x}-{:08x}-{:08x}", fastrand::u32(..), fastrand::u32(..))
}

/// `length` random characters of `[A-Za-z0-9_-]`.
pub(super) fn text(length: usize) -> String {
    (0..length).map(|_| letter(fastrand::u8(..))).collect()
}

/// A user's openid: the same for the same account and `who`.
pub(super) fn openid(app_id: &str, who: &str) -> String {
    let digest = Sha256::new().chain_update(app_id).chain_update([0]).chain_update(who).finalize();
    "o".chars().chain(digest.iter().take(27).map(|byte| letter(*byte))).collect()
}

/// Lower-case hexadecimal digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a string cannot fail.
        write!(text, "{byte:02x}").ok();
        text
    })
}

/// A valid JPEG of 8 × 8 grey pixels that carries `comment`, so that each code looks different to a test.
pub(super) fn jpeg(comment: &str) -> Vec<u8> {
    let comment: Vec<u8> = comment.bytes().take(60_000).collect();
    let length = u16::try_from(comment.len() + 2).unwrap_or(2);
    let mut image = vec![0xff, 0xd8];
    image.extend_from_slice(b"\xff\xe0\x00\x10JFIF\x00\x01\x01\x00\x00\x01\x00\x01\x00\x00");
    image.extend_from_slice(&[0xff, 0xfe]);
    image.extend_from_slice(&length.to_be_bytes());
    image.extend_from_slice(&comment);
    image.extend_from_slice(b"\xff\xdb\x00\x43\x00"); // quantisation: 64 times 1
    image.extend_from_slice(&[1; 64]);
    image.extend_from_slice(b"\xff\xc0\x00\x0b\x08\x00\x08\x00\x08\x01\x01\x11\x00"); // 8 × 8, grey
    for class in [0x00, 0x10] {
        image.extend_from_slice(&[0xff, 0xc4, 0x00, 0x14, class, 1]); // one code of one bit, for zero
        image.extend_from_slice(&[0; 16]);
    }
    image.extend_from_slice(b"\xff\xda\x00\x08\x01\x01\x00\x00\x3f\x00\x3f\xff\xd9");
    image
}

fn letter(byte: u8) -> char {
    let letter = ALPHABET.get(usize::from(byte & 63)).copied().unwrap_or(b'A');
    char::from(letter)
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
