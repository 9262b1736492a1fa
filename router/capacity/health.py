"""How a server of one's own is: asked in a thread of its own, never while a request waits.

- vLLM: `/health`; from `/metrics` the gauge `vllm:num_requests_waiting` and the counter
  `vllm:request_success_total` (docs.vllm.ai, "Production Metrics").
- llama.cpp: `/health`, which is 503 while a model loads; `/slots`, where it is not switched off:
  how many calls it runs at once, and which of them are busy (its server's README).
- Ollama: `/api/ps`, which answers while the server is well; it tells no queue.
"""

from __future__ import annotations

import json
import os
import re
import threading
import time
import urllib.error
import urllib.request
import weakref
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

from router.decide.obstacles import Obstacle
from router.decide.options import Bar

if TYPE_CHECKING:
    from router.capacity.endpoint import Endpoint
    from router.policy.capacity import HealthCheck

_MOST_BYTES = 4_000_000  # of a server's word; vLLM's metrics are some 100 kB
_PACE_OVER = 12  # looks over which a server's pace is measured
_METRIC = re.compile(
    r"^(vllm:num_requests_waiting|vllm:request_success_total)(?:\{[^\n]*\})? +([0-9.eE+]{1,30})",
    re.MULTILINE,
)

Fetch = Callable[[str, float], str]  # URL, timeout in seconds → body; raises `Unwell`


class Unwell(Exception):
    """A server does not answer as a healthy one does; the message says how."""


@dataclass(frozen=True, slots=True)
class Health:
    """How a server said it is: requests `waiting` in its queue, None where it does not tell; and
    `finished` since it started, None alike. Of llama.cpp, which tells no queue, one waits where all
    slots are busy: the next one would."""

    waiting: int | None = None
    finished: int | None = None


def look(check: HealthCheck, root: str, fetch: Fetch) -> Health:
    """Ask a server at `root` how it is. Raises `Unwell`."""
    timeout = float(check.timeout_seconds)
    if check.server == "ollama":
        fetch(root + "/api/ps", timeout)
        return Health()
    fetch(root + "/health", timeout)
    path = "/metrics" if check.server == "vllm" else "/slots"
    try:
        text = fetch(root + path, timeout)
    except Unwell:
        return Health()  # switched off; the server itself is well
    return vllm_health(text) if check.server == "vllm" else llama_cpp_health(text)


def vllm_health(text: str) -> Health:
    """Read vLLM's metrics; a server of several engines has several of each, which are summed."""
    found: dict[str, float] = {}
    for name, number in _METRIC.findall(text):
        try:
            found[name] = found.get(name, 0.0) + float(number)
        except ValueError:
            continue
    counts = [found.get("vllm:num_requests_waiting"), found.get("vllm:request_success_total")]
    whole = [int(each) if each is not None and 0 <= each < 1e15 else None for each in counts]
    return Health(*whole)


def llama_cpp_health(text: str) -> Health:
    """Read llama.cpp's slots."""
    try:
        slots = json.loads(text)
        busy = [bool(slot.get("is_processing", slot.get("state"))) for slot in slots]
    except (ValueError, TypeError, AttributeError, RecursionError):
        return Health()
    return Health(waiting=int(bool(busy) and all(busy)))


class Queue:
    """How long a server's queue is and takes, from one look to the next.

    By Little's law (1961) the wait is the queue's length over the pace at which requests leave,
    which is measured over the last looks, as far back as there was a queue at each: that of a
    server with too little to do says nothing of what it can do.
    """

    def __init__(self, check: HealthCheck):
        self._check = check
        self._seen: deque[tuple[float, int]] = deque(maxlen=_PACE_OVER)

    def obstacle(self, health: Health, now: float) -> Obstacle | None:
        """What is in a call's way; None where nothing is. `now`: seconds that never go back."""
        check, every = self._check, float(self._check.every_seconds)
        wait = self.expected_wait(health, now)
        if health.waiting is None:
            return None
        if check.max_queue is not None and health.waiting > check.max_queue:
            why = f"{health.waiting} requests wait at the server"
            return Obstacle(Bar.AT_CAPACITY, why, every)
        longest = check.max_wait_seconds
        if longest is not None and wait is not None and wait > longest:
            why = f"{health.waiting} requests wait at the server, for about {wait:.3g} s"
            return Obstacle(Bar.AT_CAPACITY, why, every)
        return None

    def expected_wait(self, health: Health, now: float) -> float | None:
        """Seconds that a request sent now would wait; None where that cannot be told. Where nothing
        left since the first look, at least as long as that was ago."""
        if health.finished is None:
            return None
        if self._seen and health.finished < self._seen[-1][1]:
            self._seen.clear()  # it was started anew
        waiting = health.waiting
        if not waiting:
            self._seen.clear()
            return None if waiting is None else 0.0
        self._seen.append((now, health.finished))
        since, before = self._seen[0]
        if now <= since:
            return None
        return waiting * (now - since) / max(1, health.finished - before)


