"""Every exception of litellm has a place in the router's tree, and says whether it was billed."""

from __future__ import annotations

import copy
import inspect
import os
import pickle
from collections.abc import Iterator
from typing import Any

import pytest

from router import errors
from router.dispatch.failures import ERRORS, provider_error
from router.dispatch.wire import Call, load_litellm, send
from router.errors import (
    AuthenticationFailed,
    MalformedReply,
    ProviderError,
    ProviderUnavailable,
)

load_litellm()


def litellm_exceptions() -> list[type[Exception]]:
    import litellm.exceptions

    return [
        each
        for each in vars(litellm.exceptions).values()
        if inspect.isclass(each)
        and issubclass(each, Exception)
        and each.__module__.startswith("litellm")
    ]


@pytest.mark.parametrize("kind", litellm_exceptions(), ids=lambda kind: kind.__name__)
def test_every_litellm_exception_is_mapped_by_its_own_name(kind: type[Exception]) -> None:
    assert kind.__name__ in ERRORS


def test_every_openai_exception_that_litellm_may_pass_on_is_mapped() -> None:
    import openai

    names = [
        name
        for name, each in list(vars(openai).items())
        if inspect.isclass(each) and issubclass(each, openai.APIError)
    ]
    for name in names:
        bases = {base.__name__ for base in getattr(openai, name).__mro__}
        assert bases & set(ERRORS), name


def test_an_unforeseen_exception_counts_as_sent_and_billed() -> None:
    error = provider_error("m", KeyError("choices"))
    assert isinstance(error, MalformedReply)
    assert error.request_written


def test_a_refused_connection_counts_as_never_sent() -> None:
    import httpx

    try:
        try:
            httpx.get("http://127.0.0.1:9/")
        except httpx.ConnectError as refused:
            raise RuntimeError("litellm's own words") from refused
    except RuntimeError as wrapped:
        error = provider_error("m", wrapped)
    assert isinstance(error, ProviderUnavailable)
    assert not error.request_written


FIELDS: dict[type[errors.RouterError], tuple[Any, dict[str, Any]]] = {
    errors.PolicyError: (("my.yaml", "tiers", "is empty"), {"value": 1, "line": 3}),
    errors.UnknownPrice: (("m", "no entry"), {}),
    errors.ModelFileError: (("m.npz", "corrupt"), {}),
    errors.OutcomeFileError: (("o.jsonl", "empty"), {}),
    errors.LogFileError: (("l.parquet", "empty"), {}),
    errors.ReplayError: (("too few rows",), {}),
    errors.ImportFileError: (("l.csv", 4, "cost", "no number"), {"truncated": True}),
    errors.TrainingError: (("too few rows", 3), {}),
    errors.CalibrationError: (("no score", [1, 2]), {}),
    errors.InvalidRequest: (("n", "is 0"), {"value": 0, "allowed": "1"}),
    errors.NoCapableDeployment: (({"nano": "cannot see"},), {}),
    errors.BudgetExceeded: (("daily",), {"needed": 5, "used": 6, "held": 7, "limit": 8,
                                         "resets_at": 9.0, "on_exceed": "queue"}),
    errors.AtCapacity: (({"nano": "is full"}, 1.5), {}),
    errors.PutOff: ((2.5,), {}),
    errors.DeferredError: (("t1", "Cancelled", "by you"), {}),
    errors.LedgerUnavailable: (("sqlite", "locked"), {}),
    errors.LedgerCorrupt: (("sqlite", "a sum is wrong"), {}),
    errors.ReservationError: (("r1", "settled", "ended"), {}),
    errors.ClockJumped: ((), {"ahead": 1.0, "allowed": 2.0, "now": 3.0, "trusted": 4.0}),
    errors.ProviderError: (("m", "busy"), {"status": 503, "retry_after": 1.5}),
}  # fmt: skip


def _every(kind: type[errors.RouterError]) -> Iterator[type[errors.RouterError]]:
    yield kind
    for below in kind.__subclasses__():
        yield from _every(below)


@pytest.mark.parametrize("kind", [*_every(errors.RouterError)], ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("again", [copy.copy, lambda error: pickle.loads(pickle.dumps(error))])  # noqa: S301
def test_an_error_passes_from_process_to_process_with_its_fields(kind: Any, again: Any) -> None:
    own = next((FIELDS[base] for base in kind.__mro__ if base in FIELDS), (("why",), {}))
    error = kind(*own[0], **own[1])
    other = again(error)
    assert type(other) is kind
    assert (str(other), vars(other)) == (str(error), vars(error))


def test_messages_are_one_bounded_line() -> None:
    error = provider_error("m", ValueError("x" * 10_000 + "\nsecond line"))
    assert len(str(error)) < 600
    assert "\n" not in str(error)
    assert isinstance(error, ProviderError)


@pytest.mark.parametrize(
    "model",
    [
        "openai/gpt-5.4",
        "anthropic/claude-haiku-4-5",
        "gemini/gemini-2.5-flash",
        "azure/gpt-5.4",
        "bedrock/anthropic.claude-haiku-4-5",
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_a_missing_key_counts_as_never_sent(
    model: str, stream: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in list(os.environ):
        if name.endswith("_KEY") or name.startswith(("OPENAI_", "AWS_")):
            monkeypatch.delenv(name)
    call = Call(model, [{"role": "user", "content": "hi"}], {"max_tokens": 5}, stream, (1, 1))
    with pytest.raises(AuthenticationFailed) as caught:
        send(call)
    assert not caught.value.request_written
