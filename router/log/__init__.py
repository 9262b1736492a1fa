"""The call log: a row a request, a row a wire attempt, and labels that arrive later."""

from __future__ import annotations

from router.log.base import Label, Log, LoggedRequest
from router.log.reader import open_log

__all__ = ["Label", "Log", "LoggedRequest", "open_log"]
