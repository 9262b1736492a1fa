"""What a Redis URL says: which server, which ledger on it, and where its log goes."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from router.errors import ConfigurationError
from router.ledger.url import scheme, sqlite_path

_FORM = "redis://[user:password@]host[:port][/db]?log=sqlite:///log.db[&ledger=name]"
_PARAMETERS = ("log", "ledger", "timeout", "replicas", "ca")
_PORT, _TIMEOUT, _LONGEST_TIMEOUT = 6379, 0.25, 3600.0


@dataclass(frozen=True, slots=True)
class RedisUrl:
    """One ledger on one server.

    `log`, the URL of the SQLite file that the log and every counter are copied to; `ledger`, its
    name, of several on one server; `timeout`, seconds that a call may take, unless `busy_seconds`
    says otherwise; `replicas`, how many must have a step before it counts; `ca`, a file of
    certificates that TLS trusts, None for the system's.
    """

    host: str
    port: int
    db: int
    username: str | None
    password: str | None
    tls: bool
    log: str
    ledger: str = "ledger"
    timeout: float = _TIMEOUT
    replicas: int = 0
    ca: str | None = None

    @property
    def name(self) -> str:
        """The ledger for people to read: without the password."""
        scheme = "rediss" if self.tls else "redis"
        return f"{scheme}://{self.host}:{self.port}/{self.db}?ledger={self.ledger}"


def parse(url: str) -> RedisUrl:
    """Read a URL of scheme redis, rediss (TLS), valkey or valkeys.

    Values may be percent-encoded, and must be where they hold "&" or "#".
    Raises `ConfigurationError` for any other form, naming what is wrong.
    """
    try:
        parts = urlsplit(url)
        port = parts.port or _PORT
    except ValueError:
        raise ConfigurationError(f"this is no Redis URL; allowed: {_FORM}") from None
    if scheme(url) != "redis" or not parts.hostname or parts.fragment:
        raise ConfigurationError(f"this is no Redis URL; allowed: {_FORM}")
    db = parts.path.strip("/") or "0"
    if not db.isdecimal():
        raise ConfigurationError(f"database {db!r} of a Redis URL is not a number")
    given: dict[str, str] = {}
    for part in filter(None, parts.query.split("&")):
        key, _, value = part.partition("=")
        if key not in _PARAMETERS or key in given:
            raise ConfigurationError(
                f"parameter {key!r} of a Redis URL is unknown or given twice; "
                f"allowed: {', '.join(_PARAMETERS)}"
            )
        given[key] = unquote(value)
    if not given.get("log"):
        raise ConfigurationError(
            f"a Redis URL must say where its log goes, as in {_FORM}: Redis holds the counters, "
            f"and every row is moved on to that store"
        )
    if given["log"].partition("://")[0] != "sqlite" or sqlite_path(given["log"]) is None:
        raise ConfigurationError(
            "the log of a ledger in Redis must be a SQLite file; allowed: "
            "log=sqlite:///relative.db, log=sqlite:////absolute/path.db"
        )
    return RedisUrl(
        host=unquote(parts.hostname),
        port=port,
        db=int(db),
        username=None if not parts.username else unquote(parts.username),
        password=None if parts.password is None else unquote(parts.password),
        tls=parts.scheme in ("rediss", "valkeys"),
        log=given["log"],
        ledger=_ledger(given.get("ledger", "ledger")),
        timeout=_number("timeout", given.get("timeout", str(_TIMEOUT)), _LONGEST_TIMEOUT),
        replicas=int(_number("replicas", given.get("replicas", "0"), 100)),
        ca=given.get("ca"),
    )


def _ledger(name: str) -> str:
    if not name or len(name) > 100 or not name.isprintable() or set(name) & set("{}*?[]\\"):
        raise ConfigurationError(
            f"ledger {name!r} of a Redis URL is not a name: letters, digits, and no brackets"
        )
    return name


def _number(key: str, text: str, most: float) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number <= most or (key == "timeout" and number < 0.01):
        raise ConfigurationError(f"{key}={text!r} of a Redis URL is not a number up to {most:g}")
    return number
