"""A routed stream: litellm's own stream, metered, and settled however it ends.

It ends by running out, by an error, by a deadline, by being closed, or by being forgotten; each
way reports once to `on_end`. An abandoned stream may be drained in the background for a bounded
time, so that the provider's own usage report is what gets charged.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from router.dispatch.bounded_reads import until
from router.dispatch.closing import Closing
from router.dispatch.failures import provider_error
from router.dispatch.usage import report_of
from router.dispatch.wire import in_time, within
from router.errors import MalformedReply, ProviderError, ProviderTimeout
from router.gates.answer import called

_END = object()
_TEXTS = ("content", "reasoning_content", "refusal")
_READ_FROM = ("streaming_response", "response_iterator")  # what litellm's readers read
_background: set[asyncio.Task[None]] = set()  # keeps draining tasks from being collected
# Keeps open streams alive when the reader's own object is collected: a stream that was collected
# with it would be closed under the drain that its finalizer starts.
_open: set[_Meter] = set()


@dataclass(frozen=True, slots=True)
class StreamEnd:
    """How a stream ended. `report` is the provider's usage, None where it never came; `text` the
    answer, None where the terms do not keep it or it is more than one text; `finish_reason` the
    provider's."""

    report: Mapping[str, Any] | None
    answer_bytes: int
    abandoned: bool
    error: ProviderError | None = None
    text: str | None = None
    finish_reason: str = "stop"


@dataclass(frozen=True, slots=True)
class StreamTerms:
    """`drain_seconds` bounds the reading on after an abandonment, 0 to hang up at once;
    `deadline` is a `time.monotonic` moment; `emit_usage`, whether the caller asked for usage;
    `keep`, whether the whole answer is wanted at the end."""

    model: str
    on_end: Callable[[StreamEnd], None]
    drain_seconds: float
    deadline: float
    emit_usage: bool
    keep: bool = False


def routed_stream(inner: Any, first_chunk: Any, terms: StreamTerms, routing: Any) -> Any:
    """Wrap litellm's open stream; the result is an instance of litellm's stream class too."""
    return _stream_class()(inner, first_chunk, terms, routing)


class _Meter:
    """Counts what went by and makes sure that the end is reported exactly once."""

    def __init__(self, inner: Any, terms: StreamTerms):
        self.inner, self.terms = inner, terms
        self.answer_bytes = 0
        self._said: list[str] | None = [] if terms.keep else None
        self.closed = False  # nobody reads any more, though a drain may
        self.read_out = False  # there is nothing more to read
        self.torn = False  # a read was cancelled, after which a reader only seems to have read all
        self._ended = False
        self._lock = threading.Lock()
        self.pid = os.getpid()
        _open.add(self)

    def leave(self) -> bool:
        """Mark the stream as left by its reader; return whether it was still being read. In a
        forked child its connection and its books are the parent's."""
        if self.pid != os.getpid():
            return False
        with self._lock:
            was_read, self.closed = not self.closed, True
            return was_read

    def see(self, chunk: Any) -> bool:
        """Count a chunk; return whether the caller should get it."""
        text = answer_bytes(chunk.choices)
        self.answer_bytes += text
        if self._said is not None:
            self._keep(chunk.choices)
        is_usage = getattr(chunk, "usage", None) is not None
        return self.terms.emit_usage or not is_usage or bool(text)

    def _keep(self, choices: Iterable[Any]) -> None:
        assert self._said is not None
        for choice in choices:
            said = getattr(choice, "delta", None)
            more = ("tool_calls", "function_call", "audio", "images")
            if getattr(choice, "index", 0) or any(getattr(said, name, None) for name in more):
                self._said = None  # more than one text
                return
            self._said.append(getattr(said, "content", None) or "")

    def left(self) -> float:
        """Seconds to the deadline."""
        return self.terms.deadline - time.monotonic()

    def overdue(self) -> ProviderTimeout | None:
        if self.left() > 0:
            return None
        return ProviderTimeout(self.terms.model, "the stream ran past the policy's total timeout")

    def whole(self) -> bool:
        """Whether the provider came to the answer's end. litellm gives a truncated stream the
        finish reason "stop" too, and each of Gemini's chunks one in between; OpenAI's format also
        ends with a report of usage alone."""
        inner = self.inner
        if inner.received_finish_reason:
            return True
        if not self.read_out or self.torn or self._unreadable():
            return False
        alone = any(not chunk.choices and report_of(chunk) for chunk in inner.chunks)
        return bool(inner.intermittent_finish_reason) or alone

    def _unreadable(self) -> bool:
        """Whether an event was cut or garbled. litellm's reader of Gemini's streams keeps it and
        all that follows, for a rest that never comes, and then ends as if it had read all."""
        return "{" in getattr(self.inner.completion_stream, "accumulated_json", "")

    def report(self) -> Mapping[str, Any] | None:
        """The usage that the provider sent; litellm's own estimate does not count as one, nor do
        the counts so far that Anthropic, Gemini and others send before the end."""
        if not self.whole():
            return None
        for chunk in reversed(self.inner.chunks):
            report = report_of(chunk)
            if report is not None:
                if self._prices_itself():
                    report.pop("cost", None)
                # litellm drops the tier from the chunk with the usage, but not from the others.
                tiers = [getattr(chunk, "service_tier", None) for chunk in self.inner.chunks]
                served = next(filter(None, tiers), None)
                return report if served is None else {"service_tier": served, **report}
        return None

    def _prices_itself(self) -> bool:
        """Whether litellm writes its own idea of the cost into the report, as it does where it
        reads OpenAI's Responses API."""
        reader = getattr(self.inner.completion_stream, "streaming_response", None)
        return hasattr(reader, "completed_response")

    @property
    def finish_reason(self) -> str | None:
        """litellm gives a truncated stream the finish reason "stop"; look behind it."""
        found = self.inner.received_finish_reason or self.inner.intermittent_finish_reason
        return found or None

    def broken_off(self) -> MalformedReply | None:
        """What is wrong with a stream that has run out before the answer's end."""
        if self.whole():
            return None
        return MalformedReply(self.terms.model, "the stream broke off before its end")

    def end(self, *, abandoned: bool = False, error: ProviderError | None = None) -> None:
        if self.pid != os.getpid():
            return
        with self._lock:
            self.closed = True
            if self._ended:
                return
            self._ended = True
        _open.discard(self)
        text = None if self._said is None else "".join(self._said)
        end = StreamEnd(self.report(), self.answer_bytes, abandoned, error, text)
        self.terms.on_end(replace(end, finish_reason=self.finish_reason or end.finish_reason))


