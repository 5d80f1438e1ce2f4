"""Takes each cycle once, and none from a scheduler that was replaced: CALLBACK_SECRET=... python consumer.py [PORT].

What it knows is in memory: keep keys (a day) and fences (for ever) in your database, in one transaction with your work.
"""

# ruff: noqa: T201  a program for a terminal
import hashlib
import hmac
import json
import os
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

SECRET = os.environ.get("CALLBACK_SECRET", "").encode()
LONGEST, MOST_KEYS, OLDEST_S = 1 << 20, 100_000, 300
keys, fences, lock = dict[str, None](), dict[str, int](), threading.Lock()


def is_signed(header: str, body: bytes) -> bool:
    sent, _, digest = header.removeprefix("t=").partition(",v1=")
    right = hmac.new(SECRET, f"{sent}.".encode() + body, hashlib.sha256).hexdigest()
    fresh = sent.isdecimal() and abs(time.time() - int(sent)) <= OLDEST_S
    return fresh and hmac.compare_digest(digest.encode(), right.encode())


def judge(key: str, agent: str, fence: str) -> tuple[int, dict[str, object]]:
    if not (key and agent and fence.isdecimal() and len(fence) < 20):
        return 400, {"error": "a header is missing"}
    with lock:
        if key in keys:  # before the fence: what was accepted and is sent again is no stale cycle
            return 200, {"ok": True, "duplicate": True, "reason": "idempotency_duplicate"}
        if int(fence) < (current := fences.get(agent, 0)):
            return 409, {"error": "stale_fence_token", "currentFence": current, "receivedFence": int(fence)}
        keys[key], fences[agent] = None, int(fence)
        if len(keys) > MOST_KEYS:
            del keys[next(iter(keys))]  # the oldest
        print("cycle", agent, key, flush=True)  # your work belongs here
    return 200, {"ok": True, "accepted": True, "duplicate": False}


class Consumer(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "")
        body = self.rfile.read(int(length)) if length.isdecimal() and int(length) <= LONGEST else b""
        status, answer = 401, dict[str, object](error="unauthorized")
        if not SECRET or is_signed(self.headers.get("X-VMSH-Signature", ""), body):
            names = ("Idempotency-Key", "Agent-Key", "Leader-Fence-Token")
            status, answer = judge(*(self.headers.get(f"X-ForgeOS-{name}", "") for name in names))
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps(answer).encode())


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", int((sys.argv[1:] or ["3001"])[0])), Consumer)
    print("listening on", server.server_port, flush=True)
    server.serve_forever()
