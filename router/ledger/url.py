"""Where a ledger and its log live, written as a URL."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from types import ModuleType

from router.errors import ConfigurationError

_ALLOWED = (
    "sqlite:///relative.db, sqlite:////absolute/path.db, sqlite:// (in memory), "
    "postgresql://user@host/database, redis://host/0?log=sqlite:///log.db"
)
# A Redis URL may say that the server is a Valkey one, and that it is spoken to over TLS.
_SCHEMES = {
    "sqlite": "sqlite",
    "postgresql": "postgresql",
    **dict.fromkeys(("redis", "rediss", "valkey", "valkeys"), "redis"),
}


def scheme(url: str) -> str:
    """Return which kind of store a URL names: "sqlite", "postgresql" or "redis".

    Raises `ConfigurationError` for any other, naming what is allowed.
    """
    name, separator, _ = url.partition("://")
    if not separator or name not in _SCHEMES:
        raise ConfigurationError(
            f"store {_shown(url)!r} is not a URL of a known store; allowed: {_ALLOWED}"
        )
    return _SCHEMES[name]


def load_postgres() -> ModuleType:
    """Import the PostgreSQL store; `ConfigurationError` naming what to install without psycopg."""
    try:
        return import_module("router.ledger.postgres")
    except ImportError as error:
        if (error.name or "").partition(".")[0] not in ("psycopg", "psycopg_binary"):
            raise
        raise ConfigurationError(
            f"a postgresql:// store needs psycopg ({error}): pip install 'tiered-router[postgres]'"
        ) from error


def sqlite_path(url: str) -> str | None:
    """Return the file that a SQLite URL names, or None for a private store in memory.

    Three slashes begin a path relative to the working directory, four an absolute one.
    Raises `ConfigurationError` for any other scheme or form, naming what is allowed.
    """
    name, separator, rest = url.partition("://")
    if not separator or name != "sqlite" or (rest and not rest.startswith("/")):
        raise ConfigurationError(
            f"store {_shown(url)!r} is not a URL of a known store; allowed: {_ALLOWED}"
        )
    path = rest[1:]
    if not rest or path == ":memory:":
        return None
    if not path or "\0" in path:
        raise ConfigurationError(f"store {url!r} names no file; allowed: {_ALLOWED}")
    return path


def store_url(place: str | Path) -> str:
    """Return a store URL as it is, and a plain path of a SQLite file as a URL.

    Raises `ConfigurationError` for what is neither.
    """
    if not isinstance(place, str | Path):
        raise ConfigurationError(
            f"store {place!r} is neither a URL nor a path; allowed: {_ALLOWED}"
        )
    text = str(place)
    return text if "://" in text else f"sqlite:///{text}"


def _shown(url: str) -> str:
    """A URL without what may be a password."""
    name, _, rest = url.partition("://")
    return f"{name}://…{rest.rpartition('@')[2]}" if "@" in rest else url
