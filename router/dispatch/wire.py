"""The one seam to the providers: a call goes out through litellm, once, and a reply comes back.

litellm takes seconds to import, so it loads with the first call. Its own retries, and those of the
client below it, are off: one `send` is one request on the wire.
"""

from __future__ import annotations

import asyncio
import copy
import os
import re
import sys
import threading
import time
import weakref
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.util import find_spec
from types import ModuleType
from typing import Any

from router.dispatch.bounded_reads import bound_reads, until
from router.dispatch.failures import provider_error
from router.dispatch.handlers import change_handlers, sending
from router.errors import AuthenticationFailed, MalformedReply, ProviderError, ProviderTimeout

# What the policy's own effort goes out with: litellm knows no model of one's own server.
EFFORT_ALLOWED = ["reasoning_effort"]
# Providers whose format has no place for OpenAI's plain argument.
_OWN_FORMAT = frozenset(
    {"anthropic", "bedrock", "cohere_chat", "gemini", "vertex_ai", "vertex_ai_beta"}
)
# What a caller would rather have, and does without where a model does not take it: those that
# think take no temperature, and a request is to be able to go to any tier. What an answer must be
# (`stop`, `logprobs`, a format) is no wish.
_WISHES = ("temperature", "top_p", "presence_penalty", "frequency_penalty", "seed")
_USUAL_HEADERS = ("accept", "authorization", "content-type", "user-agent", "x-stainless")
_MCP_HANDLER = "litellm.responses.mcp.litellm_proxy_mcp_handler"
_TOO_LONG = "it took longer than the policy's total timeout"
_import_lock = threading.Lock()
_END = object()


@dataclass(frozen=True, slots=True)
class Call:
    """One wire attempt, ready to go.

    `arguments` are litellm's, `timeout` is (connect, read) seconds, `total` the seconds that all of
    it may take, though a provider may keep it alive with empty lines. `api_key_env` names the
    environment variable that holds the key; `client` is an OpenAI client to send through, an
    asynchronous one for `asend`.
    """

    model: str
    messages: Sequence[Mapping[str, Any]]
    arguments: Mapping[str, Any]
    stream: bool
    timeout: tuple[float, float]
    api_base: str | None = None
    api_key_env: str | None = None
    client: Any = None
    total: float | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back: litellm's response, or its open stream with the first chunk taken off; and
    which of the caller's wishes were left out, since the model takes none of them."""

    response: Any
    first_chunk: Any = None
    left_out: tuple[str, ...] = ()


class CancelledUnsent(asyncio.CancelledError):
    """The task was cancelled before its request was sent: nothing can have been billed."""


def load_litellm() -> Any:
    """Import litellm, which must not look at the network or talk on standard error."""
    with _import_lock:
        os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
        import litellm

        litellm.suppress_debug_info = True
        litellm.telemetry = False
        if litellm.disable_hf_tokenizer_download is None:
            litellm.disable_hf_tokenizer_download = True  # for a count that nothing here reads
        _stand_in_for_mcp()
        bound_reads()
        change_handlers()
        return litellm


class _NoMcp:
    """litellm's handler of MCP tools, as far as calls without such tools ask for it."""

    @staticmethod
    def should_use_litellm_mcp_gateway(tools: object) -> bool:
        return False


@cache
def _stand_in_for_mcp() -> None:
    """Let litellm send what only OpenAI's Responses API takes: tools beside thinking, from GPT-5.4
    on, and models such as gpt-5.4-pro. There it always imports its handler of MCP tools, which
    needs a package that litellm does not require."""
    found = find_spec("mcp")
    if found is not None and found.origin is not None:  # a folder of that name is no package
        return
    module = ModuleType(_MCP_HANDLER)
    module.LiteLLM_Proxy_MCP_Handler = _NoMcp  # type: ignore[attr-defined]
    sys.modules.setdefault(_MCP_HANDLER, module)


