"""Rules decide ahead of the classifier: the first whose conditions all hold."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import AfterValidator, ConfigDict, Field, model_validator

from router.policy.fields import Count, Name, Part, wrong
from router.types import TIERS, Tier

if TYPE_CHECKING:
    from router.types import Request, Shape

MAX_TEXT = 4000  # characters that a pattern is matched against


def _pattern(pattern: str) -> str:
    try:
        compile_pattern(pattern)
    except ValueError as error:
        raise wrong(str(error), "an RE2 expression (github.com/google/re2/wiki/Syntax)") from None
    return pattern


Need = Literal["vision", "audio", "files", "tools", "structured_output"]


class Condition(Part):
    """When a rule applies: every condition that is given must hold."""

    model_config = ConfigDict(json_schema_extra={"minProperties": 1})

    tags: Annotated[tuple[Name, ...], Field(min_length=1)] | None = Field(
        default=None, description="The request has all of these tags."
    )
    metadata: Annotated[dict[str, Any], Field(min_length=1)] | None = Field(
        default=None, description="The request's metadata has these values."
    )
    needs: Annotated[tuple[Need, ...], Field(min_length=1)] | None = Field(
        default=None, description="The request needs all of these capabilities."
    )
    min_input_tokens: Count | None = Field(
        default=None, description="The prompt has at least so many."
    )
    max_input_tokens: Count | None = Field(
        default=None, description="The prompt has at most so many."
    )
    regex: Annotated[str, Field(max_length=1000), AfterValidator(_pattern)] | None = Field(
        default=None,
        description="An RE2 expression found in the beginning of the last user message.",
    )

    @model_validator(mode="after")
    def _sound(self) -> Self:
        names = type(self).model_fields
        if all(getattr(self, name) is None for name in names):
            raise wrong("no condition is given", "at least one of " + ", ".join(names))
        low, high = self.min_input_tokens, self.max_input_tokens
        if low is not None and high is not None and low > high:
            raise wrong(f"no prompt has at least {low} and at most {high} tokens", f"{low} or more",
                        "max_input_tokens")  # fmt: skip
        for key, value in (self.metadata or {}).items():
            if not isinstance(value, str | int | Decimal):
                raise wrong(f"{value!r} is not a plain value", "text, a number, true or false",
                            "metadata", key)  # fmt: skip
        return self


class Rule(Part):
    """A decision ahead of the classifier. Exactly one of tier, at_least and at_most."""

    model_config = ConfigDict(
        json_schema_extra={
            "oneOf": [
                {"required": ["tier"]},
                {"required": ["at_least"]},
                {"required": ["at_most"]},
            ]
        }
    )

    name: Name = Field(description="What the log calls it.")
    when: Condition = Field(description="When it applies.")
    tier: Tier | None = Field(default=None, description="Exactly this tier.")
    at_least: Tier | None = Field(default=None, description="This tier or a higher one.")
    at_most: Tier | None = Field(default=None, description="This tier or a lower one.")

    @model_validator(mode="after")
    def _one(self) -> Self:
        given = [key for key in ("tier", "at_least", "at_most") if getattr(self, key) is not None]
        if len(given) != 1:
            problem = f"{' and '.join(given)} are given" if given else "it says nothing of tiers"
            raise wrong(problem, "exactly one of tier, at_least, at_most")
        return self

    @property
    def tiers(self) -> tuple[Tier, ...]:
        """The tiers that this rule allows, in order."""
        if self.tier is not None:
            return (self.tier,)
        if self.at_least is not None:
            return TIERS[TIERS.index(self.at_least) :]
        assert self.at_most is not None
        return TIERS[: TIERS.index(self.at_most) + 1]


def match(rules: Sequence[Rule], request: Request, shape: Shape) -> Rule | None:
    """Return the first rule whose conditions all hold, or None. Pure.

    `tags` and `metadata` are the caller's; tokens, needs and text are the request's `shape`.
    """
    return next((rule for rule in rules if holds(rule.when, request, shape)), None)


def holds(when: Condition, request: Request, shape: Shape) -> bool:
    """Whether all of a condition holds for a request. Pure."""
    if when.tags is not None and not set(when.tags) <= set(request.tags):
        return False
    for key, value in (when.metadata or {}).items():
        if key not in request.metadata or not _same(request.metadata[key], value):
            return False
    if when.needs is not None and not set(when.needs) <= shape.needs:
        return False
    if when.min_input_tokens is not None and shape.input_tokens < when.min_input_tokens:
        return False
    if when.max_input_tokens is not None and shape.input_tokens > when.max_input_tokens:
        return False
    return when.regex is None or _found(when.regex, shape.last_user_text)


def _same(given: object, wanted: object) -> bool:
    """Equality in which `true` is not 1; a decimal is compared as the float a caller would use."""
    if isinstance(given, bool) or isinstance(wanted, bool):
        return given is wanted
    return bool(given == (float(wanted) if isinstance(wanted, Decimal) else wanted))


def _found(pattern: str, text: str) -> bool:
    # RE2 reads UTF-8, which has no lone surrogates; a question mark stands in for one.
    readable = text[:MAX_TEXT].encode("utf-8", "replace").decode()
    return compile_pattern(pattern).search(readable) is not None


@lru_cache(maxsize=1024)
def compile_pattern(pattern: str) -> Any:
    """Compile an RE2 expression, whose matching time is linear in the text.

    Raises `ValueError` that says what is wrong with it, or that google-re2 is not installed.
    """
    try:
        import re2  # type: ignore[import-untyped]
    except ImportError:
        raise ValueError("a regex needs google-re2: pip install google-re2") from None
    options = re2.Options()
    options.log_errors = False
    options.never_capture = True
    options.max_mem = 1 << 20  # bounds what a pattern with large counts compiles to
    try:
        return re2.compile(pattern, options)
    except (re2.error, UnicodeError) as error:
        why = error.args[0] if error.args else error
        text = why.decode("utf-8", "replace") if isinstance(why, bytes) else str(why)
        raise ValueError(f"not a regular expression: {text}") from None
