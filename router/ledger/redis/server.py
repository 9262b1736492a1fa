"""Connections to one Redis or Valkey server, and how its errors are named."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from router.errors import ConfigurationError, LedgerCorrupt, LedgerError, LedgerUnavailable
from router.ledger.redis.scripts import Script
from router.ledger.redis.url import RedisUrl
from router.ledger.windows import check_clock

if TYPE_CHECKING:
    from redis.connection import Connection

Argument = str | bytes | int | float
OPEN_SECONDS = 10.0  # opening a store is no request yet
PATIENT_SECONDS = 30.0  # for what is on no request's way: copying, verifying
_OLDEST = (6, 2)
# What a server says of its own state, and what of a script or a key that is not what it was, which
# no waiting would cure. A script's error may hold either in its middle.
_PASSES = ("maxmemory", "MISCONF", "AOF", "READONLY", "NOREPLICAS", "LOADING", "BUSY", "MASTERDOWN")
_DAMAGED = ("WRONGTYPE", "wrong kind of value", "is not an integer", "user_script")


class Changed(Exception):
    """Raised by a script's arguments: this is not the server that they are for."""


class _Link:
    """One connection, and the run of the server at its other end: a new run is a new process."""

    def __init__(self, connection: Connection, late: type[Exception]):
        self.connection, self.late, self.run = connection, late, ""

    def ask(self, deadline: float, *command: Argument) -> Any:
        """Send a command and return its answer; redis-py's `TimeoutError` at the deadline."""
        self.connection.send_command(*command)
        if not self.connection.can_read(max(0.001, deadline - time.monotonic())):
            raise self.late("no answer came in time")
        return self.connection.read_response()


