"""The demo itself: every prompt through a real `Router`, over HTTP, under one hard budget."""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from router.demo.result import DemoResult, DemoRow, ProviderBooks
from router.demo.simulation import Prompt, prompts
from router.errors import ConfigurationError, RouterError
from router.money import usd_text
from router.pipeline import Router
from router.policy import Policy, load_policy
from router.types import BudgetState

if TYPE_CHECKING:
    from router.attempts import Routing

BUDGET_NAME = "demo"
BUDGET_PER_REQUEST = 4_000_000  # nano-USD: what makes the limit bind near the end of a run
WORKERS = 12
STREAM_EVERY = 6  # every sixth request is streamed
READY_SECONDS = 30.0
QUESTION_CHARACTERS = 140

Progress = Callable[[int, BudgetState, Mapping[str, int]], None]


class Provider:
    """A running simulated provider: its address, and what it counted."""

    def __init__(self, port: int) -> None:
        self.address = f"http://127.0.0.1:{port}"

    @property
    def api_base(self) -> str:
        return f"{self.address}/v1"

    def get(self, path: str) -> Any:
        """Fetch one of the provider's own pages, such as "/stats"."""
        with urllib.request.urlopen(self.address + path, timeout=READY_SECONDS) as page:
            return json.load(page)


@contextmanager
def provider(seed: int = 0) -> Iterator[Provider]:
    """Run the simulated provider as a process of its own for as long as the context lasts."""
    command = [sys.executable, "-m", "router.demo.provider", "--until-stdin-closes"]
    with subprocess.Popen(
        [*command, "--seed", str(seed)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            if not line:
                raise ConfigurationError("the simulated provider did not start; see above")
            yield Provider(json.loads(line)["port"])
        finally:
            process.stdin.close()
            try:
                process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                process.kill()


def demo_policy(api_base: str, limit: int) -> Policy:
    """Return the demo's policy for a provider's address and a budget in nano-USD."""
    import yaml

    text = files("router.demo").joinpath("policy.yaml").read_text(encoding="utf-8")
    document = yaml.safe_load(text)
    for deployments in document["tiers"].values():
        for deployment in deployments:
            deployment["api_base"] = api_base
    document["budgets"][0]["limit"] = usd_text(limit)
    return load_policy(document)


def choose_prompts(count: int | None, seed: int) -> list[Prompt]:
    """Return `count` of the demo's prompts (all by default) in an order that the seed decides."""
    chosen = list(prompts())
    random.Random(seed).shuffle(chosen)
    return chosen[:count]


def upper_bound(router: Router, chosen: Sequence[Prompt]) -> int:
    """Return the summed upper bounds, in nano-USD, of what the router would choose now."""
    total = 0
    for prompt in chosen:
        upper = router.explain(list(prompt.messages), **_arguments(prompt)).view.quote.upper
        if upper is None:
            raise ConfigurationError("a tier of the policy has no known price; give it a `price`")
        total += upper
    return total


def run(router: Router, chosen: Sequence[Prompt], progress: Progress) -> dict[str, str]:
    """Send every prompt; return the completion id of each answered request, by request id.

    `progress` is called after each request with how many ended, the budget, and requests by tier.
    A request that is refused or fails is in the log like any other.
    """
    return asyncio.run(_send_all(router, chosen, progress))


async def _send_all(router: Router, chosen: Sequence[Prompt], progress: Progress) -> dict[str, str]:
    waiting = list(enumerate(chosen))[::-1]
    answers: dict[str, str] = {}
    tiers: Counter[str] = Counter()

    async def work() -> None:
        while waiting:
            number, prompt = waiting.pop()
            stream = number % STREAM_EVERY == STREAM_EVERY - 1
            try:
                routing, completion_id = await _send(router, prompt, stream=stream)
            except RouterError:
                tiers[""] += 1
            else:
                answers[routing.request_id] = completion_id
                tiers[routing.decision.arm.tier] += 1
            progress(tiers.total(), _budget(router), tiers)

    await asyncio.gather(*(work() for _ in range(WORKERS)))
    return answers


async def _send(router: Router, prompt: Prompt, *, stream: bool) -> tuple[Routing, str]:
    """Send one prompt as a program would, and read its answer to the end."""
    response = await router.acompletion(
        messages=list(prompt.messages),
        tags=[prompt.task, prompt.language],
        conversation_id=prompt.id,
        stream=stream,
        **_arguments(prompt),
    )
    if not stream:
        return router.decision(response), response.id
    completion_id = ""
    async for chunk in response:
        completion_id = chunk.id
    return router.decision(response), completion_id


def _arguments(prompt: Prompt) -> dict[str, Any]:
    return {"tools": list(prompt.tools)} if prompt.tools else {}


def _budget(router: Router) -> BudgetState:
    return next(state for state in router.budgets() if state.budget.name == BUDGET_NAME)


def pass_on_verdicts(router: Router, answers: Mapping[str, str], provider: Provider) -> None:
    """Give the router, as a user's feedback, the provider's verdict on each of its answers."""
    verdicts = provider.get("/verdicts")
    for request_id, completion_id in answers.items():
        router.feedback(request_id, float(verdicts[completion_id]["success"]))


def collect(
    router: Router,
    chosen: Sequence[Prompt],
    *,
    stats: Mapping[str, Any] | None,
    seed: int,
    seconds: float,
) -> DemoResult:
    """Make the result of a run from the router's log and the provider's `stats`."""
    log = router.ledger.log()
    attempts = list(log.attempts())
    accepted = {(attempt.request_id, attempt.number): attempt for attempt in attempts}
    by_id = {prompt.id: prompt for prompt in chosen}
    rows = []
    for request in log.requests():
        prompt = by_id[request.conversation_id or ""]
        answer = accepted.get((request.request_id, request.accepted or 0))
        ended = request.time if request.ended is None else request.ended
        rows.append(
            DemoRow(
                prompt_id=prompt.id,
                language=prompt.language,
                task=prompt.task,
                difficulty=prompt.difficulty,
                question=_question(prompt),
                turns=sum(message["role"] == "user" for message in prompt.messages),
                tools=len(prompt.tools or ()),
                streamed=request.stream,
                status=request.status,
                tier=answer.tier if answer else "",
                reason=request.error or request.reason,
                cost=request.cost or 0,
                baseline=request.baseline or 0,
                attempts=request.attempts,
                seconds=ended - request.time,
                good=None if request.label is None else request.label >= 0.5,
                ended=ended,
            )
        )
    budget = _budget(router)
    assert budget.budget.limit is not None
    return DemoResult(
        rows=sorted(rows, key=lambda row: row.ended),
        report=router.report(),
        budget_limit=budget.budget.limit,
        budget_settled=budget.settled,
        budget_held=budget.held,
        reservations=len(attempts),
        provider=None if stats is None else ProviderBooks.of(stats),
        seed=seed,
        seconds=seconds,
        policy=router.policy.stamp,
        predictor=router.predictor.name,
        store=router.store,
        models={arm.tier: arm.model for arm in reversed(router.policy.arms())},
    )


def _question(prompt: Prompt) -> str:
    """Return the beginning of the last user message, on one line."""
    text = next(m["content"] for m in reversed(prompt.messages) if m["role"] == "user")
    line = " ".join(str(text).split())
    return line if len(line) <= QUESTION_CHARACTERS else line[:QUESTION_CHARACTERS].rstrip() + " …"
