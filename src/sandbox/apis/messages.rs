//! Messages: template, subscribe, customer service; and the customer service's accounts.

#![expect(clippy::unnecessary_wraps, reason = "the functions of the table have one type")]

use serde_json::json;

use super::{Answer, Api, Desk, get, post};
use crate::sandbox::reply::Reply;

pub(super) const APIS: &[Api] = &[
    post("/cgi-bin/message/template/send", template),
    post("/cgi-bin/message/subscribe/send", subscribe),
    post("/cgi-bin/message/custom/send", custom),
    get("/cgi-bin/customservice/getkflist", list_accounts),
    post("/customservice/kfaccount/add", add_account),
];

fn template(desk: &mut Desk<'_>) -> Answer {
    desk.text("touser", 40003)?;
    desk.text("template_id", 40037)?;
    let msgid = fastrand::u64(1_000_000_000..4_000_000_000_000_000);
    Ok(Reply::json(&json!({ "errcode": 0, "errmsg": "ok", "msgid": msgid })))
}

fn subscribe(desk: &mut Desk<'_>) -> Answer {
    desk.text("touser", 40003)?;
    desk.text("template_id", 40037)?;
    Ok(Reply::ok())
}

fn custom(desk: &mut Desk<'_>) -> Answer {
    desk.text("touser", 40003)?;
    let kind = desk.text("msgtype", 40008)?;
    if desk.value().get(&kind).is_none() {
        return Err(40008);
    }
    Ok(Reply::ok())
}

fn list_accounts(desk: &mut Desk<'_>) -> Answer {
    let list: Vec<_> = (1001..)
        .zip(desk.account.shelf.service_accounts())
        .map(|(id, (account, nick))| {
            json!({ "kf_account": account, "kf_nick": nick, "kf_id": id.to_string(), "kf_headimgurl": "" })
        })
        .collect();
    Ok(Reply::json(&json!({ "kf_list": list })))
}

fn add_account(desk: &mut Desk<'_>) -> Answer {
    let account = desk.text("kf_account", 65403)?;
    let nick = desk.text("nickname", 65403)?;
    desk.account.shelf.add_service_account(account, nick)?;
    Ok(Reply::ok())
}
