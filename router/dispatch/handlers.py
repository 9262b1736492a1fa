"""What litellm's own HTTP handlers do otherwise for a call of ours; other calls are made as before.

They serve the providers that are not called through OpenAI's client, such as Anthropic and Google.
A fork leaves all of litellm's clients to the parent.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache, wraps
from typing import Any

# The timeout (httpx's) of the call of ours that is under way.
_sending: ContextVar[Any] = ContextVar("router_sending", default=None)
_CLIENTS = ("in_memory_llm_clients_cache", "module_level_client", "module_level_aclient")
# Kept for ever: closed in a child, a connection could be lost to the parent's event loop.
_of_parent: list[Any] = []


@contextmanager
def sending(timeout: Any) -> Iterator[None]:
    """A call of ours is under way."""
    ours = _sending.set(timeout)
    try:
        yield
    finally:
        _sending.reset(ours)


@cache
def change_handlers() -> None:
    """Have litellm's handlers know calls of ours, for which it has no settings."""
    from litellm.llms.custom_httpx.http_handler import AsyncHTTPHandler, HTTPHandler

    _send_once(AsyncHTTPHandler)
    _keep_time(HTTPHandler)
    _keep_time_on_a_loop(AsyncHTTPHandler)
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_leave_to_parent)


def _leave_to_parent() -> None:
    """In a forked child: make new clients. Over its parent's open connections each of the two would
    read the other's answers."""
    import litellm

    # litellm makes each of them when it is next asked for.
    _of_parent.extend(vars(litellm).pop(name, None) for name in _CLIENTS)


def _send_once(handler: Any) -> None:
    """Keep litellm from posting a call again where its connection broke: what was sent may be
    billed."""
    again = handler.single_connection_post_request

    @wraps(again)
    async def post_again(*arguments: Any, **named: Any) -> Any:
        broken = sys.exception()
        if _sending.get() is not None and broken is not None:
            raise broken
        return await again(*arguments, **named)

    handler.single_connection_post_request = post_again


def _keep_time(handler: Any) -> None:
    """Have a call's own timeout hold where litellm loses it, as it does for streams of Google's:
    such a call would else wait for a silent provider for as long as litellm ever waits."""
    post = handler.post

    @wraps(post)
    def post_in_time(self: Any, *arguments: Any, **named: Any) -> Any:
        return post(self, *arguments, **_timed(named))

    handler.post = post_in_time


def _keep_time_on_a_loop(handler: Any) -> None:
    """`_keep_time`; and have streams of each event loop go through a client of that loop. litellm
    has one client for all of them, which hangs up on one loop's streams when another one calls."""
    import litellm
    from litellm.llms.custom_httpx.http_handler import get_async_httpx_client

    post = handler.post

    @wraps(post)
    async def post_in_time(self: Any, *arguments: Any, **named: Any) -> Any:
        if _sending.get() is not None and self is litellm.module_level_aclient:
            self = get_async_httpx_client("tiered-router")  # kept by litellm for each loop
        return await post(self, *arguments, **_timed(named))

    handler.post = post_in_time


def _timed(named: dict[str, Any]) -> dict[str, Any]:
    return named if named.get("timeout") is not None else {**named, "timeout": _sending.get()}
