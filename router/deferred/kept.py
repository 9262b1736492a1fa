"""What stands in a queue: a request as JSON and back, an answer as JSON and back."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from router.dispatch.effects import Effect, Send, Store, Wait, Walk
from router.dispatch.wire import load_litellm
from router.errors import InvalidRequest, PutOff
from router.types import Request

T = TypeVar("T")
_FIELDS = ("messages", "params", "scopes", "tags", "metadata", "conversation_id")


def request_text(request: Request) -> str:
    """A request as JSON.

    Raises `InvalidRequest` for a stream, which nobody would read, and for arguments that are not
    JSON, such as a class as `response_format`.
    """
    if request.stream:
        raise InvalidRequest(
            "stream", "a queued request has no reader", value=True, allowed="no stream in a queue"
        )
    for field in _FIELDS:
        try:
            json.dumps(getattr(request, field), allow_nan=False)
        except (TypeError, ValueError) as error:
            raise InvalidRequest(
                field, f"cannot wait in a queue: {error}", allowed="what JSON can hold"
            ) from None
    content = {field: getattr(request, field) for field in _FIELDS}
    return json.dumps(content, ensure_ascii=False)


def request_of(text: str, request_id: str, now: float, deadline: float) -> Request:
    """The request of a text, to be walked at `now` under an id."""
    content = json.loads(text)
    return Request(
        request_id=request_id,
        messages=tuple(content["messages"]),
        params=content["params"],
        now=now,
        scopes=content["scopes"],
        tags=tuple(content["tags"]),
        metadata=content["metadata"],
        conversation_id=content["conversation_id"],
        deadline=deadline,
    )


def answer_text(response: Any) -> str:
    """litellm's response as JSON, in ASCII: an answer that was cut amid a character holds half of
    it, a lone surrogate, which UTF-8 cannot."""
    return json.dumps(response.model_dump(exclude_none=True))


def answer_of(text: str, request_id: str | None) -> Any:
    """litellm's response of a text, with the request's id in the log among its hidden facts."""
    response = load_litellm().ModelResponse(**json.loads(text))
    response._hidden_params["request_id"] = request_id
    return response


def in_hand(
    walk: Walk[T], request_id: str, keep: Callable[[Any], None], most_waits: float
) -> Walk[T]:
    """A request's walk in a worker's hand: each reply to it is kept before it is settled, so that
    who dies between the two has the answer; and a walk that waits for long gives its place to
    others. A reply to another request on its way, such as a summary, is no answer to this one.

    Raises `PutOff` where it would wait for more than `most_waits` seconds in all.
    """
    step: Callable[[], Effect] = partial(next, walk)
    waited = 0.0
    while True:
        try:
            effect = step()
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]
        try:
            if isinstance(effect, Wait):
                waited += effect.seconds
                if waited > most_waits:
                    raise PutOff(effect.seconds)
            result = yield effect
            if isinstance(effect, Send) and effect.request_id == request_id:
                yield Store(partial(keep, result.response))
        except BaseException as error:
            step = partial(walk.throw, error)
        else:
            step = partial(walk.send, result)
