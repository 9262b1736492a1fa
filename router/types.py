"""The frozen records that pass from step to step of one request.

    Request → Features → Prediction → (Quote, Room) → Decision → Hold → Reply → log rows

Money is integer nano-USD, time is unix seconds, tokens are counts. Arrays over tiers are in the
order of `TIERS`; arrays over arms are in the order of the policy's arms.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from router.arms import TIERS as TIERS
from router.arms import Arm as Arm
from router.arms import Effort as Effort
from router.arms import Tier as Tier
from router.budgets import Budget as Budget
from router.budgets import BudgetState as BudgetState
from router.budgets import Change as Change
from router.budgets import Meter as Meter
from router.budgets import OnExceed as OnExceed
from router.budgets import Purpose as Purpose
from router.budgets import Room as Room
from router.budgets import Window as Window
from router.budgets import allowed as allowed
from router.turns import Turn as Turn

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]

# Whose budgets pay: a name of each scope, or several (a request's tags).
Scopes = Mapping[str, "str | tuple[str, ...]"]
CostSource = Literal["reported", "computed", "assumed", "expired"]
AttemptStatus = Literal["answered", "failed", "abandoned", "expired"]
RequestStatus = Literal["open", "answered", "failed", "abandoned", "refused", "expired", "returned"]


@dataclass(frozen=True, slots=True)
class Way:
    """When and at which service tier (None: as without a deadline) an arm would be called.

    `at` is unix seconds; `cost` is the expected nano-USD, `at_once` that of the call without a
    deadline; None where unknown.
    """

    service_tier: str | None
    at: float
    cost: int | None = None
    at_once: int | None = None


# ── 1. what the caller asks ────────────────────────────────────────────────────────────────────
@dataclass(frozen=True, slots=True)
class Request:
    """One chat request as the caller made it, in the shape of OpenAI's chat completions.

    `params` holds every other argument of the call (tools, temperature, …), untouched. `scopes`
    says whose budgets pay, e.g. {"user": "ann"}; `tags` and `metadata` are for rules and reports.
    `turn` is its place in its conversation; where that was compacted, `messages` go out and
    `original` came in. `deadline`, unix seconds, is when it needs its answer; `ways`, one for each
    arm, how it would be called where it may wait. `is_new` says that its id was drawn for it just
    now, so that nothing can stand under it anywhere.
    """

    request_id: str
    messages: Sequence[Mapping[str, Any]]
    params: Mapping[str, Any]
    now: float
    stream: bool = False
    scopes: Mapping[str, str] = field(default_factory=dict)
    tags: tuple[str, ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)
    conversation_id: str | None = None
    purpose: Purpose = "serve"  # whose budgets count it: a caller's, or the router's own
    turn: Turn | None = None
    original: Sequence[Mapping[str, Any]] | None = None
    deadline: float | None = None
    ways: tuple[Way, ...] = ()
    is_new: bool = False

    def paid_by(self, *arms: Arm) -> Scopes:
        """Whose budgets pay for a call of these arms: the caller's scopes, the router's own."""
        return {
            **self.scopes,
            "conversation": self.conversation_id or "",
            "model": tuple([arm.model for arm in arms]),
            "purpose": self.purpose,
            "request": self.request_id,
            "tag": self.tags,
            "tier": tuple([arm.tier for arm in arms]),
        }


# Scopes that the router fills in itself.
OWN_SCOPES = ("conversation", "global", "model", "purpose", "request", "tag", "tier")


# ── 2. what the router sees of it ──────────────────────────────────────────────────────────────
@dataclass(frozen=True, slots=True)
class Shape:
    """Facts of a request that bounds and capability gates need; no learning is involved.

    `input_tokens` is an estimate for expected cost. `input_bytes` (UTF-8 bytes of all text, tool
    and response schemas) bounds the tokens of any byte-level tokenizer from above. `needs` names
    capabilities: "vision", "audio", "files", "tools", "structured_output". `prefix_tokens`, part of
    `input_tokens`, are of a system prompt so long that providers keep it in their cache.
    """

    input_tokens: int
    input_bytes: int
    messages: int
    images: int
    audio_parts: int
    file_parts: int
    needs: frozenset[str]
    last_user_text: str  # bounded; rules match against it
    prefix_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Features:
    """Numbers that a predictor reads: named dense values and a sparse bag of hashed n-grams.

    `dense` has shape (D,), named by `router.predict.features.DENSE_NAMES`; `buckets` and `weights`
    have shape (K,): the hashed n-grams and how much each counts.
    """

    dense: NDArray[np.float32]
    buckets: NDArray[np.int32]
    weights: NDArray[np.float32]


# ── 3. what is predicted ───────────────────────────────────────────────────────────────────────
@dataclass(frozen=True, slots=True)
class Prediction:
    """For each tier, in the order of `TIERS`: arrays of shape (4,), or (N, 4) for N requests.

    `quality` is P(good answer), `quality_std` its standard error; both are NaN for a tier that the
    predictor never learnt. `output_tokens` is the expected number of billed output tokens,
    reasoning included, beside its quantiles. `novel`, a bool or (N,), says that the request is
    unlike anything in training.
    """

    quality: Floats
    quality_std: Floats
    output_tokens: Floats
    output_tokens_p50: Floats
    output_tokens_p90: Floats
    output_tokens_p95: Floats
    novel: NDArray[np.bool_]


# ── 4. what it would cost and what room there is ───────────────────────────────────────────────
@dataclass(frozen=True, slots=True)
class Quote:
    """What one call would cost, in nano-USD; None where the price is unknown.

    `upper` is the sound bound that is reserved: no valid bill for a request with `output_cap`
    tokens on the wire exceeds it. Of a vote both are of all its samples, each of which is reserved
    by itself.
    """

    expected: int | None
    upper: int | None
    output_cap: int


# ── 5. what is decided ─────────────────────────────────────────────────────────────────────────
@dataclass(frozen=True, slots=True)
class ArmView:
    """How one arm looked to one decision. `rejected` says why it was not taken, None if chosen."""

    arm: Arm
    quality: float
    quote: Quote
    utility: float
    propensity: float
    rejected: str | None

    @property
    def per_good_answer(self) -> int | None:
        """Expected nano-USD over P(good): what a good answer costs by this arm, if each that is not
        good were bought again; None where the cost is unknown, or no answer would be good."""
        if self.quote.expected is None or self.quality <= 0:
            return None
        return round(self.quote.expected / self.quality)


@dataclass(frozen=True)
class Decision:
    """The chosen arm, why, and every alternative. `baseline` is the expected nano-USD of the
    baseline tier's own answer (its own predicted tokens at its own price), None if unknown.

    `reason` and `arms` are for people and for the log: `explain` makes them when first read.
    """

    chosen: int  # index into `arms`
    arm: Arm
    baseline: int | None
    rule: str | None
    explain: Callable[[], tuple[str, tuple[ArmView, ...]]] = field(repr=False, compare=False)

    @cached_property
    def _explained(self) -> tuple[str, tuple[ArmView, ...]]:
        return self.explain()

    @property
    def reason(self) -> str:
        return self._explained[0]

    @property
    def arms(self) -> tuple[ArmView, ...]:
        return self._explained[1]

    @property
    def view(self) -> ArmView:
        return self.arms[self.chosen]


# ── 6. what is reserved ────────────────────────────────────────────────────────────────────────
@dataclass(frozen=True, slots=True)
class Reservation:
    """What one wire attempt asks of the budgets: nano-USD, tokens and one request.

    `reservation_id` is unique and made by the caller, so that a lost reply can be asked again.
    `worst_case` is the log row that stands if nothing is heard until `expires_at`; its cost is
    `amount`, or None where the amount is 0 and no price is known. `request` comes with the first
    attempt of a request only. `is_new` says that the request's id was drawn at random for it: with
    its first attempt a store may then spare itself a look for what stands under it already.
    """

    reservation_id: str
    amount: int
    scopes: Scopes
    now: float
    expires_at: float
    worst_case: AttemptRow
    request: RequestRow | None
    tokens: int = 0
    is_new: bool = False


@dataclass(frozen=True, slots=True)
class Hold:
    """What is set aside for one wire attempt until `expires_at`: nano-USD, and tokens."""

    reservation_id: str
    amount: int
    expires_at: float
    tokens: int = 0


# ── 7. what came back ──────────────────────────────────────────────────────────────────────────
@dataclass(frozen=True, slots=True)
class Usage:
    """Billed units of one call; the token buckets partition the tokens, none counted twice."""

    input: int = 0  # neither read from nor written to a cache
    cache_read: int = 0
    cache_write_5m: int = 0
    cache_write_1h: int = 0
    audio_input: int = 0
    output: int = 0  # visible text
    reasoning: int = 0
    audio_output: int = 0
    images: int = 0
    requests: int = 1

    @property
    def input_tokens(self) -> int:
        return (
            self.input + self.cache_read + self.cache_write_5m + self.cache_write_1h
        ) + self.audio_input

    @property
    def output_tokens(self) -> int:
        return self.output + self.reasoning + self.audio_output


# ── 8. what is logged ──────────────────────────────────────────────────────────────────────────
@dataclass(frozen=True, slots=True)
class RequestRow:
    """The log's row of one request, written with its first reservation or its refusal.

    `decision` is JSON-ready: per arm its name, tier, model, quality, expected, upper, propensity
    and why it was rejected. `features` are named numbers. `content` is None unless opted in.
    """

    request_id: str
    time: float
    status: RequestStatus
    policy: str  # name@hash
    predictor: str  # name@hash
    price_book: str  # hash
    scopes: Mapping[str, str]
    tags: tuple[str, ...]
    conversation_id: str | None
    stream: bool
    features: Mapping[str, Any]
    decision: tuple[Mapping[str, Any], ...]
    chosen: str
    reason: str
    rule: str | None
    baseline: int | None
    content: str | None = None
    error: str | None = None
    purpose: Purpose = "serve"


@dataclass(frozen=True, slots=True)
class AttemptRow:
    """The log's row of one wire attempt, written in the transaction that settles or releases it.

    `usage` is the provider's report as it came; `cost` nano-USD is None when no price is known.
    `step` is the position in a chain of calls (0 for the first), `number` counts wire attempts
    of the request from 1.
    """

    request_id: str
    number: int
    time: float
    step: int
    arm: str
    tier: str
    model: str
    propensity: float
    status: AttemptStatus
    reserved: int
    cost: int | None
    cost_source: CostSource
    price_book: str
    latency: float  # seconds
    usage: Mapping[str, Any] | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    error: str | None = None
    note: str | None = None  # an anomaly worth a look, e.g. "usage missing"
    answer: str | None = None  # JSON of the answer's messages, only where the policy opts in


@dataclass(frozen=True, slots=True)
class RequestEnd:
    """How a request ended, written in the transaction of its last attempt."""

    status: RequestStatus
    accepted: int | None  # number of the attempt whose answer the caller got
    baseline: int | None
    error: str | None = None
    looks: str | None = None  # JSON of what was found and done after each answer of a chain
