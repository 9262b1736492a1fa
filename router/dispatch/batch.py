"""OpenAI's batch API: a file of requests goes up, a file of answers comes down within 24 hours.

POST /files, POST /batches, GET /batches, GET /batches/{id}, POST /batches/{id}/cancel and
GET /files/{id}/content (platform.openai.com/docs/api-reference/batch), through the client that
litellm itself calls OpenAI with. Its retries are off. A line's body is what litellm would have sent
as a call of its own.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from router.dispatch.failures import provider_error
from router.dispatch.wire import Call, arguments_of, load_litellm
from router.errors import AuthenticationFailed, ProviderError, RequestRejected

_log = logging.getLogger("router")

ENDPOINT, WINDOW = "/v1/chat/completions", "24h"
# A batch may have 50,000 requests and 200 MB (OpenAI's guide to batches). Fewer are laid out sooner
# (litellm takes about 20 ms for a body), and the worker comes back to calls that are due.
MAX_LINES, MAX_BYTES = 1_000, 100_000_000
OURS = "tiered_router_batch"  # the key of the metadata by which a batch is found again
_ENDED = ("completed", "failed", "expired", "cancelled")
_SLACK = 3600.0  # seconds by which a provider's clock may be behind


@dataclass(frozen=True, slots=True)
class Place:
    """Where batches of a deployment go. `api_key_env` names the variable that holds the key."""

    model: str
    api_base: str | None
    api_key_env: str | None
    timeout: tuple[float, float]  # connect, read


@dataclass(frozen=True, slots=True)
class Found:
    """A batch as its provider shows it. `problem` is what the provider says was wrong with it."""

    id: str
    ended: bool
    status: str
    files: tuple[str, ...]  # of answers and of errors
    sent: str = ""  # the file that went up
    problem: str = ""


def body_of(call: Call) -> dict[str, Any]:
    """The body that litellm would send for a call of an OpenAI model.

    Raises `RequestRejected` for arguments that litellm refuses, and for what it would not send as a
    chat completion, such as tools beside thinking.
    """
    load_litellm()
    from litellm.types.utils import CallTypes
    from litellm.utils import return_raw_request

    arguments = arguments_of(replace(call, api_key_env=None))
    arguments.pop("api_key", None)
    arguments.pop("service_tier", None)  # a batch has its own price, and no tier of service
    raw = return_raw_request(CallTypes.completion, arguments)
    body = raw.get("raw_request_body")
    if not isinstance(body, dict) or not body.get("messages"):
        raise RequestRejected(
            call.model, f"it cannot be put into a batch: {raw.get('error')}", request_written=False
        )
    extra = body.get("extra_body") or {}
    return {**{key: value for key, value in body.items() if key != "extra_body"}, **extra}


def line_of(custom_id: str, body: Mapping[str, Any]) -> str:
    """A line of a batch's file."""
    line = {"custom_id": custom_id, "method": "POST", "url": ENDPOINT, "body": body}
    return json.dumps(line, ensure_ascii=False) + "\n"


def create(place: Place, ours: str, lines: Iterable[str], still_ours: Callable[[], bool]) -> str:
    """Upload the lines, create a batch with the metadata `ours`, and return the provider's id.

    Parameters: `still_ours` is asked last before the batch is created; if it says no,
    `RequestRejected` is raised, as for all that the provider refuses. After any error whose
    `request_written` is False there is no batch, and the file that went up for it is deleted; after
    another there may be one: see `find`.
    """
    data = "".join(lines).encode()
    upload, asked, outside = None, False, sys.exception()
    with _client(place) as client:
        try:
            upload = client.files.create(file=(f"{ours}.jsonl", data), purpose="batch")
            if not still_ours():
                raise RequestRejected(place.model, "another worker has taken this batch over")
            asked = True
            batch = client.batches.create(
                input_file_id=upload.id,
                endpoint=ENDPOINT,
                completion_window=WINDOW,
                metadata={OURS: ours},
            )
        except Exception as error:
            mapped = _mapped(place, error, outside)
            mapped.request_written &= asked  # a file alone is billed by nobody
            if upload is not None and not mapped.request_written:
                _delete(client, place, upload.id)
            if mapped is error:
                raise
            raise mapped from error
    return str(batch.id)