class Server:
    """A server whose connections are shared by threads, made anew after a fork, and checked.

    Parameters: `durability`, "full" or "normal"; `seconds`, how long one call may take, with all
    that it needs: a connection, the answer, and asking once more where a connection has broken.
    """

    def __init__(self, url: RedisUrl, durability: str, seconds: float):
        if durability not in ("full", "normal"):
            raise ConfigurationError(f"durability {durability!r} is unknown; allowed: full, normal")
        if not 0 < seconds <= 3600:
            raise ConfigurationError(f"busy_seconds {seconds!r} must be above 0, up to 3600")
        try:
            import redis
        except ImportError:
            raise ConfigurationError(
                "a ledger in Redis needs the package redis: pip install 'tiered-router[redis]'"
            ) from None
        self._redis = redis
        self.url, self.name, self._durability = url, url.name, durability
        self.seconds = seconds
        self._idle: deque[_Link] = deque()
        self._pid = os.getpid()
        self._closed = False

    def start(self) -> None:
        """Connect, and refuse a server that would lose or evict money: `ConfigurationError`."""
        try:
            self._idle.append(self._connect(self.deadline(OPEN_SECONDS)))
        except self._redis.RedisError as error:
            raise self._named(error) from error

    def deadline(self, at_least: float = 0.0) -> float:
        """When a call that begins now must have ended, on the clock of `time.monotonic`."""
        return time.monotonic() + max(self.seconds, at_least)

    def call(
        self,
        script: Script,
        key: str,
        arguments: Callable[[str], Sequence[Argument]],
        *,
        deadline: float | None = None,
        again: bool = True,
        durable: bool = False,
    ) -> Any:
        """Run a script; return its answer.

        Parameters: `arguments`, called with the run id of the server that the script will run on;
        `deadline`, None for the usual; `again`, whether the script may run twice where a connection
        broke before its answer came; `durable`, whether the URL's replicas must have what it wrote.
        """
        until = self.deadline() if deadline is None else deadline
        return self._with_link(
            lambda link: self._run(link, until, script, key, arguments, durable), until, again
        )

    def command(self, *command: Argument) -> Any:
        """Run one command, which may run twice; return its answer. On no request's way."""
        until = self.deadline(PATIENT_SECONDS)
        return self._with_link(lambda link: link.ask(until, *command), until, again=True)

    def renew_file(self, deadline: float) -> None:
        """Ask for the append-only file to be written anew, as is due after a restart.

        A server that died while it wrote a step leaves part of it at the file's end. Redis (seen
        with 6.2.5), and Valkey before its pull request 4342 of August 2026, take out the torn
        command and leave those before it, which the restart after this one carries out together
        with the step that was written after them. A file made from memory has no such rest. A
        server that refuses, or that is writing it already, is left alone, and nobody waits until it
        is written.
        """
        with suppress(LedgerError):
            self._with_link(lambda link: link.ask(deadline, "BGREWRITEAOF"), deadline, again=True)

    def close(self) -> None:
        """Close it for good; who is asking meanwhile gets the answer."""
        self._closed = True
        self._drop_idle()

    def _with_link(self, work: Callable[[_Link], Any], deadline: float, again: bool) -> Any:
        if self._closed:
            raise LedgerUnavailable(self.name, "it was closed")
        if self._pid != os.getpid():  # no connection may be shared with the parent
            self._idle, self._pid = deque(), os.getpid()
        in_doubt = False
        try:
            while True:
                try:
                    link, fresh = self._idle.pop(), False
                except IndexError:
                    link, fresh = self._connect(deadline), True
                try:
                    answer = work(link)
                except self._redis.TimeoutError:
                    in_doubt = True
                    link.connection.disconnect()
                    raise
                except self._redis.ConnectionError:
                    in_doubt = True
                    link.connection.disconnect()
                    if fresh or not again:
                        raise
                    self._drop_idle()  # the server went away, and with it all its connections
                    continue
                except (self._redis.ResponseError, LedgerError, Changed):
                    self._idle.append(link)
                    raise
                except BaseException:
                    link.connection.disconnect()  # an answer may still be under way
                    raise
                self._idle.append(link)
                return answer
        except self._redis.RedisError as error:
            raise self._named(error, in_doubt) from error
        except ConfigurationError as error:  # the server was changed under us
            raise LedgerUnavailable(self.name, str(error), in_doubt=in_doubt) from error

    def _run(
        self,
        link: _Link,
        deadline: float,
        script: Script,
        key: str,
        arguments: Callable[[str], Sequence[Argument]],
        durable: bool,
    ) -> Any:
        tail = (1, key, *arguments(link.run))
        try:
            answer = link.ask(deadline, "EVALSHA", script.sha1, *tail)
        except self._redis.exceptions.NoScriptError:
            answer = link.ask(deadline, "EVAL", script.text, *tail)
        if durable and self.url.replicas:
            patience = int((deadline - time.monotonic()) * 800)  # ms: before we would give up
            reached = link.ask(deadline, "WAIT", self.url.replicas, max(1, patience))
            if reached < self.url.replicas:
                why = f"{reached} of {self.url.replicas} replicas have the step"
                raise LedgerUnavailable(self.name, why, in_doubt=True)
        return answer

    def _connect(self, deadline: float) -> _Link:
        from redis.backoff import NoBackoff
        from redis.connection import Connection, SSLConnection
        from redis.retry import Retry

        url = self.url
        kind: type[Connection] = SSLConnection if url.tls else Connection
        patience = max(0.001, deadline - time.monotonic())
        connection = kind(
            host=url.host,
            port=url.port,
            db=url.db,
            username=url.username,
            password=url.password,
            socket_timeout=patience,
            socket_connect_timeout=patience,
            retry=Retry(NoBackoff(), 0),
            protocol=2,
            **({"ssl_ca_certs": url.ca} if url.tls and url.ca else {}),
        )
        link = _Link(connection, self._redis.TimeoutError)
        try:
            connection.connect()
            info = _facts(link.ask(deadline, "INFO"))
            link.run = info["run_id"]
            self._check(link, info, deadline)
        except BaseException:
            connection.disconnect()
            raise
        return link

    def _check(self, link: _Link, info: dict[str, str], deadline: float) -> None:
        version = tuple(int(part) for part in info["redis_version"].split(".")[:2])
        if version < _OLDEST:
            raise ConfigurationError(f"{self.name} is Redis {info['redis_version']}; 6.2 is needed")
        if info.get("loading") == "1":  # Redis 6.2 calls its append-only file off meanwhile
            raise LedgerUnavailable(self.name, "it is reading its data from the disk")
        check_clock(self.name, int(info.get("server_time_usec", 2**60)) / 1e6)
        if info.get("role") != "master":
            raise LedgerUnavailable(self.name, "this server is a replica; name the primary")
        policy = info.get("maxmemory_policy", "noeviction")
        if policy != "noeviction":
            raise ConfigurationError(
                f"{self.name} may evict counters: its maxmemory-policy is {policy}; "
                f"set it to noeviction"
            )
        if info.get("aof_enabled") != "1":
            raise ConfigurationError(
                f"{self.name} forgets what was spent when it restarts; set appendonly to yes"
            )
        if self._durability == "full" and self._fsync(link, deadline) != "always":
            raise ConfigurationError(
                f"{self.name} may lose its last moments when it dies: durability full needs "
                f"appendfsync always; set that, or ask for durability normal"
            )

    def _fsync(self, link: _Link, deadline: float) -> str:
        try:
            answer = link.ask(deadline, "CONFIG", "GET", "appendfsync")
        except self._redis.ResponseError:  # a managed service keeps it to itself
            return "unknown"
        return bytes(answer[1]).decode() if answer else "unknown"

    def _drop_idle(self) -> None:
        while True:
            try:
                self._idle.pop().connection.disconnect()
            except IndexError:
                return

    def _named(self, error: Exception, in_doubt: bool = False) -> LedgerError:
        text = str(error) or type(error).__name__
        passes = any(sign in text for sign in _PASSES)
        damaged = not passes and any(sign in text for sign in _DAMAGED)
        if damaged and isinstance(error, self._redis.ResponseError):
            return LedgerCorrupt(self.name, text)
        if isinstance(error, self._redis.TimeoutError):
            text = f"it did not answer within {self.seconds:g} seconds"
        return LedgerUnavailable(self.name, text, in_doubt=in_doubt)


def _facts(info: bytes) -> dict[str, str]:
    lines = (line.partition(":") for line in info.decode().splitlines() if ":" in line)
    return {key: value.strip() for key, _, value in lines}