def send(call: Call) -> Reply:
    """Make one wire attempt. Raises a `ProviderError`, its cause being litellm's exception."""
    litellm = load_litellm()
    with in_time(call.model, call.total), _Mapped(call):
        asking = _Asking(arguments_of(call))
        with sending(asking.timeout):
            for arguments in asking:
                with asking:
                    response = litellm.completion(**arguments)
            if not call.stream:
                return Reply(_with_refusals(response), None, asking.left_out)
            _keep_refusals(response)
            return Reply(response, _first(call, next(response, _END)), asking.left_out)


async def asend(call: Call) -> Reply:
    """`send`, on the running event loop."""
    litellm = await asyncio.to_thread(load_litellm)
    with _Mapped(call):
        async with within(call.model, call.total):
            asking = _Asking(arguments_of(call))
            with sending(asking.timeout):
                for arguments in asking:
                    with asking:
                        response = await litellm.acompletion(**arguments)
                if not call.stream:
                    return Reply(_with_refusals(response), None, asking.left_out)
                _keep_refusals(response)
                return Reply(response, _first(call, await anext(response, _END)), asking.left_out)


class _Asking:
    """A call's arguments, to be tried until litellm takes them: each time without the wishes that
    it says the model does not take. It looks before it sends, so nothing was billed."""

    def __init__(self, arguments: dict[str, Any]):
        self._arguments, self._taken = arguments, False
        self.left_out: tuple[str, ...] = ()
        self.timeout = arguments["timeout"]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        while not self._taken:
            yield self._arguments

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if error is None:
            self._taken = True
            return False
        if not isinstance(error, load_litellm().UnsupportedParamsError):
            return False
        refused = [
            name
            for name in _WISHES
            if name in self._arguments and re.search(rf"\b{name}\b", str(error))
        ]
        for name in refused:
            del self._arguments[name]
        self.left_out += tuple(refused)
        return bool(refused)


@contextmanager
def in_time(model: str, seconds: float | None) -> Iterator[None]:
    """Break off a read of this thread that takes longer. Raises `ProviderTimeout`."""
    deadline = None if seconds is None else time.monotonic() + seconds
    try:
        with until(deadline):
            yield
    except ProviderTimeout as error:
        if deadline is None or time.monotonic() < deadline or not error.request_written:
            raise
        raise ProviderTimeout(model, _TOO_LONG) from error


@asynccontextmanager
async def within(model: str, seconds: float | None) -> AsyncIterator[None]:
    """Break off what takes longer on the running event loop. Raises `ProviderTimeout`."""
    scope = asyncio.timeout(seconds)
    try:
        async with scope:
            yield
    except TimeoutError as error:
        if not scope.expired():
            raise
        raise ProviderTimeout(model, _TOO_LONG) from error


def _with_refusals(response: Any) -> Any:
    """The response, in which a refusal stands where OpenAI has it: litellm puts it aside."""
    for choice in response.choices:
        message = choice.message
        aside = getattr(message, "provider_specific_fields", None) or {}
        if aside.get("refusal") and getattr(message, "refusal", None) is None:
            message.refusal = aside["refusal"]
    return response


def _keep_refusals(stream: Any) -> None:
    """Have litellm hand on a stream's pieces of a refusal, which it takes for empty chunks."""
    found = type(stream).is_chunk_non_empty
    itself = weakref.proxy(stream)  # no cycle: the stream goes at once

    def says_something(completion: Any, chunk: Any, *more: Any) -> bool:
        refusal = getattr(chunk.choices[0].delta, "refusal", None)
        return bool(refusal) or bool(found(itself, completion, chunk, *more))

    stream.is_chunk_non_empty = says_something


class _Mapped:
    """Turn whatever litellm raises into the router's tree; cancellations pass."""

    def __init__(self, call: Call):
        self._call = call
        self._outside: BaseException | None = None

    def __enter__(self) -> None:
        self._outside = sys.exception()

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, Exception) and not isinstance(error, ProviderError):
            mapped = provider_error(self._call.model, error, self._outside)
            missing = _missing_keys(self._call) if isinstance(mapped, MalformedReply) else []
            if missing:
                raise AuthenticationFailed(
                    self._call.model,
                    f"{' or '.join(missing)} is not set in the environment",
                    request_written=False,
                ) from error
            raise mapped from error


