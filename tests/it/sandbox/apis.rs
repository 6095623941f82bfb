//! The APIs: what they check, and the shape of what they answer.

use serde_json::{Value, json};

use super::{APP, Bench, OPENID, PNG, SECRET, seconds};

#[tokio::test]
async fn a_body_without_a_length_is_met_with_412_and_nothing_else() {
    let bench = Bench::new().await;
    for path in ["/cgi-bin/stable_token", "/wxa/getwxacode?access_token=x", "/nowhere"] {
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n\
             2\r\n{{}}\r\n0\r\n\r\n"
        );
        let reply = bench.raw(&request).await;
        assert!(reply.starts_with("HTTP/1.1 412 "), "{reply}");
        assert!(
            reply.to_lowercase().contains("content-length: 0\r\n") && reply.ends_with("\r\n\r\n"),
            "{reply}"
        );
    }
    assert_eq!(bench.control().counters().statuses[&412], 3);
    assert!(!bench.control().requests(None, 1)[0].has_content_length);
}

#[tokio::test]
async fn a_body_beyond_64_mib_is_refused_by_its_length() {
    let bench = Bench::new().await;
    let length = (64 << 20) + 1;
    let reply =
        bench.raw(&format!("POST /wxa/x HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n")).await;
    assert!(reply.starts_with("HTTP/1.1 413 "), "{reply}");
}

#[tokio::test]
async fn wrong_paths_methods_and_bodies_are_told_apart() {
    let bench = Bench::new().await;
    let token = bench.token().await;
    let nowhere = bench.get("/nowhere").await;
    assert_eq!((nowhere.status, nowhere.bytes.len()), (404, 0));
    let with = |path: &str| format!("{path}?access_token={token}");
    assert_eq!(bench.get(&with("/cgi-bin/message/custom/send")).await.errcode(), 43002);
    assert_eq!(bench.post(&with("/cgi-bin/user/info"), "{}").await.errcode(), 43001);
    assert_eq!(bench.post(&with("/cgi-bin/menu/create"), "").await.errcode(), 44002);
    assert_eq!(bench.post(&with("/cgi-bin/menu/create"), "{\"button\":").await.errcode(), 47001);
    assert_eq!(bench.post(&with("/channels/ec/anything"), "{}").await.json()["errmsg"], "ok");
}

#[tokio::test]
async fn what_was_uploaded_can_be_downloaded_for_three_days() {
    let bench = Bench::new().await;
    let up = bench.upload("/cgi-bin/media/upload?type=image", "media", PNG).await.json();
    let id = up["media_id"].as_str().unwrap().to_owned();
    assert_eq!(up["type"], "image");
    let get = async |id: &str| {
        bench.get(&format!("/cgi-bin/media/get?media_id={id}&access_token={}", bench.token().await)).await
    };
    let down = get(&id).await;
    assert_eq!((down.bytes.as_slice(), down.header("content-type")), (PNG, "image/png"));
    assert_eq!(down.header("content-disposition"), format!("attachment; filename=\"{id}.jpg\""));
    assert_eq!(down.header("content-length"), PNG.len().to_string());
    let unknown = get("unknown").await;
    assert_eq!((unknown.errcode(), unknown.header("content-type")), (40007, "text/plain"));
    bench.control().advance(seconds(3 * 24 * 3600));
    assert_eq!(get(&id).await.errcode(), 40007);
}

#[tokio::test]
async fn uploads_are_checked_for_field_type_and_size() {
    let bench = Bench::new().await;
    let check = async |path: &str, field: &str, bytes: usize, errcode: i64| {
        let answer = bench.upload(path, field, &vec![b'x'; bytes]).await;
        assert_eq!(answer.errcode(), errcode, "{path} {field} {bytes}");
    };
    check("/cgi-bin/media/upload?type=image", "file", 9, 41005).await;
    check("/cgi-bin/media/upload?type=film", "media", 9, 40004).await;
    check("/cgi-bin/media/upload?type=thumb", "media", 64 << 10, 0).await;
    check("/cgi-bin/media/upload?type=thumb", "media", (64 << 10) + 1, 40006).await;
    check("/cgi-bin/media/upload?type=image", "media", (10 << 20) + 1, 40009).await;
    check("/cgi-bin/media/uploadimg", "media", (1 << 20) + 1, 40009).await;
    check("/wxa/img_sec_check", "media", (1 << 20) + 1, -1).await;
    check("/wxa/img_sec_check", "media", 9, 0).await;
    assert_eq!(bench.call("/cgi-bin/media/upload", &json!({})).await.errcode(), 40004);
}