class Poller:
    """Asks one server how it is, every so often, until it is stopped or forgotten.

    Parameters: `endpoint`, which is told; `check`, the policy's; `base`, the deployment's api_base.
    """

    def __init__(self, endpoint: Endpoint, check: HealthCheck, base: str | None):
        self._check, self._root = check, root_of(check.url or base or "")
        self._endpoint = weakref.ref(endpoint)
        self._queue = Queue(check)
        self._stop = threading.Event()
        self._pid = 0
        self._lock = threading.Lock()  # of `_stop` and `_pid`: several first calls come at once

    def start(self) -> None:
        """Begin to ask, where this process does not do so yet: a fork has no threads."""
        if self._asks():  # so that the lock is not taken with every call, nor kept by a fork
            return
        with self._lock:
            if self._asks():
                return
            self._pid, self._stop = os.getpid(), threading.Event()
            threading.Thread(
                target=self._run, args=(self._stop,), name="router-health", daemon=True
            ).start()

    def _asks(self) -> bool:
        return self._pid == os.getpid() and not self._stop.is_set()

    def stop(self) -> None:
        """Ask no more. What is being asked just now is not reported any more either."""
        with self._lock:
            self._stop.set()

    def _run(self, stop: threading.Event) -> None:
        while not stop.is_set():
            found = self._look()
            endpoint = self._endpoint()
            if endpoint is None:
                return
            with self._lock:
                if not stop.is_set():
                    endpoint.report(found)
            del endpoint
            stop.wait(float(self._check.every_seconds))

    def _look(self) -> Obstacle | None:
        try:
            health = look(self._check, self._root, fetch)
        except Unwell as unwell:
            return Obstacle(Bar.UNHEALTHY, str(unwell), float(self._check.every_seconds))
        return self._queue.obstacle(health, time.monotonic())


def root_of(address: str) -> str:
    """A server's root: its API's address without the /v1 that OpenAI's clients want."""
    parts = urlsplit(address)
    path = parts.path.rstrip("/").removesuffix("/v1").rstrip("/")
    return urlunsplit((parts.scheme, parts.netloc, path, "", ""))


def fetch(url: str, timeout: float) -> str:
    """GET a page, within about `timeout` seconds and a bounded size. Raises `Unwell`."""
    until, chunks, size = time.monotonic() + timeout, [], 0
    path = urlsplit(url).path
    try:
        with urllib.request.urlopen(url, timeout=timeout) as reply:
            # One read at a time: a server that drips its answer holds nobody up.
            while chunk := _some(reply):
                chunks.append(chunk)
                size += len(chunk)
                if size > _MOST_BYTES:
                    raise Unwell(f"{path} answers with more than {_MOST_BYTES:,} bytes")
                if time.monotonic() > until:
                    raise Unwell(f"{path} takes longer than {timeout:g} s")
    except urllib.error.HTTPError as error:
        error.close()
        raise Unwell(f"{path} answers with status {error.code}") from None
    except TimeoutError:
        raise Unwell(f"{path} takes longer than {timeout:g} s") from None
    except Exception as error:  # no connection, or what is no HTTP at all
        reason = getattr(error, "reason", error)
        if isinstance(reason, TimeoutError):
            raise Unwell(f"{path} takes longer than {timeout:g} s") from None
        if isinstance(error, Unwell):
            raise
        raise Unwell(f"{path} cannot be reached: {type(reason).__name__}") from None
    return b"".join(chunks).decode("utf-8", "replace")


def _some(reply: Any) -> bytes:
    found: bytes = reply.read1(65_536)
    return found
