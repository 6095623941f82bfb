//! The wire on the client's side, byte by byte: what libraries cannot be made to send.

#![expect(clippy::print_stdout, reason = "how many of how many is for whoever runs it")]

mod endings;
mod floods;
mod h1;
mod h2;
mod many;
mod slow;

use crate::probes::{
    Answer, Then, answers, brought, frames, get_head, head, is_well, post_head, talk, try_talk,
};
