"""The demo itself: every prompt through a real `Router`, over HTTP, under one hard budget."""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from router.demo.result import DemoResult, DemoRow, ProviderBooks
from router.demo.simulation import Prompt, prompts
from router.errors import BudgetExceeded, ConfigurationError, RouterError
from router.ledger import open_log, store_exists
from router.money import NANO_PER_USD, ceil_div, usd_text
from router.pipeline import Router
from router.policy import Policy, load_policy
from router.types import BudgetState, Decision

if TYPE_CHECKING:
    from router.walk.routing import Routing

BUDGET_NAME = "router-demo"
WORKERS = 12
BACK_OFF_SECONDS = 0.2  # what a refused caller waits: money that is held may come free
CALLS_IN_FLIGHT = 4  # dearest calls that the limit leaves room for
NANO_PER_CENT = NANO_PER_USD // 100
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


def demo_policy(api_base: str, limit: int | None) -> Policy:
    """Return the demo's policy for a provider's address and a budget in nano-USD, or no budget."""
    import yaml

    text = files("router.demo").joinpath("policy.yaml").read_text(encoding="utf-8")
    document = yaml.safe_load(text)
    for deployments in document["tiers"].values():
        for deployment in deployments:
            deployment["api_base"] = api_base
    document["budgets"][0]["limit"] = None if limit is None else usd_text(limit)
    return load_policy(document)


def demo_budget(chosen: Sequence[Prompt]) -> int:
    """Return a limit in nano-USD that is nearly used up in the end, so that it can be seen to hold.

    It is what the router, without a limit, expects to spend, and room for some calls in flight.
    """
    with Router(demo_policy("http://127.0.0.1:9/v1", None), store="sqlite:///:memory:") as router:
        views = [explain(router, prompt).view for prompt in chosen]
    expected = sum(view.quote.expected or 0 for view in views)
    dearest = max(view.quote.upper or 0 for view in views)
    limit = expected + CALLS_IN_FLIGHT * dearest
    return ceil_div(limit, NANO_PER_CENT) * NANO_PER_CENT


def simulate(
    chosen: Sequence[Prompt], *, seed: int, progress: Progress, store: str | None = None
) -> DemoResult:
    """Run the whole demo against the simulated provider, in a new store (a passing one if None)."""
    with provider(seed) as books, _store(store) as url:
        policy = demo_policy(books.api_base, demo_budget(chosen))
        with Router(policy, store=url) as router:
            answers, seconds = run(router, chosen, progress)
            pass_on_verdicts(router, answers, books)
            stats = ProviderBooks.of(books.get("/stats"))
            return collect(router, chosen, books=stats, seed=seed, seconds=seconds, store=store)


@contextmanager
def _store(store: str | None) -> Iterator[str]:
    if store is not None:
        yield store
        return
    with TemporaryDirectory(prefix="router-demo-") as folder:
        yield f"sqlite:///{Path(folder).as_posix()}/demo.db"


def choose_prompts(count: int | None, seed: int) -> list[Prompt]:
    """Return `count` of the demo's prompts (all by default) in an order that the seed decides."""
    chosen = list(prompts())
    random.Random(seed).shuffle(chosen)
    return chosen[:count]


def explain(router: Router, prompt: Prompt) -> Decision:
    """Return how a router would decide about a prompt now, without sending it."""
    return router.explain(list(prompt.messages), tags=_tags(prompt), **_arguments(prompt))


def run(
    router: Router, chosen: Sequence[Prompt], progress: Progress
) -> tuple[dict[str, str], float]:
    """Send every prompt; return each answered request's completion id by its id, and the seconds.

    `progress` is called after each request with how many ended, the budget, and requests by tier.
    A request that is refused or fails is in the log like any other.
    Raises `ConfigurationError` for a store that is already in use.
    """
    _refuse_used(router.store)
    started = time.monotonic()
    answers = asyncio.run(_send_all(router, chosen, progress))
    return answers, time.monotonic() - started


def _refuse_used(store: str) -> None:
    """Raise for a store that holds requests, before the demo's budget is written into it."""
    if not store_exists(store):
        return
    log = open_log(store)
    try:
        if next(log.requests(), None) is not None:
            raise ConfigurationError(f"store {store} holds requests already; name a new one")
    finally:
        log.close()


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
            except RouterError as error:
                tiers[""] += 1
                if isinstance(error, BudgetExceeded):
                    await asyncio.sleep(BACK_OFF_SECONDS)
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
        tags=_tags(prompt),
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


def _tags(prompt: Prompt) -> list[str]:
    return [prompt.task, prompt.language]


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
    books: ProviderBooks | None,
    seed: int,
    seconds: float,
    store: str | None,
) -> DemoResult:
    """Make the result of a run from the router's log and what the provider counted."""
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
        provider=books,
        seed=seed,
        seconds=seconds,
        policy=router.policy.stamp,
        predictor=router.predictor.name,
        store=store,
        models={arm.tier: arm.model for arm in reversed(router.policy.arms())},
    )


def _question(prompt: Prompt) -> str:
    """Return the beginning of the last user message, on one line."""
    text = next(m["content"] for m in reversed(prompt.messages) if m["role"] == "user")
    line = " ".join(str(text).split())
    if len(line) <= QUESTION_CHARACTERS:
        return line
    beginning = line[:QUESTION_CHARACTERS]
    return (beginning.rsplit(" ", 1)[0] if " " in beginning else beginning) + " …"
