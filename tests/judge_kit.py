"""A provider with a judge in it, and requests in a log to judge."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from router import Router, load_policy
from router.judging import JudgeReport, judge
from router.policy import Policy
from tests.conftest import CAPABILITIES, PRICES, ladder, steady_predictor
from tests.provider import Behaviour, Provider, ok

JUDGE = "openai/t-judge"
ROUTED, SHADOW = "the routed answer", "the better known answer"
Says = Callable[[str, str], str]  # what stands as A, as B → the judge's reply


class Panel(Provider):
    """Answers by model, and a judge that reads which answer stands where."""

    def __init__(self) -> None:
        super().__init__()
        self.texts = {"t-mini": ROUTED, "t-frontier": SHADOW}
        self.says: Says = lambda first, second: "A" if first == ROUTED else "B"
        self.tokens: int | None = 10  # of an answer, as far as its cap allows; None: not reported

    def _next(self, path: str, headers: dict[str, str], body: dict[str, Any]) -> Behaviour:
        found = super()._next(path, headers, body)
        if found is not self.default:
            return found  # scripted
        model = body["model"]
        text = self.says(*answers_in(body)) if model == "t-judge" else self.texts.get(model, "?")
        if self.tokens is None:
            return ok(text=text, usage=None)
        answer = min(self.tokens, body["max_tokens"])
        usage = {"prompt_tokens": 40, "completion_tokens": answer, "total_tokens": 40 + answer}
        return ok(text=text, usage=usage)

    def asked(self, model: str) -> list[dict[str, Any]]:
        """The bodies that a model got, in order."""
        return [body for _, _, body in self.wire if body["model"] == model]


def answers_in(body: dict[str, Any]) -> tuple[str, str]:
    """The two answers in a judge's prompt, found as the judge is told to find them."""
    rules, material = (message["content"] for message in body["messages"])
    code = rules.split("the code ")[1].split(",")[0]
    found = []
    for name in ("ANSWER A", "ANSWER B"):
        rest = material.split(f"BEGIN {name} {code}\n")[1]
        found.append(rest.split(f"\nEND {name} {code}")[0])
    return found[0], found[1]


def judged_policy(url: str, **changes: Any) -> dict[str, Any]:
    """The four tiers, a judge beside the frontier, text in the log."""
    made = ladder(url, log={"durability": "normal", "content": True}, judge={"model": JUDGE})
    made["tiers"]["frontier"].append(
        {
            "model": JUDGE,
            "api_base": url,
            "capabilities": dict(CAPABILITIES),
            "price": PRICES["frontier"],
        }
    )
    return {**made, **changes}


class Court:
    """Everything that a judging test needs, on one store."""

    def __init__(self, panel: Panel, store: str):
        self.panel, self.store = panel, store
        self.predictor = steady_predictor()

    def policy(self, **changes: Any) -> Policy:
        return load_policy(judged_policy(self.panel.url, **changes))

    def router(self, **changes: Any) -> Router:
        return Router(self.policy(**changes), store=self.store, predictor=self.predictor)

    def serve(self, count: int, tier: str = "mini", **changes: Any) -> list[str]:
        """Log so many answered requests; return their ids."""
        arguments = changes.pop("arguments", {})
        names = []
        pin = {"name": f"pin-{tier}", "when": {"min_input_tokens": 0}, "tier": tier}
        with self.router(rules=[pin], **changes) as router:
            for number in range(count):
                asked = [{"role": "user", "content": f"Question {number}: why?"}]
                response = router.completion(messages=asked, **arguments)
                names.append(Router.decision(response).request_id)
        self.panel.wire.clear()
        return names

    def judge(
        self, *, ceiling: int = 10**9, policy: Policy | None = None, **options: Any
    ) -> JudgeReport:
        options = {"rate": 1.0, **options} if "count" not in options else options
        return judge(
            self.store,
            policy or self.policy(),
            ceiling=ceiling,
            predictor=self.predictor,
            **options,
        )


@pytest.fixture
def panel() -> Iterator[Panel]:
    server = Panel()
    yield server
    server.close()


@pytest.fixture
def court(panel: Panel, tmp_path: Path) -> Court:
    return Court(panel, f"sqlite:///{tmp_path / 'router.db'}")


def text_on_wire(body: dict[str, Any]) -> str:
    return json.dumps(body["messages"])
