"""Servers of one's own: what they say of themselves, and who asks them when."""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.capacity import Capacity, Endpoint, Ticket
from router.capacity.health import (
    Health,
    Poller,
    Queue,
    Unwell,
    fetch,
    llama_cpp_health,
    look,
    root_of,
    vllm_health,
)
from router.errors import PolicyError
from router.policy.capacity import HealthCheck
from router.policy.loader import load_policy
from tests.conftest import HELLO, MakeRouter, ladder, only
from tests.provider import Provider

VLLM = """# HELP vllm:num_requests_waiting Number of requests waiting to be processed.
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{engine="0",model_name="m"} 3.0
vllm:num_requests_waiting{engine="1",model_name="m"} 4.0
vllm:num_requests_running{engine="0",model_name="m"} 9.0
vllm:request_success_total{engine="0",finished_reason="stop",model_name="m"} 120.0
vllm:request_success_total{engine="0",finished_reason="length",model_name="m"} 1e+01
vllm:request_success_created{engine="0",finished_reason="stop",model_name="m"} 1.7e+09
"""

Answer = Callable[[str], tuple[int, str]]


class Server:
    """A server of one's own; `answers` says status and body of each path, `delay` seconds."""

    def __init__(self) -> None:
        self.answers: dict[str, tuple[int, str]] = {}
        self.delay, self.asked = 0.0, 0
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def log_message(self, *args: Any) -> None: ...

            def do_GET(self) -> None:
                server.asked += 1
                time.sleep(server.delay)
                code, body = server.answers.get(self.path, (404, ""))
                self.send_response(code)
                self.send_header("content-length", str(len(body.encode())))
                self.end_headers()
                self.wfile.write(body.encode())

        self._http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        threading.Thread(target=self._http.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()


@pytest.fixture
def server() -> Iterator[Server]:
    found = Server()
    yield found
    found.close()


def check(kind: str = "vllm", **keys: Any) -> HealthCheck:
    return HealthCheck.model_validate({"server": kind, **keys})


def test_vllm_says_its_queue_and_how_many_it_has_finished(server: Server) -> None:
    server.answers = {"/health": (200, ""), "/metrics": (200, VLLM)}
    assert look(check(), server.url, fetch) == Health(waiting=7, finished=130)
    server.answers["/metrics"] = (404, "")
    assert look(check(), server.url, fetch) == Health()
    server.answers["/health"] = (500, "")
    with pytest.raises(Unwell, match="/health answers with status 500"):
        look(check(), server.url, fetch)


def test_llama_cpp_says_whether_a_slot_is_free(server: Server) -> None:
    slots = [{"id": 0, "is_processing": True}, {"id": 1, "is_processing": False}]
    server.answers = {"/health": (200, '{"status": "ok"}'), "/slots": (200, json.dumps(slots))}
    assert look(check("llama_cpp"), server.url, fetch) == Health(waiting=0)
    slots[1]["is_processing"] = True
    server.answers["/slots"] = (200, json.dumps(slots))
    assert look(check("llama_cpp"), server.url, fetch) == Health(waiting=1)
    server.answers["/slots"] = (501, "")
    assert look(check("llama_cpp"), server.url, fetch) == Health()
    server.answers["/health"] = (503, '{"error": {"message": "Loading model"}}')
    with pytest.raises(Unwell, match="503"):
        look(check("llama_cpp"), server.url, fetch)


def test_ollama_says_that_it_is_there(server: Server) -> None:
    server.answers = {"/api/ps": (200, '{"models": []}')}
    assert look(check("ollama"), server.url, fetch) == Health()


def test_slow_large_and_absent_servers_are_unwell(server: Server) -> None:
    server.answers = {"/health": (200, "x" * 5_000_000)}
    with pytest.raises(Unwell, match="more than 4,000,000 bytes"):
        fetch(server.url + "/health", 5.0)
    server.delay = 1.0
    with pytest.raises(Unwell, match=r"takes longer than 0\.1 s"):
        fetch(server.url + "/health", 0.1)
    with pytest.raises(Unwell, match="cannot be reached"):
        fetch("http://127.0.0.1:9/health", 1.0)


@given(st.text())
def test_whatever_a_server_says_is_survived(text: str) -> None:
    for found in (vllm_health(text), llama_cpp_health(text)):
        assert found.waiting is None or found.waiting >= 0


def test_hostile_numbers_of_a_queue_say_nothing() -> None:
    for number in ("1e999", "-5", "NaN", "9" * 29, "1e", "++"):
        assert vllm_health(f"vllm:num_requests_waiting {number}\n") == Health()


def test_the_wait_is_the_queue_over_the_pace() -> None:
    queue = Queue(check(max_wait_seconds=4))
    assert queue.obstacle(Health(10, 100), 0.0) is None  # no pace is known yet
    found = queue.obstacle(Health(10, 120), 10.0)  # 2 a second leave: 5 s
    assert found is not None
    assert "10 requests wait at the server, for about 5 s" in found.why
    assert queue.obstacle(Health(6, 140), 20.0) is None
    assert queue.obstacle(Health(6, 3), 30.0) is None  # started anew: nothing is known again


def test_the_pace_is_that_of_a_server_with_a_queue_not_of_quiet_minutes() -> None:
    queue = Queue(check(max_wait_seconds=5))
    for at in range(12):
        assert queue.obstacle(Health(0, 1000), 5.0 * at) is None
    # It was busy for a part of the time since the last look: there is no telling how fast.
    assert queue.obstacle(Health(6, 1040), 60.0) is None
    assert queue.expected_wait(Health(6, 1090), 65.0) == pytest.approx(0.6)  # ten a second leave
    assert queue.expected_wait(Health(0, 1100), 70.0) == 0
    assert queue.expected_wait(Health(6, 1101), 75.0) is None
    assert queue.obstacle(Health(6, 1102), 80.0) is not None  # now it is slow


@pytest.mark.parametrize(
    ("base", "root"),
    [
        ("http://h:8000/v1", "http://h:8000"),
        ("http://h:8000/v1/", "http://h:8000"),
        ("https://h/llm/v1", "https://h/llm"),
        ("http://h:11434", "http://h:11434"),
    ],
)
def test_a_server_s_root(base: str, root: str) -> None:
    assert root_of(base) == root


def wait_until(true: Callable[[], bool]) -> None:
    until = time.monotonic() + 20
    while not true():
        assert time.monotonic() < until
        time.sleep(0.02)


def test_an_unhealthy_or_crowded_server_is_spilled_around_and_comes_back(
    provider: Provider, server: Server, make_router: MakeRouter
) -> None:
    server.answers = {"/health": (200, ""), "/metrics": (200, VLLM)}
    tiers = ladder(provider.url)["tiers"]
    health = {"server": "vllm", "url": server.url, "every_seconds": 0.05, "max_queue": 7}
    own = {**tiers["mini"][0], "model": "openai/t-own", "health": health}
    tiers["mini"] = [own, {**tiers["mini"][0], "model": "openai/t-b"}]
    router = make_router(tiers=tiers, rules=[only("mini")], objective={"cost_weight": 1000})
    router.explain(HELLO)
    assert server.asked == 0  # nothing is asked for a preview
    router.completion(messages=HELLO)
    wait_until(lambda: server.asked > 4)
    assert router.explain(HELLO).arm.model == "openai/t-own"
    server.answers["/metrics"] = (200, VLLM.replace("3.0", "4.0"))
    wait_until(lambda: router.explain(HELLO).arm.model == "openai/t-b")
    assert "8 requests wait at the server" in str(router.explain(HELLO).arms[1].rejected)
    server.answers["/health"] = (503, "")
    wait_until(lambda: "out of order" in str(router.explain(HELLO).arms[1].rejected))
    router.completion(messages=HELLO)
    server.answers = {"/health": (200, "")}
    wait_until(lambda: router.explain(HELLO).arm.model == "openai/t-own")
    assert provider.models == ["t-own", "t-b"]
    router.close()
    time.sleep(0.2)
    asked = server.asked
    time.sleep(0.3)
    assert server.asked == asked


def test_first_calls_at_once_begin_one_asking(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is held at its first look at the process, until all of them have come so far, or some
    time has passed: they are one after another."""
    begun: list[object] = []
    together = threading.Barrier(4)
    process = os.getpid()

    def getpid() -> int:
        with contextlib.suppress(threading.BrokenBarrierError):
            together.wait(0.1)
        return process

    monkeypatch.setattr(Poller, "_run", lambda self, stop: begun.append(stop))
    poller = Poller(Endpoint(time.monotonic), check("ollama"), "http://127.0.0.1:9")
    with monkeypatch.context() as slowly:
        slowly.setattr(os, "getpid", getpid)
        calls = [threading.Thread(target=poller.start) for _ in range(4)]
        for call in calls:
            call.start()
        for call in calls:
            call.join()
    wait_until(lambda: bool(begun))
    assert len(begun) == 1


@pytest.fixture
def alone(provider: Provider, server: Server) -> Iterator[Capacity]:
    """The capacity of a policy whose only deployment is a server that was found to be ill."""
    server.answers = {"/api/ps": (503, "")}
    [mini] = ladder(provider.url)["tiers"]["mini"]
    mini["health"] = {"server": "ollama", "url": server.url, "every_seconds": 0.05}
    found = Capacity(load_policy(ladder(provider.url, tiers={"mini": [mini]}, baseline="mini")))
    assert isinstance(found.enter(0, 10, 10.0), Ticket)
    wait_until(lambda: bool(found.obstacles(10, [10.0])))
    yield found
    found.close()


def test_what_an_ill_server_said_is_forgotten_when_nobody_asks_it_any_more(
    alone: Capacity,
) -> None:
    alone.close()
    assert not alone.obstacles(10, [10.0])
    assert isinstance(alone.enter(0, 10, 10.0), Ticket)  # from here on it is asked again
    wait_until(lambda: bool(alone.obstacles(10, [10.0])))


def test_a_fork_asks_an_ill_server_itself_though_no_call_may_go_there(
    alone: Capacity, server: Server
) -> None:
    child = os.fork()
    if child == 0:
        until = time.monotonic() + 10
        while alone.obstacles(10, [10.0]) and time.monotonic() < until:
            time.sleep(0.02)
        os._exit(bool(alone.obstacles(10, [10.0])))
    server.answers = {"/api/ps": (200, "")}
    assert os.waitpid(child, 0)[1] == 0


def test_a_server_that_hangs_holds_no_request_up(
    provider: Provider, server: Server, make_router: MakeRouter
) -> None:
    server.delay = 30.0
    tiers = ladder(provider.url)["tiers"]
    tiers["mini"][0]["health"] = {"server": "vllm", "url": server.url, "timeout_seconds": 60}
    router = make_router(tiers=tiers, rules=[only("mini")], objective={"cost_weight": 1000})
    router.completion(messages=HELLO)
    began = time.monotonic()
    for _ in range(5):
        router.completion(messages=HELLO)
    assert time.monotonic() - began < 15


def test_a_server_without_an_address_cannot_be_asked(provider: Provider) -> None:
    tiers = ladder(provider.url)["tiers"]
    del tiers["mini"][0]["api_base"]
    tiers["mini"][0]["health"] = {"server": "vllm"}
    with pytest.raises(PolicyError, match="no address to ask"):
        load_policy(ladder(provider.url, tiers=tiers))