def _delete(client: Any, place: Place, file_id: str) -> None:
    """Delete the file of a batch that was not made; what went wrong with that says more."""
    outside = sys.exception()
    try:
        client.files.delete(file_id)
    except Exception as error:
        _log.warning("file %s stays at the provider: %s", file_id, _mapped(place, error, outside))


def find(place: Place, ours: str, made: float) -> Found | None:
    """The batch with the metadata `ours`, which was made no earlier than at `made` (unix seconds);
    None where the provider has none."""
    with _client(place) as client:
        for batch in client.batches.list(limit=100):  # the newest first, page by page
            if (batch.metadata or {}).get(OURS) == ours:
                return _found(batch)
            if batch.created_at < made - _SLACK:
                break
    return None


def look(place: Place, batch_id: str) -> Found:
    """How a batch stands."""
    with _client(place) as client:
        return _found(client.batches.retrieve(batch_id))


def cancel(place: Place, batch_id: str) -> Found:
    """Ask for the end of a batch; what is finished by then is billed, and its answers are kept."""
    with _client(place) as client:
        return _found(client.batches.cancel(batch_id))


def results(place: Place, found: Found) -> Iterator[tuple[str, int, Any]]:
    """The lines that a batch has come to: (custom_id, HTTP status, body). A status of 0 is a line
    that was never sent, such as one that expired; its body then says why. A custom_id of "" is a
    line that cannot be read, and whose nobody knows."""
    for file_id in found.files:
        with _client(place) as client:
            text = client.files.content(file_id).text
        for line in text.split("\n"):  # JSON itself may hold what else `splitlines` cuts at
            if line.strip():
                yield _result(line)


def _result(line: str) -> tuple[str, int, Any]:
    try:
        said = json.loads(line)
        response = said.get("response") or {}
        status = int(response.get("status_code") or 0)
        return str(said["custom_id"]), status, response.get("body") or said.get("error")
    except Exception as error:  # whatever a provider may write: the other lines are still read
        return "", 0, f"{type(error).__name__}: {error}"


def forget(place: Place, found: Found) -> None:
    """Delete the files of a batch at its provider: the text in them is needed no more."""
    with _client(place) as client:
        for file_id in filter(None, (found.sent, *found.files)):
            client.files.delete(file_id)


def response_of(body: Any) -> Any:
    """litellm's response of a line's body. Raises `ValueError` for what is none."""
    try:
        return load_litellm().ModelResponse(**body)
    except Exception as error:
        raise ValueError(f"no chat completion: {error}") from error


@contextmanager
def _client(place: Place) -> Iterator[Any]:
    import os

    import httpx
    from openai import OpenAI

    connect, read = place.timeout
    outside = sys.exception()
    key = None if place.api_base is None else "none"  # never the provider's real key elsewhere
    if place.api_key_env is not None:
        key = os.environ.get(place.api_key_env)
        if not key:
            raise AuthenticationFailed(
                place.model,
                f"environment variable {place.api_key_env} is not set",
                request_written=False,
            )
    try:
        with OpenAI(
            api_key=key,
            base_url=place.api_base,
            max_retries=0,
            timeout=httpx.Timeout(read, connect=connect),
        ) as client:
            yield client
    except ProviderError:
        raise
    except Exception as error:
        raise _mapped(place, error, outside) from error


def _mapped(place: Place, error: Exception, outside: BaseException | None) -> ProviderError:
    """The router's error for one of the client's; `outside`, what was being handled before."""
    if isinstance(error, ProviderError):
        return error
    return provider_error(place.model, error, outside)


def _found(batch: Any) -> Found:
    errors = getattr(batch.errors, "data", None) or ()
    return Found(
        id=str(batch.id),
        ended=batch.status in _ENDED,
        status=str(batch.status),
        files=tuple(each for each in (batch.output_file_id, batch.error_file_id) if each),
        sent=str(batch.input_file_id or ""),
        problem="; ".join(str(each.message) for each in errors)[:500],
    )
