"""The part of a policy that limits: what is counted, whose and which calls, in which window."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Annotated, Literal, Self
from zoneinfo import available_timezones

from pydantic import AfterValidator, ConfigDict, Field, model_validator

from router.money import parse_usd
from router.policy.fields import Name, Part, Real, Usd, similar, wrong
from router.types import TIERS, Budget, Meter, OnExceed, Purpose, Window
from router.zones import zone_problem

METERS: dict[str, Meter] = {
    "limit": "usd", "tokens": "tokens", "requests": "requests", "share": "share",
}  # fmt: skip


def _zone(name: str) -> str:
    problem = zone_problem(name)
    if problem is not None:
        near = similar(name, available_timezones())
        raise wrong(f"{problem}{near}", "such as Europe/Berlin")
    return name


class BudgetLimit(Part):
    """A hard limit in a window of time: exactly one of limit, tokens, requests and share."""

    model_config = ConfigDict(
        json_schema_extra={
            "oneOf": [{"required": [name]} for name in ("limit", "tokens", "requests", "share")]
        }
    )

    name: Name = Field(description="What reports and errors call it.")
    limit: Usd | None = Field(default=None, description="USD per window; null for no limit.")
    tokens: Annotated[int, Field(ge=0, le=2**53)] | None = Field(
        default=None, description="Tokens of prompts and answers per window."
    )
    requests: Annotated[int, Field(ge=0, le=2**53)] | None = Field(
        default=None, description="Calls per window."
    )
    share: Annotated[Real, Field(ge=0, le=1)] | None = Field(
        default=None,
        description="The most that calls of the scope's value may be among all: with scope tier "
        "and value frontier, the frontier tier's share.",
    )
    window: Window = Field(
        default="total",
        description="When the count starts anew; total means never, rolling counts the last "
        "`seconds`.",
    )
    seconds: Annotated[int, Field(ge=1, le=316_224_000)] | None = Field(
        default=None, description="The length of a rolling window."
    )
    zone: Annotated[str, AfterValidator(_zone)] = Field(
        default="UTC", description="The IANA time zone in which days, weeks and months begin."
    )
    scope: Name = Field(
        default="global",
        description="global, the name of a request scope such as user, or one of tier, model, tag, "
        "conversation and request: each value of it then has a budget of its own.",
    )
    value: Annotated[str, Field(min_length=1, max_length=256)] | None = Field(
        default=None, description="Only this value of the scope has the budget."
    )
    when: dict[Name, Annotated[str, Field(min_length=1, max_length=256)]] = Field(
        default_factory=dict,
        description="Only calls whose scopes have all these values count: {tag: nightly}, "
        '{model: gpt-5.4}; "*" is any value but none, as in {user: "*"}.',
    )
    purpose: Purpose | Literal["any"] = Field(
        default="serve",
        description="Whose spending counts: answers to requests, or the router's own judges, "
        "shadow calls, compactions and probes.",
    )
    on_exceed: OnExceed = Field(
        default="block",
        description="downgrade takes a cheaper arm that fits, where there is one; queue waits for "
        "the reset, as long as timeout.total allows; block refuses.",
    )

    @model_validator(mode="after")
    def _sound(self) -> Self:
        given = [name for name in METERS if name in self.model_fields_set]
        if len(given) != 1:
            problem = f"{' and '.join(given)} are given" if given else "no limit is given"
            raise wrong(problem, "exactly one of " + ", ".join(METERS))
        if given != ["limit"] and getattr(self, given[0]) is None:
            raise wrong("null is no limit", "a number, or limit: null for none", given[0])
        if (self.window == "rolling") != (self.seconds is not None):
            raise wrong("seconds and window: rolling go together",
                        "both or neither", "seconds")  # fmt: skip
        if self.value is not None and self.scope == "global":
            raise wrong("a global budget has no values", "with a scope", "value")
        if self.share is not None and self.value is None:
            raise wrong("a share is one value's among all", "with scope and value", "share")
        if self.scope == "tier" and self.value is not None and self.value not in TIERS:
            raise wrong(f"{self.value!r} is no tier{similar(self.value, TIERS)}",
                        ", ".join(TIERS), "value")  # fmt: skip
        tier = self.when.get("tier", "*")
        if tier not in (*TIERS, "*"):
            raise wrong(f"{tier!r} is no tier{similar(tier, TIERS)}", ", ".join(TIERS),
                        "when", "tier")  # fmt: skip
        return self

    @property
    def meter(self) -> Meter:
        """What is counted."""
        return next(meter for name, meter in METERS.items() if name in self.model_fields_set)

    @property
    def amount(self) -> int | None:
        """The limit in the unit of the meter: nano-USD, a count, or millionths."""
        if self.share is not None:
            return round(self.share * 1_000_000)
        if self.limit is not None:
            return parse_usd(self.limit)
        return self.tokens if self.tokens is not None else self.requests

    @property
    def only_model(self) -> str | None:
        """The one model that has this budget, as it is written."""
        return self.value if self.scope == "model" else None

    def in_full(self, models: Collection[str]) -> BudgetLimit:
        """Itself, its value in full where it is one of `models` without its provider."""
        found = called(self.only_model, models) if self.only_model else []
        return self.model_copy(update={"value": found[0]}) if found else self

    def concerns(self, models: Collection[str]) -> bool:
        """Whether calls of any of these models count."""
        when = self.when.get("model", "*")
        named = [name for name in (self.only_model, when) if name is not None and name != "*"]
        return all(called(name, models) for name in named)

    def to_budget(self) -> Budget:
        """The budget as a ledger enforces it: the limit in nano-USD, a count, or millionths."""
        return Budget(
            name=self.name,
            limit=self.amount,
            window=self.window,
            zone=self.zone,
            scope=self.scope,
            on_exceed=self.on_exceed,
            meter=self.meter,
            value=self.value,
            seconds=self.seconds,
            purpose=self.purpose,
            when=tuple(self.when.items()),
        )


def check_models(budgets: Sequence[BudgetLimit], models: Collection[str]) -> None:
    """Raise for a budget of a model that is not among these: it would limit nothing."""
    for at, budget in enumerate(budgets):
        only, when = budget.only_model, budget.when.get("model")
        if only is not None and len(_known(only, models, "budgets", at, "value")) > 1:
            raise wrong(f"{only!r} names several models, and each has counters of its own",
                        f"one of {', '.join(called(only, models))}, or `when: {{model: {only}}}` "
                        "for all of them together", "budgets", at, "value")  # fmt: skip
        if when is not None and when != "*":
            _known(when, models, "budgets", at, "when", "model")


def _known(name: str, models: Collection[str], *key: str | int) -> list[str]:
    found = called(name, models)
    if not found:
        near = similar(name, [*models, *(model.rpartition("/")[2] for model in models)])
        raise wrong(f"no deployment has the model {name!r}{near}",
                    ", ".join(dict.fromkeys(models)), *key)  # fmt: skip
    return found


def called(name: str, models: Collection[str]) -> list[str]:
    """The models that a name in a policy means: in full, or without the provider."""
    if name in models:
        return [name]
    return [model for model in dict.fromkeys(models) if model.endswith(f"/{name}")]
