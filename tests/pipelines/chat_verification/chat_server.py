"""A chat model on this machine that compares images by a rule, and misbehaves on plan.

Speaks as much of OpenAI's protocol as a client needs, and is stricter: images must come
as image parts. A demo of the chat pipeline:

    python -m tests.pipelines.chat_verification.chat_server
"""

import base64
import hashlib
import io
import json
import re
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
from PIL import Image

THRESHOLD = 40.0
# Faults that go away when asked again, by the transport or by another question ...
PASSING = ("429", "500", "slow", "truncated", "malformed", "null_body", "contradictory")
# ... and replies that stay what they are.
LASTING = ("refusal", "null", "no_content")
HARMLESS = ("fine", "fenced", "length")
ALL = (*PASSING, *LASTING, *HARMLESS)


def distance(first: np.ndarray, second: np.ndarray) -> float:
    """Returns the mean absolute difference of two grey images, at one size."""
    small = [
        np.asarray(Image.fromarray(x).convert("L").resize((16, 16)), float)
        for x in (first, second)
    ]
    return float(np.abs(small[0] - small[1]).mean())


def judge(first: np.ndarray, second: np.ndarray) -> bool:
    """Returns whether the rule takes two images for one writer's."""
    return distance(first, second) < THRESHOLD


class ChatServer:
    """The server, in a thread of its own, between ``with`` and its end."""

    def __init__(self, faults=("fine",), key="sk-test", delay=0.0):
        """Plans the faults: which one a pair meets depends on its images alone."""
        self.faults, self.key, self.delay = faults, key, delay
        self.salt = 0
        self.calls = 0
        self.seen: dict[str, int] = {}
        self.statuses: list[int] = []
        self.most_at_once = self._at_once = 0
        self._lock = threading.Lock()

    def __enter__(self):
        """Starts to listen."""
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                outer.answer(self)

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
        return self

    def __exit__(self, *_):
        """Stops listening."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def fault_of(self, first, second) -> str:
        """Returns the fault that a pair meets, in whichever order."""
        digests = sorted(
            hashlib.sha256(x.tobytes()).hexdigest() for x in (first, second)
        )
        return self.faults[(int(digests[0], 16) ^ self.salt) % len(self.faults)]

    def answer(self, handler) -> None:
        """Answers one request."""
        with self._lock:
            self.calls += 1
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            length = int(handler.headers["Content-Length"])
            body = handler.rfile.read(length)
            time.sleep(self.delay)
            problem = self._check(handler, body)
            if problem:
                status, text = problem
                error = {"message": text, "code": text}
                self._send(handler, status, json.dumps({"error": error}))
            else:
                self._answer(handler, json.loads(body), body)
        finally:
            with self._lock:
                self._at_once -= 1

    def _check(self, handler, body):
        if handler.path != "/v1/chat/completions":
            return 404, "no such path"
        if handler.headers.get("Authorization") != f"Bearer {self.key}":
            given = handler.headers.get("Authorization", "").removeprefix("Bearer ")
            return 401, f"Incorrect API key provided: {given}"
        request = json.loads(body)
        if not {"model", "messages", "temperature", "max_tokens"} <= request.keys():
            return 400, "a field is missing"
        for message in request["messages"]:
            content = message["content"]
            for part in content if isinstance(content, list) else [{"text": content}]:
                if re.search(r"[A-Za-z0-9+/=]{2000,}", part.get("text") or ""):
                    return 400, "an image was pasted as text"
        return None

    def _answer(self, handler, request, body) -> None:
        images = self._images(request)[-2:]
        fault = self.fault_of(*images)
        digest = hashlib.sha256(body).hexdigest()
        with self._lock:
            first_time = digest not in self.seen
            self.seen[digest] = self.seen.get(digest, 0) + 1
        last = request["messages"][-1]["content"]
        deciding = "JSON" in (last if isinstance(last, str) else last[0]["text"])
        if fault in PASSING[:6] and first_time:
            self._misbehave(handler, fault)
            return
        reply = self._reply(fault, deciding, last, images)
        self._send(handler, 200, json.dumps(reply))

    def _images(self, request):
        out = []
        for message in request["messages"]:
            content = message["content"]
            for part in content if isinstance(content, list) else []:
                if part["type"] == "image_url":
                    assert part["image_url"]["detail"] in ("low", "high", "auto")
                    data = part["image_url"]["url"].removeprefix(
                        "data:image/png;base64,"
                    )
                    image = Image.open(
                        io.BytesIO(base64.b64decode(data, validate=True))
                    )
                    out.append(np.asarray(image.convert("RGB")))
        if len(out) == 1:  # a composite: its white gap is in the middle
            half = (out[0].shape[1] - 12) // 2
            out = [out[0][:, :half], out[0][:, -half:]]
        return out

    def _misbehave(self, handler, fault: str) -> None:
        if fault == "429":
            self._send(handler, 429, "{}", {"Retry-After": "0.05"})
        elif fault == "500":
            self._send(handler, 500, "{}", {"Retry-After": "0.05"})
        elif fault == "slow":
            time.sleep(1.5)  # longer than the client waits
            self._send(handler, 200, "{}")
        elif fault == "truncated":
            handler.send_response(200)
            handler.send_header("Content-Type", "application/json")
            handler.send_header("Content-Length", "5000")
            handler.end_headers()
            handler.wfile.write(b'{"choices": [{"mess')
            handler.close_connection = True
        elif fault == "malformed":
            self._send(handler, 200, '{"choices": [{"message": ')
        else:
            self._send(handler, 200, "null")

    def _reply(self, fault: str, deciding: bool, last, images):
        same = judge(*images)
        message = {"role": "assistant", "content": None}
        finish = "stop"
        again = isinstance(last, str) and last.startswith("Your last answer")
        if fault == "refusal" and deciding:
            message["refusal"] = "I cannot help with that."
        elif fault == "null" and deciding:
            message["content"] = '{"same_writer": null, "confidence": 0.0}'
        elif fault == "no_content" and deciding:
            pass
        elif fault == "contradictory" and deciding and not again:
            message["content"] = "By the same writer, or by different writers."
        elif deciding:
            lines = self._explain(images).splitlines()
            fields = {"same_writer": same, "confidence": 0.8, "reasons": lines}
            message["content"] = json.dumps(fields)
            if fault == "fenced":
                message["content"] = f"Here:\n```json\n{message['content']}\n```"
        else:
            message["content"] = self._explain(images)
            finish = "length" if fault == "length" else "stop"
        return {
            "id": "x",
            "object": "chat.completion",
            "created": 0,
            "model": "rule",
            "choices": [{"index": 0, "message": message, "finish_reason": finish}],
            "usage": {
                "prompt_tokens": 100,
                "completion_tokens": 10,
                "total_tokens": 110,
            },
        }

    def _explain(self, images) -> str:
        sizes = ["large" if (x < 128).mean() > 0.3 else "small" for x in images]
        agree = "yes" if sizes[0] == sizes[1] else "no"
        return f"size | {sizes[0]} | {sizes[1]} | {agree}\nThe rest is similar."

    def _send(self, handler, status: int, text: str, headers=()) -> None:
        self.statuses.append(status)
        data = text.encode()
        try:
            handler.send_response(status)
            handler.send_header("Content-Type", "application/json")
            handler.send_header("Content-Length", str(len(data)))
            for name, value in dict(headers).items():
                handler.send_header(name, value)
            handler.end_headers()
            handler.wfile.write(data)
        except OSError:  # the client did not wait
            handler.close_connection = True


if __name__ == "__main__":
    with ChatServer(ALL) as server:
        print(f"base_url {server.url}, key {server.key}; end with Ctrl-C")
        threading.Event().wait()
