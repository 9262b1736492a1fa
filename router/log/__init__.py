"""The call log: a row a request, a row a wire attempt, and labels that arrive later."""

from __future__ import annotations

from router.log.base import Label, Log, LoggedRequest

__all__ = ["Label", "Log", "LoggedRequest"]
