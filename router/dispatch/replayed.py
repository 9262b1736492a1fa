"""A finished answer handed out as a stream: what a buffered stream's caller reads.

The wire carried a plain call, so that a gate could read the whole answer, and a failure be retried,
before the caller had seen any of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from router.dispatch.closing import Closing

_CHUNK = 256  # characters of text in a chunk


def replayed(response: Any, params: Mapping[str, Any]) -> Any:
    """Return a stream of litellm's type over a response that is complete and settled.

    Parameters: `params`, the request's, whose `stream_options` say whether usage is wanted.
    The stream's `routing` is the response's; it serves `for` and `async for`, and needs no closing.
    """
    options = params.get("stream_options") or {}
    usage = bool(options.get("include_usage")) if isinstance(options, Mapping) else False
    return _stream_class()(response, usage)


def _chunks(response: Any, usage: bool) -> Iterator[Any]:
    for choice in response.choices:
        delta = choice.message.model_dump(exclude_none=True)
        text = delta.pop("content", None) or ""
        for position, call in enumerate(delta.get("tool_calls") or ()):
            call["index"] = position
        logprobs = getattr(choice, "logprobs", None)  # all of them come with the first piece
        pieces = [text[at : at + _CHUNK] for at in range(0, len(text), _CHUNK)] or [None]
        for piece in pieces:
            yield _chunk(response, choice.index, {**delta, "content": piece}, None, logprobs)
            delta, logprobs = {}, None
        yield _chunk(response, choice.index, {}, choice.finish_reason)
    if usage and getattr(response, "usage", None) is not None:
        last = _chunk(response, 0, {}, None)
        last.choices, last.usage = [], response.usage
        yield last


def _chunk(
    response: Any, index: int, delta: Mapping[str, Any], finish: str | None, logprobs: Any = None
) -> Any:
    from litellm.types.utils import Delta, ModelResponseStream, StreamingChoices

    choice = StreamingChoices(
        index=index, delta=Delta(**delta), finish_reason=finish, logprobs=logprobs
    )
    return ModelResponseStream(
        id=response.id, created=response.created, model=response.model, choices=[choice]
    )


@cache
def _stream_class() -> Any:
    """Build the class when litellm is loaded: what it inherits from is litellm's."""
    from litellm import CustomStreamWrapper

    class ReplayedStream(Closing, CustomStreamWrapper):  # type: ignore[misc]
        """litellm's stream over an answer that is known."""

        def __init__(self, response: Any, usage: bool):
            # No super().__init__: there is no open connection behind it.
            self.routing = response._hidden_params["router"]
            self.model, self.response_id = response.model, response.id
            self._left = _chunks(response, usage)

        def __iter__(self) -> Any:
            return self

        def __aiter__(self) -> Any:
            return self

        def __next__(self) -> Any:
            return next(self._left)

        async def __anext__(self) -> Any:
            for chunk in self._left:
                return chunk
            raise StopAsyncIteration

        def close(self) -> None:
            """Read no further. Nothing is left to be settled."""
            self._left = iter(())

        async def aclose(self) -> None:
            self.close()

    return ReplayedStream