#[tokio::test]
async fn a_generated_file_has_the_length_and_the_bytes_it_should() {
    let bench = Bench::new().await;
    bench.control().set_media("big", 5_000_001, "image/jpeg");
    let down =
        bench.get(&format!("/cgi-bin/media/get?media_id=big&access_token={}", bench.token().await)).await;
    assert_eq!(down.header("content-length"), "5000001");
    assert!(down.bytes.iter().enumerate().all(|(n, byte)| usize::from(*byte) == n % 251));
    assert_eq!(down.bytes.len(), 5_000_001);
}

#[tokio::test]
async fn the_usual_apis_answer_in_their_real_shape() {
    let bench = Bench::new().await;
    let check = async |path: &str, body: Value, pointer: &str| {
        let answer = bench.call(path, &body).await.json();
        assert!(answer.pointer(pointer).is_some(), "{path} {answer}");
        answer
    };
    check("/cgi-bin/menu/create", json!({ "button": [{ "name": "a" }] }), "/errmsg").await;
    let menu = bench.get(&format!("/cgi-bin/menu/get?access_token={}", bench.token().await)).await.json();
    assert_eq!(menu["menu"]["button"][0]["name"], "a");
    check("/cgi-bin/message/template/send", json!({ "touser": "o", "template_id": "t" }), "/msgid").await;
    let text = json!({ "touser": "o", "msgtype": "text", "text": { "content": "x" } });
    check("/cgi-bin/message/custom/send", text, "/errcode").await;
    let code = json!({ "expire_seconds": 60, "action_name": "QR_SCENE", "action_info": { "scene": { "scene_id": 1 } } });
    assert_eq!(check("/cgi-bin/qrcode/create", code, "/ticket").await["expire_seconds"], 60);
    check("/cgi-bin/tags/create", json!({ "tag": { "name": "a" } }), "/tag/id").await;
    check(
        "/cgi-bin/user/info/batchget",
        json!({ "user_list": [{ "openid": "o" }] }),
        "/user_info_list/0/openid",
    )
    .await;
    let draft = check("/cgi-bin/draft/add", json!({ "articles": [{ "title": "t" }] }), "/media_id").await;
    check("/cgi-bin/draft/get", json!({ "media_id": draft["media_id"] }), "/news_item/0/title").await;
    check("/cgi-bin/freepublish/submit", json!({ "media_id": draft["media_id"] }), "/publish_id").await;
    check("/wxa/business/getuserphonenumber", json!({ "code": "good-1" }), "/phone_info/phoneNumber").await;
    check(
        "/datacube/getusersummary",
        json!({ "begin_date": "2026-01-01", "end_date": "2026-01-02" }),
        "/list",
    )
    .await;
    check("/cgi-bin/callback/check", json!({ "action": "all" }), "/dns/0/ip").await;
    let faked =
        bench.call("/cgi-bin/shorturl", &json!({ "long_url": "http://x/?a=1&access_token=junk" })).await;
    assert_eq!(faked.errcode(), 40001, "what a user typed can look like a token error");
}

#[tokio::test]
async fn permanent_material_is_counted_listed_and_deleted() {
    let bench = Bench::new().await;
    let up = bench.upload("/cgi-bin/material/add_material?type=image", "media", PNG).await.json();
    let id = json!({ "media_id": up["media_id"] });
    assert_eq!(bench.call("/cgi-bin/material/get_material", &id).await.bytes, PNG);
    let list = json!({ "type": "image", "offset": 0, "count": 20 });
    assert_eq!(bench.call("/cgi-bin/material/batchget_material", &list).await.json()["total_count"], 1);
    assert_eq!(bench.call("/cgi-bin/material/del_material", &id).await.errcode(), 0);
    assert_eq!(bench.call("/cgi-bin/material/get_material", &id).await.errcode(), 40007);
}

