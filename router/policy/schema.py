"""The policy: what a file may say, checked to the last key. Immutable once loaded.

Amounts of money are decimals as they were written; `budget_list` turns them into nano-USD.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, ConfigDict, Field, PrivateAttr, model_validator

from router.policy.arms import arms_of, without_later
from router.policy.budgets import BudgetLimit, check_models
from router.policy.calling import Limits, Retry, Streams, Timeout
from router.policy.capacity import BreakerOptions
from router.policy.cascade import Cascade
from router.policy.conversations import CompactionOptions, ConversationOptions
from router.policy.deferred import DeferredOptions
from router.policy.deployment import UNBOUNDED, Deployment
from router.policy.document import show
from router.policy.drift import DriftOptions
from router.policy.endpoints import check_limits
from router.policy.fields import Name, Part, Real, Usd, similar, wrong
from router.policy.judging import JudgeOptions
from router.policy.rules import Rule
from router.policy.storage import LedgerOptions, Log
from router.types import TIERS, Arm, Budget, Tier

PACED_WINDOWS = ("hour", "day", "week", "month")  # which have an end
Ladder = Annotated[tuple[Deployment, ...], Field(min_length=1)]


class Tiers(Part):
    """The tiers, each with its deployments: the first that can take a request leads, the others
    stand in for it."""

    nano: Ladder = Field(default=(), description="The smallest models.")
    mini: Ladder = Field(default=(), description="Small models.")
    mid: Ladder = Field(default=(), description="Middling models.")
    frontier: Ladder = Field(default=(), description="The best models.")

    @model_validator(mode="after")
    def _some(self) -> Self:
        if not self.present:
            raise wrong("no tier has a deployment", "at least one of " + ", ".join(TIERS))
        return self

    @property
    def present(self) -> tuple[Tier, ...]:
        """The tiers that have deployments, cheapest kind first."""
        return tuple(tier for tier in TIERS if self.of(tier))

    def of(self, tier: Tier) -> tuple[Deployment, ...]:
        """The deployments of a tier, in order; empty where the policy leaves the tier out."""
        deployments: tuple[Deployment, ...] = getattr(self, tier)
        return deployments


class Objective(Part):
    """What to strive for. Exactly one of cost_weight, keep_quality and max_cost_per_request."""

    model_config = ConfigDict(
        json_schema_extra={
            "oneOf": [
                {"required": ["cost_weight"]},
                {"required": ["keep_quality"]},
                {"required": ["max_cost_per_request"]},
            ]
        }
    )

    cost_weight: Annotated[Real, Field(ge=0, le=1e9)] | None = Field(
        default=None,
        description="How much probability of a good answer one US dollar is worth: the arm with "
        "the largest P(good) - cost_weight * expected USD is taken.",
    )
    keep_quality: Annotated[Real, Field(gt=0, le=1)] | None = Field(
        default=None,
        description="At least this share of the baseline's quality. Without confidence: the "
        "cheapest arm whose predicted quality is at least that; with it, see there.",
    )
    confidence: Annotated[Real, Field(gt=0, lt=1)] | None = Field(
        default=None,
        description="How sure keep_quality must be: the policy is then chosen on the predictor's "
        "calibration queries, and is always-baseline where they cannot support it. Only with one "
        "effort and no vote: they tell of no other answers.",
    )
    margin: Annotated[Real, Field(ge=0, le=1)] | None = Field(
        default=None,
        description="By how much another tier's P(good) - cost_weight * expected USD must be above "
        "the baseline tier's. 0 otherwise; only with cost_weight.",
    )
    max_cost_per_request: Usd | None = Field(
        default=None, description="The best arm that cannot cost more than this many USD is taken."
    )

    @model_validator(mode="after")
    def _one(self) -> Self:
        kinds = ("cost_weight", "keep_quality", "max_cost_per_request")
        given = [kind for kind in kinds if getattr(self, kind) is not None]
        if len(given) != 1:
            problem = f"{' and '.join(given)} are given" if given else "none is given"
            raise wrong(problem, "exactly one of " + ", ".join(kinds))
        if self.margin is not None and self.cost_weight is None:
            raise wrong("there is no cost_weight", "only with cost_weight", "margin")
        if self.confidence is not None and self.keep_quality is None:
            raise wrong("there is no keep_quality", "only with keep_quality", "confidence")
        if self.confidence is not None and self.keep_quality == 1:
            raise wrong("1 cannot be certified: nothing is surely as good as the baseline itself",
                        "below 1, with confidence", "keep_quality")  # fmt: skip
        return self

    @property
    def needs_money(self) -> bool:
        """Whether a decision under this objective depends on what calls cost."""
        return self.cost_weight != 0


class Pacing(Part):
    """Spend a budget by its window's end: the cost weight follows the money and the traffic."""

    budget: Name = Field(
        description="The name of the budget: with a limit and a window, of scope global, and "
        "on_exceed: downgrade."
    )
    expected_requests: Annotated[int, Field(ge=1, le=1_000_000_000)] | None = Field(
        default=None,
        description="How many requests a window brings, about; learnt from the log otherwise.",
    )


