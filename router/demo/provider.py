"""A simulated, OpenAI-compatible provider over real HTTP on 127.0.0.1; it calls no model.

    python -m router.demo.provider --port 0 --seed 0

prints one ready line, `{"ready": true, "port": …}`, and then serves:

- `POST /v1/chat/completions`, whole or as server-sent events, and `GET /v1/models`
- `GET /stats`: requests that came over the wire, and its own bill in nano-USD
- `GET /verdicts`: completion id → was the answer good. Outside the answers on purpose: a caller
  passes it on as feedback, and the router has no way to see it beforehand.

Every answer says that it is simulated. Success and length follow `curves.json`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from router.demo.answers import STREAM_PIECES, Answer
from router.demo.simulation import (
    LATENCY_SCALE,
    MODEL_PREFIX,
    PRICES,
    RETRY_AFTER_SECONDS,
    Draw,
    Simulation,
)

MAX_BODY_BYTES = 16 * 1024 * 1024


class Books:
    """What the provider counts; every method may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._wire: Counter[str] = Counter()
        self._faults: Counter[str] = Counter()
        self._attempts: Counter[tuple[str, str]] = Counter()
        self._models: dict[str, Counter[str]] = {}
        self._frontier: dict[str, tuple[int, bool]] = {}
        self._verdicts: dict[str, dict[str, Any]] = {}

    def arrived(self) -> None:
        with self._lock:
            self._wire["requests"] += 1

    def attempt(self, key: str, tier: str) -> int:
        """Count an attempt at a prompt by a tier, and return how many came before it."""
        with self._lock:
            self._attempts[key, tier] += 1
            return self._attempts[key, tier] - 1

    def failed(self, status: int) -> None:
        with self._lock:
            self._faults[str(status)] += 1

    def answered(
        self, answer: Answer, draw: Draw, frontier: Draw, *, delivered: bool = True
    ) -> None:
        """Bill an answer. `frontier` is what the frontier tier would have drawn instead."""
        with self._lock:
            model = self._models.setdefault(answer.model, Counter())
            model["answers"] += 1
            model["input_tokens"] += answer.input_tokens
            model["output_tokens"] += draw.output_tokens
            model["bill_nano"] += draw.bill(answer.tier, answer.input_tokens)
            bill = frontier.bill("frontier", answer.input_tokens)
            self._frontier[answer.key] = (bill, frontier.success)
            self._verdicts[answer.id] = {
                "success": draw.success and delivered,
                "difficulty": draw.difficulty,
            }

    def stats(self) -> dict[str, Any]:
        with self._lock:
            return {
                "simulated": True,
                "latency_scale": LATENCY_SCALE,
                "wire_requests": self._wire["requests"],
                "faults": dict(self._faults),
                "models": {name: dict(counts) for name, counts in self._models.items()},
                "bill_nano": sum(counts["bill_nano"] for counts in self._models.values()),
                # What the same prompts would have come to on the frontier, by the same draws.
                "frontier_bill_nano": sum(bill for bill, _ in self._frontier.values()),
                "frontier_good": sum(good for _, good in self._frontier.values()),
                "prompts": len(self._frontier),
            }

    def verdicts(self) -> dict[str, dict[str, Any]]:
        with self._lock:
            return dict(self._verdicts)