def _missing_keys(call: Call) -> list[str]:
    """Environment variables that the provider's key is looked for in, where none is set.

    Asked only after a failure: some providers have other ways to prove who calls.
    """
    if call.api_base is not None or call.api_key_env is not None or call.client is not None:
        return []
    found = load_litellm().validate_environment(call.model)
    return [] if found["keys_in_environment"] else list(found["missing_keys"])


def _first(call: Call, chunk: Any) -> Any:
    """The first chunk is awaited here, so that a stream that fails at once can be retried."""
    if chunk is _END:
        raise MalformedReply(call.model, "the stream ended before its first chunk")
    return chunk


@lru_cache(maxsize=1024)
def _says_effort(model: str) -> bool | None:
    """Whether litellm has a way to tell a model its reasoning effort (OpenAI's levels, Anthropic's
    and Gemini's budgets or levels, …). None where it knows of none for a model that is called in
    OpenAI's own format, which may take the plain argument nevertheless: a server of one's own."""
    litellm = load_litellm()
    name, provider, _, _ = litellm.get_llm_provider(model)
    supported = litellm.get_supported_openai_params(model=name, custom_llm_provider=provider)
    if "reasoning_effort" in (supported or ()):
        return True
    return False if provider in _OWN_FORMAT else None


def _with_effort(call: Call) -> dict[str, Any]:
    """The arguments, the policy's reasoning effort in such a way that it goes out once: where
    litellm translates it, the plain argument beside the translation would be refused."""
    arguments = dict(call.arguments)
    if arguments.get("allowed_openai_params") != EFFORT_ALLOWED:
        return arguments
    says = _says_effort(call.model)
    if says is not None:
        del arguments["allowed_openai_params"]
    if says is not True and arguments["reasoning_effort"] == "none":  # it has no other way
        arguments.pop("allowed_openai_params", None)
        del arguments["reasoning_effort"]
    return arguments


def _headers(client: Any) -> dict[str, str]:
    """The headers that an OpenAI client was made with, its organisation and project included."""
    return {
        name: value
        for name, value in client.default_headers.items()
        if isinstance(value, str) and not name.lower().startswith(_USUAL_HEADERS)
    }


def arguments_of(call: Call) -> dict[str, Any]:
    """What litellm is called with for a call."""
    import httpx

    litellm = load_litellm()
    connect, read = call.timeout
    arguments: dict[str, Any] = {
        **_with_effort(call),
        "model": call.model,
        # litellm rewrites messages in place for some providers; the caller's stay as they are.
        "messages": copy.deepcopy([dict(message) for message in call.messages]),
        "num_retries": 0,
        "max_retries": 0,
        # To litellm 0 is no number where `litellm.num_retries` is set; an empty policy is one.
        "retry_policy": litellm.types.router.RetryPolicy(),
        # An answer from litellm's cache would be charged as if a provider had billed it.
        "caching": False,
        "timeout": httpx.Timeout(read, connect=connect),
    }
    if arguments.get("tools"):
        # litellm's handler of MCP tools needs a package that litellm does not require.
        arguments["_skip_mcp_handler"] = True
    if call.stream:
        arguments["stream"] = True
        arguments["stream_options"] = {
            **(call.arguments.get("stream_options") or {}),
            "include_usage": True,
        }
    if call.client is not None:
        arguments |= {
            "client": call.client.with_options(max_retries=0),
            # What litellm sends to the Responses API does not go through the client.
            "api_base": str(call.client.base_url).rstrip("/"),
            "api_key": call.client.api_key or "none",  # never the environment's
            "extra_headers": {**_headers(call.client), **(arguments.get("extra_headers") or {})},
        }
    if call.api_base is not None:
        arguments["api_base"] = call.api_base
        # Without a key of its own an endpoint gets a placeholder, never the provider's real key.
        arguments["api_key"] = "none"
    if call.api_key_env is not None:
        key = os.environ.get(call.api_key_env)
        if not key:
            raise AuthenticationFailed(
                call.model,
                f"environment variable {call.api_key_env} is not set",
                request_written=False,
            )
        arguments["api_key"] = key
    return arguments
