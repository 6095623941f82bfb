'use strict';

// co-wechat-api, as it comes from npm, against weigate.
//
//     node co_wechat_api.js BASE_URL APP_ID CLIENT_KEY
//
// Prints one JSON line for each call, {"call": ..., "answer": ...}, and in the middle {"pause": "revoke"}, after which
// it waits for a line on stdin. The first call that goes wrong ends it with a stack and exit code 1.
//
// Two things differ from a program that talks to WeChat itself: the secret is the client key, and the instance's
// prefixes are ours. (Its datacube and kfaccount calls hold WeChat's address in their code, so they are left out.)

const assert = require('node:assert/strict');
const crypto = require('node:crypto');
const fs = require('node:fs');
const os = require('node:os');
const path = require('node:path');
const readline = require('node:readline');

const API = require('co-wechat-api');

const [base, appId, key] = process.argv.slice(2);

// How often the SDK itself thought that its token had died: saveToken(null).
let tokensThrownAway = 0;
let kept;
const api = new API(appId, key, async () => kept, async (token) => {
  if (token === null) tokensThrownAway += 1;
  kept = token;
});
api.prefix = `${base}/cgi-bin/`;
api.fileServerPrefix = `${base}/cgi-bin/`;
api.snsPrefix = `${base}/sns/`;
api.wxaPrefix = `${base}/wxa/`;
api.customservicePrefix = `${base}/customservice/`;
api.setOpts({ timeout: 20000 });

function say(line) {
  process.stdout.write(`${JSON.stringify(line)}\n`);
}

async function call(name, ...parameters) {
  const answer = await api[name](...parameters);
  const shown = Buffer.isBuffer(answer)
    ? { bytes: answer.length, sha256: crypto.createHash('sha256').update(answer).digest('hex') }
    : answer;
  say({ call: name, answer: shown });
  return answer;
}

// A pixel, with bytes behind it that are no text in any encoding.
const picture = Buffer.concat([
  Buffer.from('R0lGODlhAQABAIAAAAUEBAAAACwAAAAAAQABAAACAkQBADs=', 'base64'),
  ...Array(64).fill(Buffer.from(Array.from({ length: 256 }, (_, byte) => byte))),
]);
const menu = {
  button: [
    { type: 'click', name: '今日歌曲', key: 'V1001_TODAY_MUSIC' },
    { name: '菜单', sub_button: [{ type: 'view', name: '搜索', url: 'https://example.com/?a=1&b=%E4%BD%A0' }] },
  ],
};

async function everyCall(turn, file) {
  // The first call after the revocation is one whose body must be sent twice.
  const uploaded = await call('uploadMedia', file, 'image');
  assert.ok((await call('getMedia', uploaded.media_id)).equals(picture));
  const buffered = await call('uploadMedia', picture, 'image', 'p.gif', 'image/gif');
  assert.ok((await call('getMedia', buffered.media_id)).equals(picture));
  const before = await call('getMaterialCount');
  const material = await call('uploadMaterial', file, 'image');
  assert.equal((await call('getMaterialCount')).image_count, before.image_count + 1);
  assert.ok((await call('getMaterial', material.media_id)).equals(picture));
  assert.equal((await call('getMaterials', 'image', 0, 20)).item[0].media_id, material.media_id);

  await call('createMenu', menu);
  const got = (await call('getMenu')).menu;
  assert.equal(got.button[0].name, '今日歌曲');
  assert.equal(got.button[1].sub_button[0].url, 'https://example.com/?a=1&b=%E4%BD%A0');
  await call('removeMenu');
  // WeChat's own errors come through too.
  await assert.rejects(call('getMenu'), (error) => error.code === 46003);

  const openid = (await call('getFollowers')).data.openid[0];
  assert.equal((await call('getUser', { openid, lang: 'zh_CN' })).openid, openid);
  assert.equal((await call('batchGetUsers', [openid])).user_info_list[0].openid, openid);
  const sent = await call('sendTemplate', openid, 'TM00015', 'https://example.com/', '#FF0000', {
    first: { value: '恭喜 "你" & +1%' },
  });
  assert.equal(sent.errcode, 0);
  assert.equal((await call('sendText', openid, '你好 <a href="x">😀</a>')).errcode, 0);

  assert.equal((await call('createTmpQRCode', 123, 1800)).expire_seconds, 1800);
  const { tag } = await call('createTags', `标签${turn}`);
  assert.ok((await call('getTags')).tags.some(({ id, name }) => id === tag.id && name === `标签${turn}`));
  await call('shorturl', 'https://example.com/a?b=c&d=%20');
  await call('getTicket');
  await call('getCustomServiceList');
  assert.ok(Buffer.isBuffer(await call('getWXACodeUnlimit', 'a=1', 'pages/index')));

  const session = await call('code2Session', `good-mini-${turn}`);
  assert.equal(Buffer.from(session.session_key, 'base64').length, 16);
}

async function main() {
  const dir = fs.mkdtempSync(path.join(os.tmpdir(), 'weigate-sdk-'));
  const file = path.join(dir, 'p.gif');
  fs.writeFileSync(file, picture);
  try {
    say({ placeholder: (await api.ensureAccessToken()).accessToken });
    await everyCall(1, file);
    say({ pause: 'revoke' });
    const lines = readline.createInterface({ input: process.stdin });
    await new Promise((resolve) => lines.once('line', resolve));
    lines.close();
    await everyCall(2, file);
    assert.equal(tokensThrownAway, 0);
    say({ placeholder: (await api.ensureAccessToken()).accessToken });
  } finally {
    fs.rmSync(dir, { recursive: true });
  }
}

main().then(() => process.exit(0), (error) => {
  console.error(error);
  process.exitCode = 1;
});
