"""Every exception of litellm has a place in the router's tree, and says whether it was billed."""

from __future__ import annotations

import inspect
import os

import pytest

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
