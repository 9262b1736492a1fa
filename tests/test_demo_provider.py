"""The simulated provider, spoken to over real HTTP."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from decimal import Decimal
from functools import partial
from importlib.resources import files
from typing import Any

import jsonschema
import pytest
import yaml

from router.demo.provider import Server
from router.demo.simulation import PRICES, Simulation, prompt_key, prompts, success_probability
from router.money import parse_usd

SEED = 7


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(seed=SEED) as running:
        threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
        yield running
        running.shutdown()


def _get(server: Server, path: str) -> Any:
    with urllib.request.urlopen(f"http://127.0.0.1:{server.server_address[1]}{path}") as page:
        return json.load(page)


def _open(server: Server, body: Any) -> Any:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    address = f"http://127.0.0.1:{server.server_address[1]}/v1/chat/completions"
    return urllib.request.urlopen(urllib.request.Request(address, data))


def _ask(server: Server, text: str, model: str = "sim-mini", **more: Any) -> Any:
    messages = [{"role": "user", "content": text}]
    with _open(server, {"model": model, "messages": messages, **more}) as reply:
        return json.load(reply)


def _refused(server: Server, body: Any) -> tuple[int, Any, Any]:
    with pytest.raises(urllib.error.HTTPError) as caught:
        _open(server, body)
    with caught.value as error:
        return error.code, json.load(error), error.headers


def _text(fault: int | None, tier: str = "mini") -> str:
    """A text for which this seed draws the given fault on the first attempt, or none."""
    simulation = Simulation(SEED)
    for number in range(10_000):
        text = f"question {number}"
        key = prompt_key([{"role": "user", "content": text}])
        if simulation.fault(key, tier) == fault:
            return text
    raise AssertionError(f"no text draws {fault}")


def _events(server: Server, **body: Any) -> list[Any]:
    messages = [{"role": "user", "content": _text(None)}]
    with _open(
        server, {"model": "sim-mini", "messages": messages, "stream": True, **body}
    ) as reply:
        lines = [line.decode().strip() for line in reply if line.strip()]
    assert lines[-1] == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]


def test_four_models_are_listed(server: Server) -> None:
    names = [model["id"] for model in _get(server, "/v1/models")["data"]]
    assert names == ["sim-nano", "sim-mini", "sim-mid", "sim-frontier"]


def test_the_bill_is_the_reported_usage_at_the_list_price(server: Server) -> None:
    usage = _ask(server, _text(None))["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    price_in, price_out = PRICES["mini"]
    stats = _get(server, "/stats")
    bill = usage["prompt_tokens"] * price_in + usage["completion_tokens"] * price_out
    assert (stats["wire_requests"], stats["bill_nano"]) == (1, bill)


def test_the_providers_prices_are_those_of_the_demos_policy() -> None:
    policy = yaml.safe_load(files("router.demo").joinpath("policy.yaml").read_text("utf-8"))
    for tier, (deployment,) in policy["tiers"].items():
        written = (deployment["price"]["input"], deployment["price"]["output"])
        per_token = tuple(parse_usd(Decimal(rate)) // 1_000_000 for rate in written)
        assert per_token == PRICES[tier]


def test_the_same_seed_answers_the_same_and_another_seed_otherwise() -> None:
    keys = [prompt_key(prompt.messages) for prompt in prompts()]
    first = [Simulation(1).draw(key, "nano") for key in keys]
    assert [Simulation(1).draw(key, "nano") for key in keys] == first
    assert [Simulation(2).draw(key, "nano") for key in keys] != first


@pytest.mark.parametrize("tier", PRICES)
def test_the_share_of_good_answers_follows_the_fitted_curve(tier: str) -> None:
    simulation = Simulation(SEED)
    draws = [simulation.draw(f"key {number}", tier) for number in range(4000)]
    share = sum(draw.success for draw in draws) / len(draws)
    assert share == pytest.approx(success_probability(tier, 0.5), abs=0.03)


def test_higher_tiers_are_better_at_every_difficulty() -> None:
    for difficulty in (0.0, 0.25, 0.5, 0.75, 1.0):
        curve = [success_probability(tier, difficulty) for tier in PRICES]
        assert curve == sorted(curve)


def test_every_answer_says_that_it_is_simulated_and_none_says_whether_it_is_good(
    server: Server,
) -> None:
    reply = _ask(server, _text(None))
    assert reply["choices"][0]["message"]["content"].startswith("[simulated answer of sim-mini")
    assert "success" not in json.dumps(reply)
    assert set(_get(server, "/verdicts")[reply["id"]]) == {"success", "difficulty"}


def test_a_stream_holds_the_same_answer_and_ends_with_its_usage(server: Server) -> None:
    whole = _ask(server, _text(None))
    *chunks, last = _events(server, stream_options={"include_usage": True})
    text = "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks)
    assert text == whole["choices"][0]["message"]["content"]
    assert (last["choices"], last["usage"]) == ([], whole["usage"])
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"


def test_a_stream_without_include_usage_reports_none(server: Server) -> None:
    assert not any("usage" in chunk for chunk in _events(server))


def test_a_stream_that_the_caller_leaves_is_billed_and_not_good(server: Server) -> None:
    long = next(
        text
        for text in (f"long {number}" for number in range(1000))
        if (key := prompt_key([{"role": "user", "content": text}]))
        and server.simulation.fault(key, "nano") is None
        and server.simulation.draw(key, "nano").visible_tokens > 400
    )
    messages = [{"role": "user", "content": long}]
    reply = _open(server, {"model": "sim-nano", "messages": messages, "stream": True})
    first = json.loads(reply.readline().decode().removeprefix("data: "))
    reply.close()
    for _ in range(500):
        if first["id"] in (verdicts := _get(server, "/verdicts")):
            break
        time.sleep(0.01)
    assert verdicts[first["id"]]["success"] is False
    assert _get(server, "/stats")["bill_nano"] > 0


def test_a_prompt_with_tools_gets_a_call_that_its_schema_accepts(server: Server) -> None:
    prompt = next(prompt for prompt in prompts() if prompt.tools)
    schema = prompt.tools[0]["function"]["parameters"]  # type: ignore[index]
    server.books.attempt(prompt_key(prompt.messages), "mini")  # past the faults
    body = {"model": "sim-mini", "messages": prompt.messages, "tools": prompt.tools}
    with _open(server, body) as reply:
        (choice,) = json.load(reply)["choices"]
    (call,) = choice["message"]["tool_calls"]
    jsonschema.validate(json.loads(call["function"]["arguments"]), schema)
    assert choice["finish_reason"] == "tool_calls"


def test_after_a_tools_result_the_answer_is_in_words(server: Server) -> None:
    prompt = next(prompt for prompt in prompts() if prompt.tools)
    server.books.attempt(prompt_key(prompt.messages), "mini")
    result = {"role": "tool", "tool_call_id": "call_1", "content": "{}"}
    messages = [*prompt.messages, result]
    with _open(server, {"model": "sim-mini", "messages": messages, "tools": prompt.tools}) as reply:
        message = json.load(reply)["choices"][0]["message"]
    assert message["content"]
    assert "tool_calls" not in message


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
def test_no_answer_is_longer_than_asked_and_a_cut_one_is_not_good(
    server: Server, field: str
) -> None:
    reply = _ask(server, _text(None), **{field: 3})
    assert reply["usage"]["completion_tokens"] == 3
    assert reply["choices"][0]["finish_reason"] == "length"
    assert _get(server, "/verdicts")[reply["id"]]["success"] is False


@pytest.mark.parametrize("status", [429, 500])
def test_a_fault_hits_the_first_attempt_only_and_is_not_billed(server: Server, status: int) -> None:
    text = _text(status)
    body = {"model": "sim-mini", "messages": [{"role": "user", "content": text}]}
    code, error, headers = _refused(server, body)
    assert code == status
    assert (headers["Retry-After"] == "1") == (status == 429)
    assert "[simulated]" in error["error"]["message"]
    assert _get(server, "/stats")["bill_nano"] == 0
    _ask(server, text)
    stats = _get(server, "/stats")
    assert (stats["wire_requests"], stats["faults"]) == (2, {str(status): 1})


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"no json", 400),
        ({"model": "sim-mini"}, 400),
        ({"model": "sim-mini", "messages": []}, 400),
        ({"model": "gpt-0", "messages": [{"role": "user", "content": "x"}]}, 404),
    ],
)
def test_a_request_that_openai_would_refuse_is_refused(
    server: Server, body: Any, status: int
) -> None:
    code, error, _ = _refused(server, body)
    assert code == status
    assert error["error"]["type"] == "invalid_request_error"


def test_as_a_process_it_says_its_port_and_ends_with_its_parent() -> None:
    command = [sys.executable, "-m", "router.demo.provider", "--until-stdin-closes"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        ready = json.loads(process.stdout.readline())
        with urllib.request.urlopen(f"http://127.0.0.1:{ready['port']}/stats") as page:
            assert json.load(page)["wire_requests"] == 0
        process.stdin.close()
        assert process.wait(timeout=10) == 0


def test_a_provider_that_is_interrupted_ends_without_a_word() -> None:
    """Ctrl-C reaches it with its parent, which still holds its standard input open."""
    command = [sys.executable, "-m", "router.demo.provider", "--until-stdin-closes"]
    pipe = subprocess.PIPE
    # A shell's background jobs, and so all that they start, are not interrupted: this one is.
    heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    with subprocess.Popen(
        command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, preexec_fn=heard
    ) as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["ready"]
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 0
        assert process.stderr is not None
        assert process.stderr.read() == ""
