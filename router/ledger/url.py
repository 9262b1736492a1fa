"""Where a ledger and its log live, written as a URL."""

from __future__ import annotations

from router.errors import ConfigurationError

_ALLOWED = "sqlite:///relative.db, sqlite:////absolute/path.db, sqlite:// (in memory)"


def sqlite_path(url: str) -> str | None:
    """Return the file that a SQLite URL names, or None for a private store in memory.

    Three slashes begin a path relative to the working directory, four an absolute one.
    Raises `ConfigurationError` for any other scheme or form, naming what is allowed.
    """
    scheme, separator, rest = url.partition("://")
    if not separator or scheme != "sqlite" or (rest and not rest.startswith("/")):
        raise ConfigurationError(
            f"store {url!r} is not a URL of a known store; allowed: {_ALLOWED}"
        )
    path = rest[1:]
    if not rest or path == ":memory:":
        return None
    if not path or "\0" in path:
        raise ConfigurationError(f"store {url!r} names no file; allowed: {_ALLOWED}")
    return path


def store_url(text: str) -> str:
    """Return a store URL as it is, and a plain path of a SQLite file as a URL."""
    return text if "://" in text else f"sqlite:///{text}"
