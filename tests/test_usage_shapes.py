"""Usage reports in the shapes that providers send: each is charged as worked out by hand.

`usage_shapes.yaml` holds the reports with their bills; a real HTTP server sends them, litellm reads
them, the router charges. What is compared with is a few lines of `Decimal`, not the router's code.
The cap that was reserved must stand in each provider's own field, once.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from decimal import ROUND_CEILING, Decimal
from inspect import isgenerator
from pathlib import Path
from typing import Any

import pytest
import yaml

from router import Router
from tests.conftest import steady_predictor
from tests.provider import Provider
from tests.usage_wire import ANSWER, wire

TABLE = yaml.safe_load(Path(__file__).with_name("usage_shapes.yaml").read_text("utf-8"))
TEXT_BYTES, LONG_BYTES = 9_000, 300_000
CASES = [
    (provider, number, how, case)
    for provider, cases in TABLE["cases"].items()
    for number, case in enumerate(cases)
    for how in ([case["how"]] if "how" in case else ["whole", "stream"])
]


# What the providers of the table call the cap on the output.
CAPS = ("max_tokens", "max_completion_tokens", "max_output_tokens", "maxTokens", "num_predict")


def caps_in(body: Any) -> list[int]:
    """The output caps in a request's body, wherever they stand."""
    if not isinstance(body, dict):
        return []
    inner = [cap for value in body.values() for cap in caps_in(value)]
    return [body[name] for name in CAPS if name in body] + inner


def by_hand(bill: str) -> int:
    """Nano-USD of arithmetic in micro-USD, exact to the last digit, rounded up once."""

    def value(node: ast.expr) -> Decimal:
        if isinstance(node, ast.BinOp):
            left, right = value(node.left), value(node.right)
            if isinstance(node.op, ast.Mult):
                return left * right
            return left + right if isinstance(node.op, ast.Add) else left - right
        return Decimal(ast.get_source_segment(bill, node) or "")

    exact = value(ast.parse(bill, mode="eval").body) * 1000
    return int(exact.to_integral_value(ROUND_CEILING))


def test_the_table_holds_at_least_200_reports_of_at_least_12_providers() -> None:
    assert sum(len(cases) for cases in TABLE["cases"].values()) >= 200
    assert set(TABLE["cases"]) == set(TABLE["providers"])
    assert len(TABLE["providers"]) >= 12


@pytest.fixture(scope="module")
def routers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """One router for each provider of the table, all before one server."""
    server, made = Provider(), {}
    folder = tmp_path_factory.mktemp("shapes")

    def of(provider: str) -> tuple[Router, Provider]:
        if provider not in made:
            facts = TABLE["providers"][provider]
            deployment = {
                "model": facts["model"],
                "api_base": server.url.removesuffix("/v1") + facts.get("path", "/v1"),
                "api_key_env": "SHAPES_KEY",
                "params": facts.get("params", {}),
                "price": facts["price"],
                "max_output_tokens": 64_000,
                "capabilities": {"context_window": 1_000_000},
            }
            policy = {
                "version": 1,
                "baseline": "nano",
                "objective": {"cost_weight": 0},
                "tiers": {"nano": [deployment]},
                "budgets": [{"name": "all", "limit": "1000"}],
                "retry": {"attempts": 1, "fallback": False},
                "log": {"durability": "normal"},
            }
            store = f"sqlite:///{folder / provider}.db"
            made[provider] = Router(policy, store=store, predictor=steady_predictor())
        return made[provider], server

    yield of
    for router in made.values():
        assert router.ledger.verify() == []
        router.close()
    server.close()


@pytest.mark.parametrize(
    ("provider", "case", "how"),
    [
        pytest.param(provider, case, how, id=f"{provider}-{number}-{how}")
        for provider, number, how, case in CASES
    ],
)
def test_every_shape_of_report_is_charged_as_worked_out_by_hand_and_capped_as_reserved(
    routers: Any, monkeypatch: pytest.MonkeyPatch, provider: str, case: Any, how: str
) -> None:
    monkeypatch.setenv("SHAPES_KEY", "k")
    router, server = routers(provider)
    form, stream = case.get("form", TABLE["providers"][provider]["form"]), how == "stream"
    server.default = wire(form, case["usage"], stream=stream, **case.get("reply", {}))
    text = "a bc " * ((LONG_BYTES if case.get("long") else TEXT_BYTES) // 5)
    reply = router.completion(
        messages=[{"role": "user", "content": text}], stream=stream, **case.get("ask", {})
    )
    if stream:
        said = "".join(part.choices[0].delta.content or "" for part in reply if part.choices)
        # Left open, it would be closed by the garbage collector, which httpcore's pool hangs on.
        wire_lines = getattr(reply.completion_stream, "streaming_response", None)
        assert not isgenerator(wire_lines) or wire_lines.gi_frame is None
    else:
        said = reply.choices[0].message.content
    assert said == ANSWER
    routing = Router.decision(reply)
    asked = [body for path, _, body in server.wire if path != "/api/show"]  # litellm's, of Ollama
    assert caps_in(asked[-1]) == [routing.decision.view.quote.output_cap]
    attempts = router.ledger.log().attempts()
    (row,) = [row for row in attempts if row.request_id == routing.request_id]
    assert (row.cost, row.cost_source) == (by_hand(case["bill"]), case.get("source", "computed"))
    assert row.cost <= row.reserved