def whole(model: str, text: str, finish_reason: str) -> Any:
    """A stream's answer as the response that it would have been without streaming."""
    from litellm import ModelResponse

    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "finish_reason": finish_reason, "message": message}
    return ModelResponse(model=model, choices=[choice])


def answer_bytes(choices: Iterable[Any]) -> int:
    """UTF-8 bytes of all text and tool calls in an answer's choices, or in a chunk's."""
    texts = []
    for choice in choices:
        said = getattr(choice, "message", None) or getattr(choice, "delta", None)
        texts += [getattr(said, name, None) for name in _TEXTS]
        for call in getattr(said, "tool_calls", None) or ():
            texts += called(call)
    return sum(len(text.encode("utf-8", "surrogatepass")) for text in texts if text)


@cache
def _stream_class() -> Any:
    """Build the class when litellm is loaded: what it inherits from is litellm's."""
    from litellm import CustomStreamWrapper

    atexit.register(_end_all)  # after the ledger's own, so that it comes before

    class RoutedStream(Closing, CustomStreamWrapper):  # type: ignore[misc]
        """litellm's stream, with the router's books kept beside it. `routing` is the decision."""

        def __init__(self, inner: Any, first_chunk: Any, terms: StreamTerms, routing: Any):
            # No super().__init__: the open stream is `inner`, and unknown attributes come from it.
            self._inner, self._first = inner, first_chunk
            self._meter = _Meter(inner, terms)
            self.routing = routing

        def __getattr__(self, name: str) -> Any:
            if name in ("_inner", "_meter", "_first"):
                raise AttributeError(name)
            return getattr(self._inner, name)

        def __iter__(self) -> Any:
            return self

        def __aiter__(self) -> Any:
            return self

        def __next__(self) -> Any:
            while True:
                if self._meter.closed:
                    raise StopIteration
                chunk, self._first = self._first, _END
                if chunk is _END:
                    try:
                        terms = self._meter.terms
                        with in_time(terms.model, self._meter.left()), _mapping(self._meter):
                            chunk = next(self._inner, _END)
                    except ProviderError as failed:
                        self._meter.end(error=failed)
                        raise
                    except BaseException:  # an interrupt: what was sent is still billed
                        self._meter.end(abandoned=True)
                        raise
                if chunk is _END:
                    self._meter.read_out = True
                    error = self._meter.broken_off()
                    _hang_up(self._inner)
                    self._meter.end(error=error)
                    if error is not None:
                        raise error
                    raise StopIteration
                if self._meter.see(chunk):
                    return chunk

        async def __anext__(self) -> Any:
            while True:
                if self._meter.closed:
                    raise StopAsyncIteration
                chunk, self._first = self._first, _END
                if chunk is _END:
                    try:
                        with _mapping(self._meter):
                            async with within(self._meter.terms.model, self._meter.left()):
                                chunk = await anext(self._inner, _END)
                    except ProviderError as failed:
                        await _off_loop(self._meter, error=failed)
                        raise
                    except asyncio.CancelledError:
                        self._meter.torn = True
                        await self.aclose()
                        raise
                if chunk is _END:
                    self._meter.read_out = True
                    error = self._meter.broken_off()
                    await _off_loop(self._meter, error=error)
                    if error is not None:
                        raise error
                    raise StopAsyncIteration
                if self._meter.see(chunk):
                    return chunk

        def close(self) -> None:
            """Stop reading. What was generated is still charged."""
            if not self._meter.leave():
                return
            threading.Thread(
                target=_drain, args=(self._inner, self._meter), name="router-drain", daemon=True
            ).start()

        async def aclose(self) -> None:
            """`close`, for a stream that is read with `async for`."""
            if not self._meter.leave():
                return
            task = asyncio.get_running_loop().create_task(_adrain(self._inner, self._meter))
            _background.add(task)
            task.add_done_callback(_background.discard)

        def __del__(self) -> None:
            meter = self.__dict__.get("_meter")
            if meter is None or meter.closed or sys.is_finalizing():
                return  # no thread can be started at the very end; `_end_all` came before
            if hasattr(_wire_of(self._inner), "__anext__"):
                # A forgotten async stream has no loop to be drained on: charged as reserved.
                threading.Thread(target=meter.end, kwargs={"abandoned": True}, daemon=True).start()
            else:
                self.close()

    return RoutedStream


