"""A real HTTP server that speaks OpenAI's chat completions and misbehaves on request.

Tests script it by model: `provider.script("t-nano", status(429, retry_after=0), ok())` answers the
first request to that model with a 429 and the next with an answer; after the script, all is well.
It keeps what came over the wire and what it would bill.
"""

from __future__ import annotations

import json
import socket
import struct
import threading
import time
from collections import defaultdict, deque
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

USAGE = {
    "prompt_tokens": 20,
    "completion_tokens": 10,
    "total_tokens": 30,
    "prompt_tokens_details": {"cached_tokens": 4},
    "completion_tokens_details": {"reasoning_tokens": 3},
}


@dataclass(frozen=True)
class Behaviour:
    status: int = 200
    text: str = "a fine answer"
    usage: Any = field(default_factory=lambda: dict(USAGE))
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | None = None  # sent as it is instead of an answer
    content_type: str = "application/json"
    delay: float = 0.0  # seconds before the answer
    chunk_delay: float = 0.0  # seconds between the chunks of a stream, or the lines of a `body`
    chunks: int = 3
    pieces: tuple[str, ...] = ()  # the texts of a stream's chunks
    cut: bool = False  # close the connection: before the answer, or in the middle of a stream
    reset: bool = False  # reset it instead of an answer
    tool_calls: Any = None
    # Of tokens: (text, log-probability, {other text: its}); given where the call asks for them.
    logprobs: tuple[tuple[str, float, dict[str, float]], ...] = ()
    finish_reason: str = "stop"  # of an answer that calls no tool


def ok(**changes: Any) -> Behaviour:
    return Behaviour(**changes)


def status(code: int, *, retry_after: float | None = None) -> Behaviour:
    headers = {} if retry_after is None else {"retry-after": str(retry_after)}
    body = json.dumps({"error": {"message": f"scripted {code}", "type": "scripted"}}).encode()
    return Behaviour(status=code, headers=headers, body=body)


class Provider:
    """The server. `wire` holds (path, headers, body) of each request in order."""

    def __init__(self) -> None:
        self.wire: list[tuple[str, dict[str, str], dict[str, Any]]] = []
        self.scripts: dict[str, deque[Behaviour]] = defaultdict(deque)
        self.default = Behaviour()
        self._lock = threading.Lock()
        provider = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True  # or each body waits 40 ms for its headers' receipt

            def log_message(self, *args: Any) -> None: ...

            def do_GET(self) -> None:
                if provider.takes(self, b""):
                    return
                body = json.dumps({"object": "list", "data": [{"id": "t-nano"}]}).encode()
                self.send_response(200)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def do_DELETE(self) -> None:
                if not provider.takes(self, b""):
                    self.send_error(404)

            def do_POST(self) -> None:
                length = int(self.headers["content-length"])
                raw = self.rfile.read(length)
                if provider.takes(self, raw):
                    return
                body = json.loads(raw)
                headers = {name.lower(): value for name, value in self.headers.items()}
                behaviour = provider._next(self.path, headers, body)
                try:
                    _answer(self, body, behaviour)
                except (BrokenPipeError, ConnectionResetError):
                    self.close_connection = True

        class Listening(ThreadingHTTPServer):
            request_queue_size = 512  # with 5, as it comes, some of 200 calls at once are dropped

        self._server = Listening(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
        # Looks for its end every 20 ms, since each test ends one.
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def _next(self, path: str, headers: dict[str, str], body: dict[str, Any]) -> Behaviour:
        with self._lock:
            self.wire.append((path, headers, body))
            script = self.scripts[body.get("model", "")]
            return script.popleft() if script else self.default

    def takes(self, handler: Any, raw: bytes) -> bool:
        """Whether a request was for something other than a chat, and has been answered."""
        return False

    def script(self, model: str, *behaviours: Behaviour) -> None:
        self.scripts[model].extend(behaviours)

    @property
    def models(self) -> list[str]:
        """The models that were asked, in order."""
        return [body["model"] for _, _, body in self.wire]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def _answer(handler: Any, body: dict[str, Any], behaviour: Behaviour) -> None:
    time.sleep(behaviour.delay)
    if behaviour.reset:
        handler.close_connection = True
        no_goodbye = struct.pack("ii", 1, 0)
        handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, no_goodbye)
        handler.rfile.close()
        handler.connection.close()
        return
    if behaviour.cut and not body.get("stream"):
        handler.close_connection = True
        return
    if body.get("stream") and behaviour.body is None:
        _stream(handler, body, behaviour)
        return
    payload = behaviour.body if behaviour.body is not None else _completion(body, behaviour)
    handler.send_response(behaviour.status)
    for name, value in behaviour.headers.items():
        handler.send_header(name, value)
    handler.send_header("content-type", behaviour.content_type)
    handler.send_header("content-length", str(len(payload)))
    handler.end_headers()
    for event in payload.splitlines(keepends=True) if behaviour.chunk_delay else [payload]:
        handler.wfile.write(event)
        time.sleep(behaviour.chunk_delay)