class Explore(Part):
    """Leave a little to chance, so that the log can tell what other policies would have done."""

    rate: Annotated[Real, Field(ge=0, le=0.5)] = Field(
        default=0.05,
        description="The most probability that leaves the best arm for the next tier below or "
        "above, in inverse proportion to cost; after a look at an answer, for what is not best.",
    )
    max_spend: Annotated[Real, Field(ge=0, le=1)] = Field(
        default=0.01,
        description="The most that this may add to the expected spend, as a share of it.",
    )
    max_quality_loss: Annotated[Real, Field(ge=0, le=1)] = Field(
        default=0.1, description="The most that P(good) of an explored arm may be lower."
    )
    holdout: Annotated[Real, Field(ge=0, le=0.5)] = Field(
        default=0,
        description="Probability of the baseline tier, to learn what it really costs; its cost "
        "comes on top of max_spend.",
    )

    @model_validator(mode="after")
    def _some(self) -> Self:
        if self.rate == 0 and self.holdout == 0:
            raise wrong("nothing is explored", "a rate or a holdout above 0, or no explore")
        return self


class Predictor(Part):
    """A predictor of one's own instead of the one that is shipped."""

    path: Annotated[str, Field(min_length=1)] = Field(
        description="The model's directory; a relative one is looked for beside the policy."
    )
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = Field(
        default=None, description="What `router train` printed; another model is refused."
    )
    embedder: Annotated[str, Field(pattern=r"^[\w.]+:[\w.]+$")] | None = Field(
        default=None,
        description="package.module:attribute of the text embedder of one's own that the model was "
        "trained with.",
    )


def _version(value: object) -> object:
    if value != 1 or isinstance(value, bool):  # to Python, true is 1
        raise wrong(f"version {show(value)} is not possible", "1")
    return value