def _wire_of(inner: Any) -> Any:
    """What a stream's chunks are read from: by itself litellm's reader can be read either way."""
    reader = inner.completion_stream
    sources = (getattr(reader, name, None) for name in _READ_FROM)
    return next((source for source in sources if source is not None), reader)


def _end_all() -> None:
    """When the program ends, streams that are still open are charged as abandoned."""
    for meter in list(_open):
        meter.end(abandoned=True)


class _mapping:  # noqa: N801 - a context manager, used as a verb
    """Raise the deadline and map litellm's errors, without ending the stream."""

    def __init__(self, meter: _Meter):
        self._meter = meter
        self._outside = sys.exception()

    def __enter__(self) -> None:
        overdue = self._meter.overdue()
        if overdue is not None:
            raise overdue

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, Exception) and not isinstance(error, ProviderError):
            model = self._meter.terms.model
            raise _written(provider_error(model, error, self._outside)) from error


def _written(error: ProviderError) -> ProviderError:
    """A stream that fails has been sent and partly answered, whatever its status says."""
    error.request_written = True
    return error


async def _off_loop(meter: _Meter, *, error: ProviderError | None) -> None:
    await asyncio.shield(asyncio.to_thread(meter.end, error=error))


def _drain(inner: Any, meter: _Meter) -> None:
    deadline = time.monotonic() + meter.terms.drain_seconds
    try:
        while time.monotonic() < deadline:
            with until(deadline):
                chunk = next(inner, _END)
            if chunk is _END:
                meter.read_out = True
                break
            meter.see(chunk)
    except Exception:
        pass  # the stream is abandoned: its end below says what is known
    finally:
        _hang_up(inner)
        meter.end(abandoned=True)


async def _adrain(inner: Any, meter: _Meter) -> None:
    try:
        async with asyncio.timeout(meter.terms.drain_seconds):
            async for chunk in inner:
                meter.see(chunk)
            meter.read_out = True
    except Exception:
        pass  # as in `_drain`
    finally:
        await _off_loop_abandoned(inner, meter)


async def _off_loop_abandoned(inner: Any, meter: _Meter) -> None:
    await asyncio.shield(asyncio.to_thread(meter.end, abandoned=True))
    await inner.aclose()


def _hang_up(inner: Any) -> None:
    """Close a stream's connection here and now.

    litellm stops reading at an answer's last event, a little before the end of the wire's. Left to
    the garbage collector, such a stream may be closed while its thread is inside httpcore's pool,
    whose lock it then waits for without end.
    """
    reader = getattr(inner, "completion_stream", None)
    for each in (reader, *(getattr(reader, name, None) for name in _READ_FROM)):
        close = getattr(each, "close", None)
        if callable(close):
            with suppress(Exception):  # it has ended, or is being read elsewhere
                close()
