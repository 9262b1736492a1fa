"""From the arguments of a chat call to a `Request`, or to one clear `InvalidRequest`.

Nothing that is refused here has been reserved, sent or charged.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from router.dispatch.bounds import asked_cap, samples
from router.dispatch.deadlines import read_deadline, read_timeout
from router.errors import InvalidRequest
from router.ids import new_request_id
from router.types import OWN_SCOPES, Request

AUTO = "auto"
ROLES = ("system", "developer", "user", "assistant", "tool", "function")
MAX_SCOPE_LENGTH = 256

# These belong to the policy's deployments: a request that could set them could spend elsewhere,
# send keys elsewhere, or retry without a reservation.
OWNED = {
    "api_base": "the deployment's `api_base`",
    "base_url": "the deployment's `api_base`",
    "api_key": "the deployment's `api_key_env`",
    "api_version": "the deployment's `params`",
    "azure": "the deployment's `model`",
    "client": "`wrap(client)`",
    "custom_llm_provider": "the deployment's `model`",
    "deployment_id": "the deployment's `model`",
    "extra_query": "the deployment's `api_base`: litellm would send it in the body",
    "fallbacks": "the policy's tiers",
    "context_window_fallback_dict": "the policy's tiers",
    "model_list": "the policy's tiers",
    "max_retries": "the policy's `retry`",
    "num_retries": "the policy's `retry`",
    "retry_policy": "the policy's `retry`",
    "request_timeout": "the argument `timeout`",
    "caching": "a cache before the router: an answer of litellm's would be charged as new",
    "mock_response": "a local provider",
    "input_cost_per_token": "the deployment's `price`",
    "output_cost_per_token": "the deployment's `price`",
}


def read_request(
    *,
    model: Any,
    messages: Any,
    stream: Any = False,
    scopes: Mapping[str, str] | None = None,
    tags: Iterable[str] | None = None,
    metadata: Mapping[str, Any] | None = None,
    conversation_id: str | None = None,
    deadline: Any = None,
    params: Mapping[str, Any],
    max_messages: int,
    now: float | None = None,
) -> Request:
    """Check a call's arguments and return the `Request`.

    Raises `InvalidRequest` naming the argument, its value and what is allowed.
    """
    now = time.time() if now is None else now
    if model not in (None, AUTO):
        raise InvalidRequest(
            "model",
            f"{_short(model)} is not routed: the policy chooses the model",
            value=_short(model),
            allowed="'auto'; to bind a request to a tier, add a rule to the policy",
        )
    for name, home in OWNED.items():
        if params.get(name) is not None:
            raise InvalidRequest(name, "is not taken from a request", allowed=f"set it in {home}")
    asked_cap(params)
    samples(params)
    _read_by_the_router(params)
    return Request(
        request_id=new_request_id(now),
        is_new=True,
        messages=_messages(messages, max_messages),
        params={name: value for name, value in params.items() if value is not None},
        now=now,
        stream=bool(stream),
        scopes=read_scopes(scopes),
        tags=read_tags(tags),
        metadata=_mapping("metadata", metadata),
        conversation_id=_conversation_id(conversation_id),
        deadline=read_deadline(deadline, now),
    )


def refuse_size(text_bytes: int, largest: int) -> None:
    """Raise `InvalidRequest` where a request's text is larger than the policy takes."""
    if text_bytes > largest:
        raise InvalidRequest(
            "messages",
            f"{text_bytes:,} bytes of text",
            value=text_bytes,
            allowed=f"at most {largest:,} bytes (`limits.max_request_bytes` of the policy)",
        )


def _messages(messages: Any, most: int) -> tuple[Mapping[str, Any], ...]:
    if isinstance(messages, str | bytes | Mapping) or not isinstance(messages, Sequence):
        raise InvalidRequest(
            "messages",
            f"{_short(messages)} is not a list of messages",
            value=_short(messages),
            allowed='a list such as [{"role": "user", "content": "Hello"}]',
        )
    if not messages:
        raise InvalidRequest("messages", "is empty", value=[], allowed="at least one message")
    if len(messages) > most:
        raise InvalidRequest(
            "messages",
            f"{len(messages):,} messages",
            value=len(messages),
            allowed=f"at most {most:,} (`limits.max_messages` of the policy)",
        )
    return tuple(_message(f"messages[{index}]", each) for index, each in enumerate(messages))