class Policy(Part):
    """Which models there are, what to strive for, what may be spent, and what to do otherwise."""

    version: Annotated[Literal[1], BeforeValidator(_version)] = Field(
        description="The version of this format."
    )
    name: Name = Field(
        default="inline", description="What the log calls it; the file's stem otherwise."
    )
    description: str = Field(default="", description="What it is for.")
    baseline: Tier = Field(
        default="frontier", description="The tier whose cost savings are measured against."
    )
    objective: Objective = Field(description="What to strive for.")
    tiers: Tiers = Field(description="The models, by tier.")
    budgets: tuple[BudgetLimit, ...] = Field(
        default=(), description="Hard limits on money, tokens, requests and shares."
    )
    reserve: Literal["sound", "predicted"] = Field(
        default="sound",
        description="What is held while a call runs, and capped on the wire: sound, the whole "
        "max_tokens; predicted, the P95 of what is predicted, and an answer that is cut there is "
        "asked for once more in full.",
    )
    pacing: Pacing | None = Field(
        default=None,
        description="Which budget is spent evenly; objective.cost_weight is then the least weight. "
        "None is otherwise.",
    )
    explore: Explore | None = Field(
        default=None, description="What is left to chance. Nothing otherwise."
    )
    cascade: Cascade | None = Field(
        default=None, description="Whether answers are looked at. One call a request otherwise."
    )
    rules: tuple[Rule, ...] = Field(
        default=(), description="Ahead of the classifier; the first wins."
    )
    limits: Limits = Field(default=Limits(), description="What one request may ask for.")
    retry: Retry = Field(default=Retry(), description="After a failure that may pass.")
    timeout: Timeout = Field(default=Timeout(), description="How long to wait, in seconds.")
    breaker: BreakerOptions | None = Field(
        default=None,
        description="When deployments that keep failing are left alone; never if none.",
    )
    streams: Streams = Field(default=Streams(), description="When a caller leaves a stream.")
    log: Log = Field(default=Log(), description="Where calls and budgets are recorded.")
    ledger: LedgerOptions = Field(
        default=LedgerOptions(), description="How the budgets are asked, and without their store."
    )
    predictor: Predictor | None = Field(
        default=None, description="The shipped predictor otherwise."
    )
    judge: JudgeOptions = Field(
        default=JudgeOptions(), description="Who judges logged answers: `router judge`."
    )
    conversations: ConversationOptions = Field(
        default=ConversationOptions(), description="How a conversation keeps its model."
    )
    compaction: CompactionOptions | None = Field(
        default=None, description="How a long conversation is shortened. It is not, otherwise."
    )
    drift: DriftOptions | None = Field(
        default=None, description="What raises an alarm when it changes. Nothing otherwise."
    )
    deferred: DeferredOptions | None = Field(
        default=None, description="What a request with a deadline may wait for. Nothing otherwise."
    )

    _file: Path | None = PrivateAttr(None)

    @model_validator(mode="after")
    def _sound(self) -> Self:
        present = self.tiers.present
        if self.baseline not in present:
            raise wrong(f"the tier {self.baseline} has no deployment", ", ".join(present),
                        "baseline")  # fmt: skip
        for key, parts in (("budgets", self.budgets), ("rules", self.rules)):
            names = [part.name for part in parts]
            for at, name in enumerate(names):
                if name in names[:at]:
                    raise wrong(f"{name!r} is used twice", "each name once", key, at, "name")
        check_models(self.budgets, [arm.model for arm in self.arms()])
        self._check_bounds()
        self._check_pacing()
        self._check_judge()
        self._check_promise()
        check_limits((arm.tier, arm.deployment, self.deployment(arm)) for arm in self.arms())
        if self.cascade is not None and self.objective.keep_quality is not None:
            raise wrong("keep_quality speaks of one call, and a cascade makes several",
                        "only with cost_weight or max_cost_per_request", "cascade")  # fmt: skip
        for arm in self.arms():
            vote = self.deployment(arm).vote
            if vote is not None and vote.pick == "best" and self.cascade is None:
                raise wrong("no gate judges its samples", "majority, or best with a cascade",
                            "tiers", arm.tier, arm.deployment, "vote", "pick")  # fmt: skip
        if self.drift is not None and "gate" in (self.drift.watch or ()) and self.cascade is None:
            raise wrong("there is no cascade whose gate could be watched", "only with cascade",
                        "drift", "watch")  # fmt: skip
        if self.compaction is not None and self.compaction.summary not in (None, *present):
            raise wrong(f"the tier {self.compaction.summary} has no deployment",
                        ", ".join(present), "compaction", "summary")  # fmt: skip
        for at, rule in enumerate(self.rules):
            if not set(rule.tiers) & set(present):
                key = next(key for key in ("tier", "at_least", "at_most") if getattr(rule, key))
                raise wrong("it leaves no tier that has a deployment", ", ".join(present),
                            "rules", at, key)  # fmt: skip
        return self

    def _check_bounds(self) -> None:
        if not (self.limited or self.limits_tokens):
            return
        for arm in self.arms():
            for name in self.deployment(arm).params:
                if name in UNBOUNDED:
                    raise wrong(f"under a limit nothing bounds what {name} costs",
                                "a deployment without it, or no limit on money and tokens",
                                "tiers", arm.tier, arm.deployment, "params", name)  # fmt: skip

    def _check_pacing(self) -> None:
        if self.pacing is None:
            return
        if self.objective.cost_weight is None:
            raise wrong("pacing sets a cost weight, and the objective has none",
                        "only with objective.cost_weight", "pacing")  # fmt: skip
        if self.objective.margin is not None:
            raise wrong("pacing weighs cost alone", "no margin with pacing", "objective", "margin")
        name = self.pacing.budget
        names = [budget.name for budget in self.budgets]
        if name not in names:
            raise wrong(f"there is no budget {name!r}{similar(name, names)}",
                        ", ".join(names) or "one of budgets", "pacing", "budget")  # fmt: skip
        at = names.index(name)
        budget = self.budgets[at]
        for key, fits, allowed in (
            ("limit", budget.limit is not None, "a limit"),
            ("window", budget.window in PACED_WINDOWS, ", ".join(PACED_WINDOWS)),
            ("scope", budget.scope == "global", "global"),
            ("when", not budget.when, "no conditions"),
            ("on_exceed", budget.on_exceed == "downgrade", "downgrade"),
        ):
            if not fits:
                raise wrong(f"budget {name!r} is paced, which this {key} does not allow",
                            f"{allowed}, where pacing names it", "budgets", at, key)  # fmt: skip

    def _check_promise(self) -> None:
        if self.objective.confidence is None:
            return
        for arm in self.arms():
            deployment = self.deployment(arm)
            several = {"efforts": deployment.asked_efforts[1:], "vote": deployment.vote}
            for key in filter(several.get, several):
                raise wrong("calibration queries tell of each tier's usual answer alone, and a "
                            "promise with confidence of nothing else", "one effort and no vote",
                            "tiers", arm.tier, arm.deployment, key)  # fmt: skip

    def _check_judge(self) -> None:
        tier, model, present = self.judge.tier, self.judge.model, self.tiers.present
        if tier is not None and tier not in present:
            raise wrong(f"the tier {tier} has no deployment", ", ".join(present),
                        "judge", "tier")  # fmt: skip
        models = [arm.model for arm in self.arms()]
        if model is not None and model not in models:
            raise wrong(f"no deployment has the model {model!r}{similar(model, models)}",
                        ", ".join(dict.fromkeys(models)), "judge", "model")  # fmt: skip

    @cached_property
    def hash(self) -> str:
        """SHA-256, in hex, of everything but the name and the description."""
        content = without_later(self.model_dump(mode="json", exclude={"name", "description"}))
        canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()

    @property
    def stamp(self) -> str:
        """Name and content as the log records them: name@ and 12 digits of the hash."""
        return f"{self.name}@{self.hash[:12]}"

    def arms(self) -> tuple[Arm, ...]:
        """Everything that may be done, by tier: the usual way to call each of its deployments, then
        the other ways (`router.policy.arms`)."""
        return tuple(
            arm for tier in self.tiers.present for arm in arms_of(tier, self.tiers.of(tier))
        )

    def deployment(self, arm: Arm) -> Deployment:
        """The deployment that an arm of this policy calls."""
        return self.tiers.of(arm.tier)[arm.deployment]

    def judge_arm(self) -> Arm:
        """Who judges: the first deployment of the judge's model, or of its tier."""
        tier, model = self.judge.tier or self.baseline, self.judge.model
        return next(
            arm for arm in self.arms() if (arm.model == model if model else arm.tier == tier)
        )

    def budget_list(self) -> tuple[Budget, ...]:
        """The budgets, with limits in nano-USD and models in full."""
        models = [arm.model for arm in self.arms()]
        return tuple(budget.in_full(models).to_budget() for budget in self.budgets)

    def budgets_of(self, deployments: Sequence[Deployment]) -> tuple[BudgetLimit, ...]:
        """The budgets that calls of these deployments count for, for a policy of them alone."""
        mine = [arm.model for arm in self.arms()]
        theirs = [deployment.model for deployment in deployments]
        full = (budget.in_full(mine) for budget in self.budgets)
        return tuple(budget for budget in full if budget.concerns(theirs))

    @property
    def limited(self) -> bool:
        """Whether any budget limits money."""
        return any(budget.limit is not None for budget in self.budgets)

    @property
    def limits_tokens(self) -> bool:
        """Whether any budget limits tokens."""
        return any(budget.tokens is not None for budget in self.budgets)

    @property
    def predictor_path(self) -> Path | None:
        """Where the policy's own predictor lies: beside its file unless the path is absolute."""
        return self._beside(self.predictor.path if self.predictor else None)

    @property
    def verifier_path(self) -> Path | None:
        """Where the policy's verifier of answers lies."""
        verifier = self.cascade.verifier if self.cascade else None
        return self._beside(verifier.path if verifier else None)

    def _beside(self, path: str | None) -> Path | None:
        return None if path is None else (self._file.parent if self._file else Path()) / path
