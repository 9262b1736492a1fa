"""The provider with OpenAI's files and batches: POST /files, GET /files/{id}/content,
POST and GET /batches, GET /batches/{id}, POST /batches/{id}/cancel, over real HTTP.

A batch runs its lines when it is looked at while `running`; each line is answered by its model's
script, like a call. `done` has what it ran, once a line: that is what it bills.
"""

from __future__ import annotations

import json
import threading
import time
from email.parser import BytesParser
from email.policy import HTTP
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.provider import Provider, _completion


class BatchProvider(Provider):
    """`running`: whether batches come to an end; `stop_after`: lines that a batch runs before it
    expires; `lose_replies`: how many batches are made whose reply is cut off; `refuse`: what files
    and batches are answered with instead (an HTTP status), or None."""

    def __init__(self) -> None:
        super().__init__()
        self.files: dict[str, bytes] = {}
        self.batches: dict[str, dict[str, Any]] = {}
        self.done: list[tuple[str, dict[str, Any]]] = []  # (custom_id, body)
        self.asked: list[str] = []  # method and path
        self.running, self.lose_replies = True, 0
        self.slow_replies = 0.0  # seconds between making a batch and saying so
        self.stop_after: int | None = None
        self.refuse: int | None = None
        self.reject: str | None = None  # what is wrong with a whole batch
        self._names = 0
        self._state = threading.RLock()

    def takes(self, handler: Any, raw: bytes) -> bool:
        parts = urlsplit(handler.path)
        way = parts.path.removeprefix("/v1").strip("/").split("/")
        if way[0] not in ("files", "batches"):
            return False
        with self._state:
            self.asked.append(f"{handler.command} {parts.path}")
            if self.refuse is not None:
                _send(handler, {"error": {"message": "refused"}}, self.refuse)
            elif way[0] == "files":
                self._files(handler, way, raw)
            else:
                self._batches(handler, way, raw, parse_qs(parts.query))
        return True

    def _reply(self, handler: Any, body: Any) -> None:
        time.sleep(self.slow_replies)
        _send(handler, body)

    def _files(self, handler: Any, way: list[str], raw: bytes) -> None:
        if handler.command == "GET":
            _send(handler, self.files[way[1]])
            return
        if handler.command == "DELETE":
            del self.files[way[1]]
            _send(handler, {"id": way[1], "object": "file", "deleted": True})
            return
        head = f"content-type: {handler.headers['content-type']}\r\n\r\n".encode()
        form = BytesParser(policy=HTTP).parsebytes(head + raw)
        fields = {
            part.get_param("name", header="content-disposition"): part for part in form.iter_parts()
        }
        assert fields["purpose"].get_content().strip() == "batch"
        _send(handler, self._keep(fields["file"].get_payload(decode=True)))

    def _keep(self, data: bytes) -> dict[str, Any]:
        name = f"file-{self._names}"
        self._names += 1
        self.files[name] = data
        return {
            "id": name, "object": "file", "bytes": len(data), "created_at": int(time.time()),
            "filename": "lines.jsonl", "purpose": "batch", "status": "processed",
        }  # fmt: skip

    def _batches(self, handler: Any, way: list[str], raw: bytes, query: dict[str, Any]) -> None:
        if handler.command == "POST" and len(way) == 1:
            asked = json.loads(raw)
            assert (asked["endpoint"], asked["completion_window"]) == (
                "/v1/chat/completions",
                "24h",
            )
            name = f"batch_{len(self.batches)}"
            self.batches[name] = {
                "id": name, "object": "batch", "status": "in_progress", "errors": None,
                "output_file_id": None, "error_file_id": None, "created_at": int(time.time()),
                **{key: asked.get(key) for key in
                   ("endpoint", "completion_window", "input_file_id", "metadata")},
            }  # fmt: skip
            if self.reject is not None:
                errors = {"object": "list", "data": [{"code": "bad", "message": self.reject}]}
                self.batches[name].update(status="failed", errors=errors)
            if self.lose_replies:
                self.lose_replies -= 1
                handler.close_connection = True
                return
            self._reply(handler, self.batches[name])
        elif len(way) == 1:  # a page of the list, the newest first
            names = list(reversed(self.batches))
            if "after" in query:
                names = names[names.index(query["after"][0]) + 1 :]
            page = names[:2]  # small, so that pages are turned
            data = [self.batches[name] for name in page]
            more = len(names) > len(page)
            _send(handler, {"object": "list", "data": data, "has_more": more,
                            "first_id": page[0] if page else None,
                            "last_id": page[-1] if page else None})  # fmt: skip
        elif len(way) == 3:
            self._end(self.batches[way[1]], "cancelled", 0)
            _send(handler, self.batches[way[1]])
        else:
            batch = self.batches[way[1]]
            if self.running and batch["status"] == "in_progress":
                stopped = self.stop_after is not None
                self._end(batch, "expired" if stopped else "completed", self.stop_after)
            _send(handler, batch)

    def _end(self, batch: dict[str, Any], status: str, most: int | None) -> None:
        """Run so many lines of a batch (None: all) and end it."""
        lines = [json.loads(line) for line in self.files[batch["input_file_id"]].splitlines()]
        answers, errors = [], []
        for line in lines[:most]:
            body = line["body"]
            behaviour = self._scripted(body)
            self.done.append((line["custom_id"], body))
            payload = behaviour.body or _completion(body, behaviour)
            reply = {
                "status_code": behaviour.status,
                "request_id": "r",
                "body": json.loads(payload),
            }
            entry = {"id": "x", "custom_id": line["custom_id"], "response": reply, "error": None}
            (answers if behaviour.status == 200 else errors).append(entry)
        for line in lines[len(lines) if most is None else most :]:
            error = {"code": f"batch_{status}", "message": f"the batch {status}"}
            errors.append(
                {"id": "x", "custom_id": line["custom_id"], "response": None, "error": error}
            )
        for key, entries in (("output_file_id", answers), ("error_file_id", errors)):
            if entries:
                batch[key] = self._keep("".join(json.dumps(e) + "\n" for e in entries).encode())[
                    "id"
                ]
        batch["status"] = status

    def _scripted(self, body: dict[str, Any]) -> Any:
        script = self.scripts[body.get("model", "")]
        return script.popleft() if script else self.default


def _send(handler: Any, body: Any, status: int = 200) -> None:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    handler.send_response(status)
    handler.send_header("content-type", "application/json")
    handler.send_header("content-length", str(len(data)))
    handler.end_headers()
    handler.wfile.write(data)
