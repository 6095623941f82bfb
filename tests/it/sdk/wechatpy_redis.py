"""wechatpy, as it comes from PyPI, with its own RedisStorage, on the token that weigate publishes.

    python wechatpy_redis.py WECHAT_BASE_URL APP_ID REDIS_PORT

Calls until its input ends. Says after the first call with each token how many tokens there have been, and at the end how
many calls went well. The first call that goes wrong ends it with a traceback and exit code 1.

What is set differs from a program that talks to WeChat itself in one thing: the base URL is that of a stand-in for
WeChat. That it never fetches a token is looked at: where it would, it fails.
"""

import sys
import threading

import redis
from wechatpy import WeChatClient
from wechatpy.session.redisstorage import RedisStorage

BASE, APP_ID, PORT = sys.argv[1:]


class Client(WeChatClient):
    API_BASE_URL = BASE + '/cgi-bin/'

    def fetch_access_token(self):
        raise AssertionError('found no token, or one that was refused')


session = RedisStorage(redis.Redis(host='127.0.0.1', port=int(PORT)))
client = Client(APP_ID, 'not the secret', session=session, timeout=20)
ended = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()

calls, tokens = 0, set()
while not ended.is_set():
    token = client.access_token
    user = client.user.get('o6')
    if user['openid'] != 'o6':
        raise AssertionError(user)
    calls += 1
    if token not in tokens:
        tokens.add(token)
        print(len(tokens), flush=True)
print(calls, flush=True)
