"""Tenacity's loop over one deployment. Every retry in the house is this one."""

from __future__ import annotations

import time
from collections.abc import Callable

from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception_type,
    wait_exponential,
    wait_random,
)

from router.errors import ProviderTimeout, ProviderUnavailable, RateLimited
from router.policy.calling import Retry

TRANSIENT = (RateLimited, ProviderUnavailable, ProviderTimeout)


def retrying(retry: Retry, deadline: float, sleep: Callable[[float], None]) -> Retrying:
    """Return tenacity's attempts for one deployment.

    Parameters: `retry`, the policy's settings; `deadline`, a `time.monotonic` moment after which
    no attempt starts; `sleep`, told how long to wait before the next attempt.
    A `Retry-After` is waited for exactly; one longer than `retry.max_wait` ends the attempts, so
    that another deployment gets the request instead.
    """
    backoff = wait_exponential(multiplier=retry.initial_wait, max=retry.max_wait)
    jitter = wait_random(0, retry.initial_wait)

    def wait(state: RetryCallState) -> float:
        asked = _asked_wait(state)
        return backoff(state) + jitter(state) if asked is None else asked

    def stop(state: RetryCallState) -> bool:
        asked = _asked_wait(state) or 0.0
        return (
            state.attempt_number >= retry.attempts
            or asked > retry.max_wait
            or time.monotonic() + asked >= deadline
        )

    return Retrying(
        stop=stop,
        wait=wait,
        retry=retry_if_exception_type(TRANSIENT),
        sleep=sleep,
        reraise=True,
    )


def _asked_wait(state: RetryCallState) -> float | None:
    error = state.outcome.exception() if state.outcome is not None else None
    return getattr(error, "retry_after", None)
