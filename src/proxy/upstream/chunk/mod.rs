//! The chunked coding (RFC 9112 §7.1), read strictly, apart from any I/O.
//!
//! Strict means: sizes are 1 to 15 hexadecimal digits with nothing before or behind them but an extension; lines
//! end in CR LF and in nothing else; extensions and trailers are bounded and dropped. Whoever is laxer than the
//! next reader lets a reply be cut in two.

use std::ops::Range;

use super::Malformed;

/// Where in a chunked body the reader stands. Feed it bytes as they come.
///
/// After an error or [`Piece::End`] it must not be used again.
#[derive(Debug, Clone, Default)]
pub struct ChunkDecoder {
    state: State,
    /// Bytes of the current size line, or of all trailers.
    line_bytes: usize,
}

/// What the next bytes of a chunked body are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// All input was framing; more is needed.
    More,
    /// This part of the input is content, at least one byte.
    Data(Range<usize>),
    /// The body is over; what follows in the input does not belong to it.
    End,
}

#[derive(Debug, Clone, Copy, Default)]
enum State {
    /// Before the first digit of a size.
    #[default]
    Size,
    /// Within the digits.
    SizeDigits { value: u64, digits: u8 },
    /// Behind the `;`.
    Extension { value: u64 },
    /// The LF of a size line.
    SizeLf { value: u64 },
    /// Content, this much still to come, at least one byte.
    Data { left: u64 },
    /// The CR behind content.
    DataCr,
    /// The LF behind content.
    DataLf,
    /// At the start of a trailer line.
    TrailerStart,
    /// Within a trailer line.
    Trailer,
    /// The LF of a trailer line.
    TrailerLf,
    /// The last LF.
    EndLf,
}

// === impl State ===

impl State {
    /// Within a chunk that has this much left.
    fn content(left: u64) -> Self {
        if left == 0 { Self::DataCr } else { Self::Data { left } }
    }
}

// === impl ChunkDecoder ===

impl ChunkDecoder {
    /// At the start of a body.
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads on: how many bytes of `input` are done with (those of the piece included), and what came of them.
    ///
    /// Call again with the rest of the input after [`Piece::Data`], with new input after [`Piece::More`].
    pub fn advance(&mut self, input: &[u8]) -> Result<(usize, Piece), Malformed> {
        for (at, &byte) in input.iter().enumerate() {
            if let State::Data { left } = self.state {
                let here = input.len() - at;
                let taken = usize::try_from(left).map_or(here, |left| left.min(here));
                self.state = State::content(left - taken as u64);
                return Ok((at + taken, Piece::Data(at..at + taken)));
            }
            if self.step(byte)? {
                return Ok((at + 1, Piece::End));
            }
        }
        Ok((input.len(), Piece::More))
    }

    /// One byte of framing. True: that was the last.
    fn step(&mut self, byte: u8) -> Result<bool, Malformed> {
        self.state = match self.state {
            State::Size => match hex_digit(byte) {
                Some(digit) => State::SizeDigits { value: digit, digits: 1 },
                None => return Err(Malformed("chunk size is not a number")),
            },
            State::SizeDigits { value, digits } => Self::size_digit(value, digits, byte)?,
            State::Extension { value } => {
                self.count(EXTENSION_BYTES_MAX, "chunk extension is too long")?;
                match byte {
                    b'\r' => State::SizeLf { value },
                    byte if is_text(byte) => State::Extension { value },
                    _ => return Err(Malformed("control character in a chunk extension")),
                }
            }
            State::SizeLf { value } if byte == b'\n' => {
                self.line_bytes = 0;
                if value == 0 { State::TrailerStart } else { State::Data { left: value } }
            }
            State::DataCr if byte == b'\r' => State::DataLf,
            State::DataLf if byte == b'\n' => State::Size,
            State::TrailerStart if byte == b'\r' => State::EndLf,
            State::TrailerStart | State::Trailer => {
                self.count(TRAILER_BYTES_MAX, "trailers are too long")?;
                match byte {
                    b'\r' => State::TrailerLf,
                    byte if is_text(byte) => State::Trailer,
                    _ => return Err(Malformed("control character in a trailer")),
                }
            }
            State::TrailerLf if byte == b'\n' => State::TrailerStart,
            State::EndLf if byte == b'\n' => return Ok(true),
            State::DataCr | State::DataLf => return Err(Malformed("no CRLF behind a chunk")),
            State::SizeLf { .. } | State::TrailerLf | State::EndLf => {
                return Err(Malformed("CR without LF in the chunked coding"));
            }
            // `advance` takes content before it steps.
            State::Data { left } => State::Data { left },
        };
        Ok(false)
    }

    fn size_digit(value: u64, digits: u8, byte: u8) -> Result<State, Malformed> {
        match (hex_digit(byte), byte) {
            (Some(_), _) if digits >= SIZE_DIGITS_MAX => Err(Malformed("chunk size is too large")),
            (Some(digit), _) => Ok(State::SizeDigits { value: value << 4 | digit, digits: digits + 1 }),
            (None, b'\r') => Ok(State::SizeLf { value }),
            (None, b';') => Ok(State::Extension { value }),
            (None, _) => Err(Malformed("chunk size is not a number")),
        }
    }

    fn count(&mut self, bytes_max: usize, fault: &'static str) -> Result<(), Malformed> {
        self.line_bytes += 1;
        if self.line_bytes > bytes_max { Err(Malformed(fault)) } else { Ok(()) }
    }
}

fn hex_digit(byte: u8) -> Option<u64> {
    char::from(byte).to_digit(16).map(u64::from)
}

/// Whether a byte may stand in a field's value: no control character but the tab (RFC 9110 §5.5).
fn is_text(byte: u8) -> bool {
    byte == b'\t' || (byte >= b' ' && byte != 0x7f)
}

/// 15 digits are 2^60 bytes; a 16th could overflow arithmetic elsewhere.
const SIZE_DIGITS_MAX: u8 = 15;

/// Extensions have no use between us and WeChat; a few tolerated bytes are not a way to send a body for free.
const EXTENSION_BYTES_MAX: usize = 256;

/// All trailer lines together; they are dropped.
const TRAILER_BYTES_MAX: usize = 8 * 1024;

#[cfg(test)]
mod tests;
