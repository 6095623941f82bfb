//! Finds `errcode` in the first bytes of a reply.
//!
//! WeChat answers an error with status 200 and a small JSON object (wechat.md §3.3). What stands in it besides the
//! number changes with the year, so only the number counts. The scan is lenient on purpose: WeChat's JSON may hold
//! raw control characters and broken UTF-8, which a strict parser would refuse along with good answers.
//!
//! It knows nothing of what a code asks for; see [`is_token_invalid`] for the one question a request's way has.

use std::sync::LazyLock;

use memchr::memmem;

use super::ErrCode;
use crate::types::Platform;

/// Built once: building a searcher costs more than a search of a kilobyte.
static ERRCODE: LazyLock<memmem::Finder<'static>> = LazyLock::new(|| memmem::Finder::new(b"\"errcode\""));

/// Whether WeChat refused an API call because its `access_token` is not, or no longer, good.
///
/// 40001 invalid or not the latest, 40014 malformed or of another account, 42001 expired: the set that WxJava,
/// wechatpy, PowerWeChat and the Ruby SDK agree on (wechat.md §3.2). Not 41001 (missing), 42007 (the user's token),
/// 40097 (arguments) or 48001 (permission): a renewal cures none of them.
///
/// On `WeCom`, 40014 and 42001 only: there 40001 is a wrong secret, which a new token of the same secret does not cure
/// (wechat.md §9; 企业微信全局错误码, developer.work.weixin.qq.com/document/path/90313, as `WxJava`'s
/// `WxCpErrorMsgEnum` has it).
pub fn is_token_invalid(platform: Platform, code: ErrCode) -> bool {
    match platform {
        Platform::Weixin => matches!(code.0, 40001 | 40014 | 42001),
        Platform::Wecom => matches!(code.0, 40014 | 42001),
    }
}

/// The number under the key `errcode` at the top level of the JSON object that `head` begins.
///
/// `head` may be cut anywhere; a number that is cut counts as absent. Some replies carry the number as a string
/// (wechat.md §3.3), so both forms are read. A float, a nested `errcode` and anything that is not an object give
/// `None`.
pub fn errcode(head: &[u8]) -> Option<ErrCode> {
    // Nearly every good reply ends here, at some 50 ns.
    ERRCODE.find(head)?;
    let mut scan = Scan { bytes: head, at: 0 };
    scan.skip_bom();
    scan.skip_space();
    scan.expect(b'{')?;
    loop {
        scan.skip_space();
        let key = scan.string()?;
        scan.skip_space();
        scan.expect(b':')?;
        scan.skip_space();
        if key == b"errcode" {
            return scan.integer().map(ErrCode);
        }
        scan.skip_value()?;
        scan.skip_space();
        scan.expect(b',')?;
    }
}

struct Scan<'a> {
    bytes: &'a [u8],
    at: usize,
}

// === impl Scan ===

impl<'a> Scan<'a> {
    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn skip_bom(&mut self) {
        if self.bytes.starts_with(b"\xef\xbb\xbf") {
            self.at = 3;
        }
    }

    fn skip_space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\r' | b'\n')) {
            self.at += 1;
        }
    }

    fn expect(&mut self, byte: u8) -> Option<()> {
        (self.peek()? == byte).then(|| self.at += 1)
    }

    /// The raw bytes between two quotes.
    fn string(&mut self) -> Option<&'a [u8]> {
        self.expect(b'"')?;
        let start = self.at;
        loop {
            let rest = self.bytes.get(self.at..)?;
            self.at += memchr::memchr2(b'"', b'\\', rest)?;
            if self.peek()? == b'"' {
                let text = self.bytes.get(start..self.at)?;
                self.at += 1;
                return Some(text);
            }
            self.at += 2;
        }
    }

    /// `-1`, `40001`, `"40001"`; the byte after it must be there, and must end it.
    fn integer(&mut self) -> Option<i64> {
        let quoted = self.expect(b'"').is_some();
        let start = self.at;
        if self.peek()? == b'-' {
            self.at += 1;
        }
        while self.peek()?.is_ascii_digit() {
            self.at += 1;
        }
        let ends_well = match self.peek()? {
            b'"' => quoted,
            b' ' | b'\t' | b'\r' | b'\n' | b',' | b'}' => !quoted,
            _ => false,
        };
        if !ends_well {
            return None;
        }
        std::str::from_utf8(self.bytes.get(start..self.at)?).ok()?.parse().ok()
    }

    /// Steps over a string, number, word, object or array.
    fn skip_value(&mut self) -> Option<()> {
        let mut depth = 0_u32;
        loop {
            match self.peek()? {
                b'"' => {
                    self.string()?;
                }
                b'{' | b'[' => {
                    depth += 1;
                    self.at += 1;
                }
                b'}' | b']' => {
                    depth = depth.checked_sub(1)?;
                    self.at += 1;
                }
                _ => self.at += 1,
            }
            if depth == 0 && matches!(self.peek()?, b',' | b'}' | b' ' | b'\t' | b'\r' | b'\n') {
                return Some(());
            }
        }
    }
}

#[cfg(test)]
mod tests;
