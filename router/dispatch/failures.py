"""The one place where litellm's exceptions become the router's error tree."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from router.errors import (
    AuthenticationFailed,
    ContentRejected,
    ContextWindowExceeded,
    MalformedReply,
    ProviderError,
    ProviderTimeout,
    ProviderUnavailable,
    RateLimited,
    RequestRejected,
)

# By class name, so that litellm need not be loaded; the most specific class of an exception's
# method resolution order wins. A test enumerates litellm.exceptions and finds each one here.
ERRORS: dict[str, type[ProviderError]] = {
    "AuthenticationError": AuthenticationFailed,
    "PermissionDeniedError": AuthenticationFailed,
    "PaymentRequiredError": AuthenticationFailed,
    "BadRequestError": RequestRejected,
    "InvalidRequestError": RequestRejected,
    "NotFoundError": RequestRejected,
    "UnprocessableEntityError": RequestRejected,
    "UnsupportedParamsError": RequestRejected,
    "LiteLLMUnknownProvider": RequestRejected,
    "ModelNotMappedError": RequestRejected,
    "ImageFetchError": RequestRejected,
    "VectorStoreSearchError": RequestRejected,
    "BudgetExceededError": RequestRejected,
    "ContextWindowExceededError": ContextWindowExceeded,
    "ContentPolicyViolationError": ContentRejected,
    "RejectedRequestError": ContentRejected,
    "GuardrailRaisedException": ContentRejected,
    "BlockedPiiEntityError": ContentRejected,
    "ModifyResponseException": ContentRejected,
    "SensitiveDataRouteException": ContentRejected,
    "RateLimitError": RateLimited,
    "InternalServerError": ProviderUnavailable,
    "ServiceUnavailableError": ProviderUnavailable,
    "BadGatewayError": ProviderUnavailable,
    "APIConnectionError": ProviderUnavailable,
    "MidStreamFallbackError": MalformedReply,
    "Timeout": ProviderTimeout,
    "APITimeoutError": ProviderTimeout,
    "APIResponseValidationError": MalformedReply,
    "JSONSchemaValidationError": MalformedReply,
    "MockException": ProviderUnavailable,
    "APIError": ProviderUnavailable,
    "OpenAIError": ProviderUnavailable,
}

# By HTTP status, where a class says no more than that something failed.
_BY_STATUS = {
    401: AuthenticationFailed,
    402: AuthenticationFailed,
    403: AuthenticationFailed,
    408: ProviderTimeout,
    429: RateLimited,
}
_VAGUE = (ProviderUnavailable, MalformedReply)

# httpx's and aiohttp's names for what can go wrong below HTTP.
_NEVER_WRITTEN = {
    *("ConnectError", "ConnectTimeout", "PoolTimeout", "UnsupportedProtocol"),
    *("ClientConnectorCertificateError", "ClientConnectorSSLError"),
}
_NOT_INSTALLED = {"ImportError", "ModuleNotFoundError"}  # a provider's own client is missing
_TIMED_OUT = {"ReadTimeout", "WriteTimeout", "APITimeoutError", "Timeout"}
# Over aiohttp litellm calls a connection that was reset under way a ConnectError; aiohttp does not.
_BROKE_OFF = {"ReadError", "WriteError", "RemoteProtocolError", "NetworkError", "ClientOSError"}
_LONGEST_MESSAGE = 500


def provider_error(
    model: str, error: Exception, outside: BaseException | None = None
) -> ProviderError:
    """Return the router's error for an exception that litellm raised while calling `model`.

    `outside`: what was being handled when the call began. It ends up in the chain of causes as
    well, and says nothing of the call.

    What really happened is read from the chain of causes, since litellm gives a broken connection
    or an unreadable reply the status 500 too: only httpx's `HTTPStatusError` proves an answer.
    The original stays reachable as `__cause__` when the caller raises it `from error`.
    """
    chain, retry_after = list(_chain(error, outside)), _retry_after(error)
    status = _real_status(chain)
    kind = _kind(error)
    if status is not None:
        if issubclass(kind, _VAGUE):
            kind = _by_status(status)
        written = False  # an error status is not billed
    elif any(type(link).__module__ == "openai" and _is_plain(link) for link in chain):
        kind, written = AuthenticationFailed, False
    elif any(map(_is_no_json, chain)):
        kind, written = RequestRejected, False
    elif (told := _told_in_an_answer(chain)) is not None:
        kind, written = (MalformedReply if issubclass(kind, _VAGUE) else kind), True
        error = Exception(f"the answer is an error: {told}")
    else:
        kind, written = _without_answer(kind, {type(link).__name__ for link in chain})
    return kind(
        model,
        _message(error),
        status=status,
        retry_after=retry_after,
        request_written=written,
    )


def _is_plain(error: BaseException) -> bool:
    """openai raises its root class itself only for a client that lacks credentials."""
    return type(error).__name__ == "OpenAIError"


def _told_in_an_answer(chain: list[BaseException]) -> str | None:
    """What an error says that came with HTTP status 200 in the place of an answer: litellm makes a
    bare `Exception` of it, whose text is empty. Nobody says whether it was billed."""
    for link in chain:
        if type(link) is Exception and hasattr(link, "status_code"):
            return str(getattr(link, "message", ""))
    return None


def _is_no_json(error: BaseException) -> bool:
    """What has no form as JSON or UTF-8 never leaves the client."""
    if isinstance(error, TypeError):
        return "not JSON serializable" in str(error)
    if type(error) is ValueError:
        return "not JSON compliant" in str(error)  # NaN and the infinities
    return isinstance(error, UnicodeEncodeError)


def _without_answer(kind: type[ProviderError], names: set[str]) -> tuple[type[ProviderError], bool]:
    """The kind of an error without an HTTP status, and whether the request may have been billed."""
    if names & _NEVER_WRITTEN and not names & _BROKE_OFF:
        return ProviderUnavailable, False
    if names & _NOT_INSTALLED:
        return RequestRejected, False
    if names & _TIMED_OUT:
        return ProviderTimeout, True
    if names & _BROKE_OFF:
        return ProviderUnavailable, True
    if "JSONDecodeError" not in names and not issubclass(kind, _VAGUE):
        return kind, False  # litellm itself refused: no key, an unknown provider or argument
    return MalformedReply, True


def _by_status(status: int) -> type[ProviderError]:
    if status >= 500:
        return ProviderUnavailable
    return _BY_STATUS.get(status, RequestRejected)


def _kind(error: Exception) -> type[ProviderError]:
    for base in type(error).__mro__:
        if base.__name__ in ERRORS:
            return ERRORS[base.__name__]
    return MalformedReply


def _chain(error: BaseException | None, outside: BaseException | None) -> Iterator[BaseException]:
    for _ in range(20):
        if error is None or error is outside:
            return
        yield error
        error = error.__cause__ or error.__context__


def _real_status(chain: list[BaseException]) -> int | None:
    for link in chain:
        if any(base.__name__ == "HTTPStatusError" for base in type(link).__mro__):
            return int(link.response.status_code)  # type: ignore[attr-defined]
    return None


def _retry_after(error: Exception) -> float | None:
    """Seconds from a `Retry-After` header (RFC 9110, section 10.2.3), None where there is none."""
    for source in (getattr(error, "litellm_response_headers", None), _response_headers(error)):
        if source is None:
            continue
        text = source.get("retry-after")
        if text is None:
            continue
        try:
            return max(0.0, float(text))
        except ValueError:
            return _seconds_until(text, source.get("date"))
    return None


def headers_of(outcome: Any) -> Mapping[str, Any] | None:
    """The HTTP headers that came with an answer or a stream of litellm's, or with the failure that
    a `ProviderError` was made of; None where there are none."""
    if isinstance(outcome, BaseException):
        cause = outcome.__cause__
        found = getattr(cause, "litellm_response_headers", None) or _response_headers(cause)
    else:
        found = (getattr(outcome, "_hidden_params", None) or {}).get("additional_headers")
    return found if isinstance(found, Mapping) else None


def _response_headers(error: BaseException | None) -> Any:
    return getattr(getattr(error, "response", None), "headers", None)


def _seconds_until(text: str, date: str | None) -> float | None:
    try:
        when, sent = _moment(text), _moment(date or "")
    except ValueError:
        return None
    return max(0.0, (when - sent).total_seconds())


def _moment(text: str) -> datetime:
    """An HTTP date. That of C's asctime() names no zone, and is in UTC like all others."""
    found = parsedate_to_datetime(text)
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)


def _message(error: Exception) -> str:
    text = str(error).strip().split("\n")[0]
    return text[:_LONGEST_MESSAGE] or type(error).__name__


def said(error: BaseException) -> str:
    """An error as the log keeps it: its class, and what it says."""
    return f"{type(error).__name__}: {error}".rstrip(": ")


def forget_frames(*errors: BaseException | None) -> None:
    """Take the tracebacks off errors that were dealt with, and off all that they came from, but for
    what a caller is handling just now: the frames in them keep alive what their variables name."""
    outside = sys.exception()
    for error in errors:
        for link in () if error is None else _chain(error, outside):
            link.__traceback__ = None