def _logprobs(body: dict[str, Any], behaviour: Behaviour) -> Any:
    """As OpenAI gives them: null for a call that did not ask."""
    if not body.get("logprobs") or not behaviour.logprobs:
        return None
    content = []
    for token, logprob, others in behaviour.logprobs:
        top = sorted({token: logprob, **others}.items(), key=lambda each: -each[1])
        shown = [_token(*each) for each in top[: body.get("top_logprobs") or 0]]
        content.append({**_token(token, logprob), "top_logprobs": shown})
    return {"content": content, "refusal": None}


def _token(text: str, logprob: float) -> dict[str, Any]:
    return {"token": text, "logprob": logprob, "bytes": list(text.encode())}


def _completion(body: dict[str, Any], behaviour: Behaviour) -> bytes:
    message: dict[str, Any] = {"role": "assistant", "content": behaviour.text}
    if behaviour.tool_calls:
        message = {"role": "assistant", "content": None, "tool_calls": behaviour.tool_calls}
    reply = {
        "id": "chatcmpl-test",
        "object": "chat.completion",
        "created": 1,
        "model": body["model"],
        "choices": [
            {
                "index": index,
                "message": message,
                "finish_reason": "tool_calls" if behaviour.tool_calls else behaviour.finish_reason,
                "logprobs": _logprobs(body, behaviour),
            }
            for index in range(body.get("n") or 1)
        ],
    }
    if behaviour.usage is not None:
        reply["usage"] = behaviour.usage
    return json.dumps(reply).encode()


def _stream(handler: Any, body: dict[str, Any], behaviour: Behaviour) -> None:
    handler.send_response(200)
    for name, value in behaviour.headers.items():
        handler.send_header(name, value)
    handler.send_header("content-type", "text/event-stream")
    handler.send_header("connection", "close")
    handler.end_headers()
    handler.close_connection = True

    def send(choices: list[Any], **more: Any) -> None:
        chunk = {
            "id": "chatcmpl-test",
            "object": "chat.completion.chunk",
            "created": 1,
            "model": body["model"],
            "choices": choices,
            **more,
        }
        handler.wfile.write(b"data: " + json.dumps(chunk).encode() + b"\n\n")
        handler.wfile.flush()

    for piece in behaviour.pieces or [f"part {index} " for index in range(behaviour.chunks)]:
        delta = {"role": "assistant", "content": piece}
        send([{"index": 0, "delta": delta, "finish_reason": None}])
        time.sleep(behaviour.chunk_delay)
    if behaviour.cut:
        return
    send([{"index": 0, "delta": {}, "finish_reason": behaviour.finish_reason}])
    asked = (body.get("stream_options") or {}).get("include_usage")
    if behaviour.usage is not None and asked:
        send([], usage=behaviour.usage)
    handler.wfile.write(b"data: [DONE]\n\n")
