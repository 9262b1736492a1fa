"""`wrap(OpenAI())`: the client people have, with `model="auto"` routed and all else untouched."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar, cast

from openai import (
    DEFAULT_TIMEOUT,
    AsyncAzureOpenAI,
    AsyncOpenAI,
    AsyncStream,
    AzureOpenAI,
    NotGiven,
    Omit,
    OpenAI,
    Stream,
)
from openai.lib._parsing import parse_chat_completion, type_to_response_format_param
from openai.resources.beta import AsyncBeta, Beta
from openai.resources.chat import AsyncChat, AsyncCompletions, Chat, Completions
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from router.dispatch.effects import arun, run
from router.errors import ConfigurationError, InvalidRequest
from router.intake import AUTO, read_scopes, read_tags
from router.integrations.connections import with_own_connections
from router.pipeline import Router
from router.policy import Policy
from router.walk.routing import Routing

Client = TypeVar("Client", OpenAI, AsyncOpenAI)

_RAW_RESPONSE_HEADER = "X-Stainless-Raw-Response"


def wrap(
    client: Client,
    router: Router | Policy | str | Path | Mapping[str, Any] = "default",
    *,
    scopes: Mapping[str, str] | None = None,
    tags: Sequence[str] = (),
) -> Client:
    """Return a twin of an OpenAI client whose chat calls with `model="auto"` are routed.

    Parameters: `client`, an `OpenAI` or `AsyncOpenAI`; its key, address and transport also serve
    the policy's `openai/` deployments that name no address of their own, and a timeout of its own
    holds for all of them, as far as the policy's are longer. `router`, a `Router` or
    the policy for one. `scopes` and `tags` go with every call; `create` takes its own as well,
    and `metadata` and `conversation_id`.
    Returns a client of the same type: `create` gives `ChatCompletion` and `Stream` back, also when
    another provider answered; every other model and method goes where it went before.
    Raises `ConfigurationError` for anything but an OpenAI client, `InvalidRequest` for scopes or
    tags that are none.
    """
    if not isinstance(client, OpenAI | AsyncOpenAI):
        raise ConfigurationError(
            f"wrap() takes an OpenAI or AsyncOpenAI client, not {type(client).__name__}"
        )
    kind = type(client)
    twin: Any = client.copy()
    twin.__class__ = _routed_class(kind)
    twin._router = router if isinstance(router, Router) else Router(router)
    twin._router_defaults = {"scopes": read_scopes(scopes), "tags": read_tags(tags)}
    twin._router_client = client if not isinstance(client, AzureOpenAI | AsyncAzureOpenAI) else None
    return cast(Client, twin)


def _routed_class(kind: type[Any]) -> type[Any]:
    """A subclass of the client's own class, so that `isinstance` and every method still hold."""

    def chat(self: Any) -> Any:
        return _RoutedAsyncChat(self) if isinstance(self, AsyncOpenAI) else _RoutedChat(self)

    def beta(self: Any) -> Any:  # its chat is the client's own under another name
        found: Any = AsyncBeta(self) if isinstance(self, AsyncOpenAI) else Beta(self)
        found.chat = self.chat
        return found

    def copy(self: Any, **options: Any) -> Any:
        twin = kind.copy(self, **options)
        for name in ("_router", "_router_defaults"):
            setattr(twin, name, getattr(self, name))
        twin._router_client = self._router_client and self._router_client.copy(**options)
        return twin

    # Kept as OpenAI's own are, so that what a program puts in the place of a method stays there.
    kept = {"chat": cached_property(chat), "beta": cached_property(beta)}
    members = {**kept, "copy": copy, "with_options": copy}
    return type(f"Routed{kind.__name__}", (kind,), members)


class _RoutedChat(Chat):
    @cached_property
    def completions(self) -> Completions:
        return _RoutedCompletions(self._client)


class _RoutedAsyncChat(AsyncChat):
    @cached_property
    def completions(self) -> AsyncCompletions:
        return _RoutedAsyncCompletions(self._client)


class _RoutedCompletions(Completions):
    def create(self, *, model: Any, **arguments: Any) -> Any:
        if model != AUTO:
            return super().create(model=model, **_given(arguments))
        client = cast(Any, self._client)
        response = run(client._router.walk(_routed(client, arguments), _sender(client)))
        if hasattr(response, "routing"):
            return _RoutedStream(response)
        return _completion(response)

    def parse(self, *, model: Any, **arguments: Any) -> Any:
        if model != AUTO:
            return super().parse(model=model, **_given(arguments))
        sent, wanted = _parseable(arguments)
        return _parsed(self.create(model=AUTO, **sent), wanted)