def _message(place: str, message: Any) -> Mapping[str, Any]:
    if not isinstance(message, Mapping):
        dump = getattr(message, "model_dump", None)  # a reply handed back as the next turn's input
        if dump is None:
            raise InvalidRequest(
                place, f"{_short(message)} is not a message", allowed="a mapping with `role`"
            )
        message = dump(exclude_none=True)
    role = message.get("role")
    if role not in ROLES:
        raise InvalidRequest(
            f"{place}.role", f"{_short(role)} is not a role", value=role, allowed=", ".join(ROLES)
        )
    content = message.get("content")
    if content is None and role in ("assistant",):
        return dict(message)  # it speaks in tool calls
    if isinstance(content, str):
        _valid_unicode(f"{place}.content", content)
    elif isinstance(content, Sequence):
        for index, part in enumerate(content):
            if not isinstance(part, Mapping) or not isinstance(part.get("type"), str):
                raise InvalidRequest(
                    f"{place}.content[{index}]",
                    f"{_short(part)} is not a content part",
                    allowed='a mapping with `type`, such as {"type": "text", "text": "Hello"}',
                )
            if isinstance(part.get("text"), str):
                _valid_unicode(f"{place}.content[{index}].text", part["text"])
    else:
        raise InvalidRequest(
            f"{place}.content",
            f"{_short(content)} is not content",
            value=_short(content),
            allowed="text or a list of content parts",
        )
    return dict(message)


def _valid_unicode(place: str, text: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InvalidRequest(
            place,
            f"character {error.start} is a lone surrogate (U+{ord(text[error.start]):04X}), "
            "which no provider accepts",
            value=error.start,
            allowed="valid Unicode text",
        ) from None


def read_scopes(scopes: Mapping[str, str] | None) -> Mapping[str, str]:
    """Check whose budgets pay. Raises `InvalidRequest`."""
    for name, value in _mapping("scopes", scopes).items():
        if name in OWN_SCOPES:
            raise InvalidRequest(
                f"scopes.{name}",
                "the router fills in this scope itself",
                value=_short(value),
                allowed=f"any name but {', '.join(OWN_SCOPES)}",
            )
        if not isinstance(value, str) or not 1 <= len(value) <= MAX_SCOPE_LENGTH:
            raise InvalidRequest(
                f"scopes.{name}",
                f"{_short(value)} does not name a scope",
                value=_short(value),
                allowed=f"text of 1 to {MAX_SCOPE_LENGTH} characters",
            )
    return dict(scopes or {})


def read_tags(tags: Iterable[str] | None) -> tuple[str, ...]:
    """Check what a request is for. Raises `InvalidRequest`."""
    if tags is None:
        return ()
    found = tuple(tags) if isinstance(tags, Iterable) and not isinstance(tags, str) else None
    if found is None or not all(isinstance(tag, str) for tag in found):
        raise InvalidRequest("tags", f"{_short(tags)} is not a list of tags", allowed='["billing"]')
    return found


def _read_by_the_router(params: Mapping[str, Any]) -> None:
    """Refuse arguments of the wrong kind that the router reads itself, before it stumbles."""
    for name in ("tools", "functions", "modalities"):
        value = params.get(name)
        if isinstance(value, str | bytes | Mapping) or not isinstance(value, Sequence | None):
            raise InvalidRequest(
                name, f"{_short(value)} is no list", value=_short(value), allowed="a list"
            )
    _mapping("stream_options", params.get("stream_options"))
    read_timeout(params.get("timeout"))
    asked = params.get("response_format")
    if not isinstance(asked, Mapping | type | None):
        raise InvalidRequest(
            "response_format",
            f"{_short(asked)} is no format",
            value=_short(asked),
            allowed='a mapping such as {"type": "json_object"}, or a pydantic class',
        )


def _mapping(name: str, value: Mapping[str, Any] | None) -> Mapping[str, Any]:
    if value is not None and not isinstance(value, Mapping):
        raise InvalidRequest(
            name, f"{_short(value)} is no mapping", value=_short(value),
            allowed='names and values such as {"user": "ann"}',
        )  # fmt: skip
    return dict(value or {})


def _conversation_id(value: Any) -> str | None:
    """It names a scope of its own, so what could not would be refused once it is to be paid for."""
    named = isinstance(value, str) and len(value) <= MAX_SCOPE_LENGTH and "\0" not in value
    if value is None or named:
        _valid_unicode("conversation_id", value or "")
        return value  # type: ignore[no-any-return]
    raise InvalidRequest(
        "conversation_id",
        f"{_short(value)} does not name a conversation",
        value=_short(value),
        allowed=f"text of at most {MAX_SCOPE_LENGTH} characters, none of them NUL",
    )


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