#[tokio::test]
async fn codes_are_jpegs_and_a_scene_has_at_most_32_characters() {
    let bench = Bench::new().await;
    let code = bench.call("/wxa/getwxacodeunlimit", &json!({ "scene": "a=1" })).await;
    assert_eq!(code.header("content-type"), "image/jpeg");
    assert!(code.bytes.starts_with(b"\xff\xd8\xff") && code.bytes.ends_with(b"\xff\xd9"));
    let long = bench.call("/wxa/getwxacodeunlimit", &json!({ "scene": "x".repeat(33) })).await;
    assert_eq!((long.errcode(), long.header("content-type")), (40169, "application/json; encoding=utf-8"));
    assert_eq!(
        bench.call("/wxa/getwxacode", &json!({ "path": "p" })).await.header("content-type"),
        "image/jpeg"
    );
}

#[tokio::test]
async fn a_code_works_once() {
    let bench = Bench::new().await;
    let session = |code: &str| format!("/sns/jscode2session?appid={APP}&secret={SECRET}&js_code={code}");
    let good = bench.get(&session("good-1")).await.json();
    assert!(good["openid"].is_string() && good["session_key"].as_str().unwrap().len() == 24, "{good}");
    let used = bench.get(&session("good-1")).await;
    assert_eq!(used.errcode(), 40163);
    assert!(used.errmsg().starts_with("code been used, rid: "));
    assert_eq!(bench.get(&session("bad")).await.errcode(), 40029);
    assert_eq!(bench.post(&session("good-2"), "").await.errcode(), 41002);
}

#[tokio::test]
async fn a_users_token_is_another_thing_than_an_accounts() {
    let bench = Bench::new().await;
    let login = format!("/sns/oauth2/access_token?appid={APP}&secret={SECRET}&code=good-1");
    let login = bench.get(&login).await.json();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let (token, openid) = (text(&login["access_token"]), text(&login["openid"]));
    let info = |token: &str| format!("/sns/userinfo?access_token={token}&openid={openid}");
    assert_eq!(bench.get(&info(&token)).await.json()["openid"], *openid);
    assert_eq!(bench.worth(&token).await, 40001);
    let accounts = bench.get(&info(&bench.token().await)).await;
    let wanted = "invalid credential, access_token is invalid or not latest, rid: ";
    assert!(accounts.errcode() == 40001 && accounts.errmsg().starts_with(wanted), "{}", accounts.errmsg());
    let refresh = text(&login["refresh_token"]);
    let path = format!("/sns/oauth2/refresh_token?appid={APP}&refresh_token={refresh}");
    assert_eq!(bench.get(&path).await.json()["openid"], *openid);
}

#[tokio::test]
async fn a_ticket_stays_the_same_while_it_lives_even_past_a_new_token() {
    let bench = Bench::new().await;
    let ticket = async || {
        let token = bench.token().await;
        bench.get(&format!("/cgi-bin/ticket/getticket?type=jsapi&access_token={token}")).await.json()
    };
    let first = ticket().await;
    assert_eq!((&first["errcode"], &first["expires_in"]), (&json!(0), &json!(7200)));
    bench.control().advance(seconds(7000));
    let second = ticket().await;
    assert_eq!(second["ticket"], first["ticket"]);
    assert!(second["expires_in"].as_u64().unwrap() <= 200);
    bench.control().advance(seconds(200));
    assert_ne!(ticket().await["ticket"], first["ticket"]);
}

#[tokio::test]
async fn a_rid_can_be_asked_about() {
    let bench = Bench::new().await;
    let message = bench.get(&format!("{OPENID}&access_token=")).await.errmsg();
    let rid = message.rsplit(' ').next().unwrap();
    let found = bench.call("/cgi-bin/openapi/rid/get", &json!({ "rid": rid })).await.json();
    assert!(found["request"]["request_url"].as_str().unwrap().contains("openid=o1"), "{found}");
    assert_eq!(bench.call("/cgi-bin/openapi/rid/get", &json!({ "rid": "x" })).await.errcode(), 76001);
}
