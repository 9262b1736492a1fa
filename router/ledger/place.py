"""Which store a URL names, and where its journals lie."""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from router.errors import ConfigurationError
from router.ledger.redis.url import parse
from router.ledger.url import scheme, sqlite_path


def identity(url: str) -> str | None:
    """Return what tells a store from others: the URL of a server without its passwords, for Redis
    server, database and ledger alone, the whole path of a SQLite file, None for a store in memory.

    Raises `ConfigurationError` as `scheme` and `sqlite_path` do.
    """
    if scheme(url) == "sqlite":
        path = sqlite_path(url)
        return None if path is None else os.path.realpath(path)
    if scheme(url) == "redis":
        return parse(url).name
    parts = urlsplit(url)
    login, at, hosts = parts.netloc.rpartition("@")
    options = [each for each in parts.query.split("&") if "password" not in each.partition("=")[0]]
    place = f"{login.partition(':')[0]}{at}{hosts}"
    return urlunsplit((parts.scheme, place, parts.path, "&".join(options), ""))


def journal_folder(url: str, given: str | Path | None = None) -> Path | None:
    """Return the folder of a store's journals: the `given` one, or else one beside the SQLite file,
    or one in the user's state directory for a server; None for a store in memory.

    Raises `ConfigurationError` where there is no home directory to have a state directory in.
    """
    name = identity(url)
    if name is None:
        return None
    if given is not None:
        return Path(given).absolute()
    if scheme(url) == "sqlite":
        return Path(f"{name}.journal")
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:32]
    return _state_directory() / "tiered-router" / f"{digest}.journal"


def _state_directory() -> Path:
    windows = sys.platform == "win32"
    set_to = os.environ.get("LOCALAPPDATA" if windows else "XDG_STATE_HOME", "")
    if os.path.isabs(set_to):  # a relative one is to be ignored, says the XDG specification
        return Path(set_to)
    try:
        return Path.home() / ("AppData/Local" if windows else ".local/state")
    except RuntimeError:
        raise ConfigurationError(
            "there is no home directory for the journal of calls that the store could not take; "
            "name a folder for it (ledger: journal)"
        ) from None