class _RoutedAsyncCompletions(AsyncCompletions):
    async def create(self, *, model: Any, **arguments: Any) -> Any:
        if model != AUTO:
            return await super().create(model=model, **_given(arguments))
        client = cast(Any, self._client)
        response = await arun(client._router.walk(_routed(client, arguments), _sender(client)))
        if hasattr(response, "routing"):
            return _RoutedAsyncStream(response)
        return _completion(response)

    async def parse(self, *, model: Any, **arguments: Any) -> Any:
        if model != AUTO:
            return await super().parse(model=model, **_given(arguments))
        sent, wanted = _parseable(arguments)
        return _parsed(await self.create(model=AUTO, **sent), wanted)


class _RoutedStream(Stream[ChatCompletionChunk]):
    """OpenAI's stream over a routed one; `routing` says how it was routed."""

    def __init__(self, routed: Any):
        # No super().__init__: there may be no OpenAI response behind it.
        self._routed, self.routing = routed, routed.routing
        self._iterator = _chunks(routed)

    @property
    def response(self) -> Any:  # type: ignore[override]
        return _NoResponse(self._routed)

    def close(self) -> None:
        self._routed.close()


class _RoutedAsyncStream(AsyncStream[ChatCompletionChunk]):
    """OpenAI's asynchronous stream over a routed one."""

    def __init__(self, routed: Any):
        self._routed, self.routing = routed, routed.routing
        self._iterator = _async_chunks(routed)

    @property
    def response(self) -> Any:  # type: ignore[override]
        return _NoResponse(self._routed)

    async def close(self) -> None:
        await self._routed.aclose()


# No methods: a stream that is left must go at once, and its hold with it, but one that its own
# iterator refers to stays until the garbage collector looks for cycles.
def _chunks(routed: Any) -> Iterator[ChatCompletionChunk]:
    for chunk in routed:
        yield ChatCompletionChunk.construct(**chunk.model_dump())


async def _async_chunks(routed: Any) -> AsyncIterator[ChatCompletionChunk]:
    async for chunk in routed:
        yield ChatCompletionChunk.construct(**chunk.model_dump())


class _NoResponse:
    """Stands where a stream has OpenAI's HTTP response: it can be closed, and says what it is."""

    def __init__(self, routed: Any):
        self._routed = routed

    def close(self) -> None:
        self._routed.close()

    async def aclose(self) -> None:
        await self._routed.aclose()

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"a routed stream has no OpenAI response to take {name!r} from")


class RoutedChatCompletion(ChatCompletion):
    """OpenAI's `ChatCompletion`, with the routing beside it: in no dump, and not in the repr."""

    _routing: Routing | None = None

    @property
    def routing(self) -> Routing | None:
        """How this answer was routed."""
        return self._routing


def _completion(response: Any) -> ChatCompletion:
    completion = RoutedChatCompletion.construct(**response.model_dump())
    completion._routing = Router.decision(response)
    return completion


def _routed(client: Any, arguments: Mapping[str, Any]) -> Any:
    given = _given(arguments)
    if _RAW_RESPONSE_HEADER in (given.get("extra_headers") or {}):
        raise InvalidRequest(
            "model",
            "'auto' has no raw response: another provider may have answered",
            value=AUTO,
            allowed="create(), stream() and parse() of the client itself",
        )
    if client.timeout != DEFAULT_TIMEOUT:
        given.setdefault("timeout", client.timeout)
    defaults = client._router_defaults
    given["scopes"] = {**defaults["scopes"], **read_scopes(given.get("scopes"))}
    given["tags"] = (*defaults["tags"], *read_tags(given.get("tags")))
    return client._router.read(given.pop("messages", None), given)


def _sender(client: Any) -> Any:
    own = client._router_client
    return own and with_own_connections(own)


def _given(arguments: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: value for name, value in arguments.items() if not isinstance(value, NotGiven | Omit)
    }


def _parseable(arguments: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    sent = _given(arguments)
    form = sent.pop("response_format", None) or Omit()
    wanted = {"response_format": form, "input_tools": sent.get("tools") or []}
    schema = type_to_response_format_param(form)
    if not isinstance(schema, NotGiven | Omit):
        sent["response_format"] = schema
    return sent, wanted


def _parsed(completion: Any, wanted: Mapping[str, Any]) -> Any:
    return parse_chat_completion(chat_completion=completion, **wanted)