class _Refusal(Exception):
    """A request that is answered with an HTTP error, in OpenAI's error shape."""

    def __init__(self, status: int, message: str, kind: str) -> None:
        super().__init__(message)
        self.status, self.kind = status, kind

    def body(self) -> dict[str, Any]:
        return {"error": {"message": f"[simulated] {self}", "type": self.kind, "code": None}}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # keeps connections alive
    disable_nagle_algorithm = True  # small answers must not wait for an acknowledgement
    server: Server

    def do_GET(self) -> None:
        match self.path:
            case "/v1/models":
                data = [
                    {"id": MODEL_PREFIX + tier, "object": "model", "owned_by": "simulated"}
                    for tier in PRICES
                ]
                self._send(200, {"object": "list", "data": data})
            case "/stats":
                self._send(200, self.server.books.stats())
            case "/verdicts":
                self._send(200, self.server.books.verdicts())
            case _:
                self._send(404, _Refusal(404, f"no page {self.path}", "not_found").body())

    def do_POST(self) -> None:
        size = int(self.headers.get("Content-Length", 0))
        if size > MAX_BODY_BYTES:
            self.close_connection = True
            return self._send(413, _Refusal(413, "body too large", "invalid_request_error").body())
        raw = self.rfile.read(size)
        if self.path != "/v1/chat/completions":
            return self._send(404, _Refusal(404, f"no page {self.path}", "not_found").body())
        self.server.books.arrived()
        try:
            self._complete(raw)
        except _Refusal as refusal:
            self.server.books.failed(refusal.status)
            wait = {"Retry-After": str(RETRY_AFTER_SECONDS)} if refusal.status == 429 else {}
            self._send(refusal.status, refusal.body(), wait)

    def _complete(self, raw: bytes) -> None:
        server = self.server
        body, answer = _read(raw)
        if server.books.attempt(answer.key, answer.tier) == 0:
            match server.simulation.fault(answer.key, answer.tier):
                case 429:
                    raise _Refusal(429, "rate limit reached", "rate_limit_error")
                case 500:
                    raise _Refusal(500, "the server had an error", "server_error")
        draw = server.simulation.draw(answer.key, answer.tier, answer.cap)
        frontier = server.simulation.draw(answer.key, "frontier")
        if not body.get("stream"):
            time.sleep(draw.seconds / LATENCY_SCALE)
            server.books.answered(answer, draw, frontier)
            return self._send(200, answer.whole(draw))
        delivered = False
        try:
            self._stream(answer, draw, body)
            delivered = True
        except OSError:  # the caller hung up; the answer is billed all the same
            self.close_connection = True
        finally:
            server.books.answered(answer, draw, frontier, delivered=delivered)

    def _stream(self, answer: Answer, draw: Draw, body: Mapping[str, Any]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        time.sleep(draw.first_token_s / LATENCY_SCALE)
        pause = (draw.seconds - draw.first_token_s) / STREAM_PIECES / LATENCY_SCALE
        include_usage = bool((body.get("stream_options") or {}).get("include_usage"))
        for chunk in answer.chunks(draw, include_usage):
            self._write_chunk(f"data: {json.dumps(chunk)}\n\n")
            time.sleep(pause)
        self._write_chunk("data: [DONE]\n\n")
        self.wfile.write(b"0\r\n\r\n")

    def _write_chunk(self, event: str) -> None:
        data = event.encode()
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")

    def _send(self, status: int, body: Any, headers: Mapping[str, str] | None = None) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: the terminal belongs to the demo."""


def _read(raw: bytes) -> tuple[dict[str, Any], Answer]:
    """Parse a request body; raise `_Refusal` for one that OpenAI would refuse too."""
    try:
        body = json.loads(raw)
        model = body["model"]
        roles = [message["role"] for message in body["messages"]]
    except (ValueError, KeyError, TypeError) as error:
        raise _Refusal(400, f"not a chat request: {error!r}", "invalid_request_error") from None
    tier = str(model).removeprefix(MODEL_PREFIX)
    if tier not in PRICES:
        raise _Refusal(404, f"no model {model!r}", "invalid_request_error")
    if not roles:
        raise _Refusal(400, "messages is empty", "invalid_request_error")
    return body, Answer(body, tier)


class Server(ThreadingHTTPServer):
    """The provider on one port of 127.0.0.1; `port` 0 takes a free one."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, port: int = 0, seed: int = 0) -> None:
        self.simulation, self.books = Simulation(seed), Books()
        super().__init__(("127.0.0.1", port), _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Report what goes wrong, but not that a caller hung up."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--port", type=int, default=0, help="0 takes a free port")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--until-stdin-closes", action="store_true", help="end when the parent process is gone"
    )
    options = parser.parse_args(arguments)
    server = Server(options.port, options.seed)
    if options.until_stdin_closes:

        def watch() -> None:
            while os.read(sys.stdin.fileno(), 1024):  # a buffer's lock would be held at the exit
                pass
            server.shutdown()

        threading.Thread(target=watch, daemon=True).start()
    try:
        print(json.dumps({"ready": True, "port": server.server_address[1]}), flush=True)
        server.serve_forever(poll_interval=0.1)
    except KeyboardInterrupt:
        pass
    finally:
        server.server_close()


if __name__ == "__main__":
    main()
