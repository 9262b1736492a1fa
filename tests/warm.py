"""Python programs in processes of their own that need not import litellm anew, which takes seconds.

One process, alone in a thread, has imported it and forks for each program. A program runs as the
main module of its process and ends as any does: with its exit hooks, or by a signal.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]

_SERVER = """
import contextlib, importlib, json, os, signal, socket, sys, threading

# What litellm and openai import with their first call.
_LATE = (
    "litellm._service_logger",
    "litellm.litellm_core_utils.default_encoding",
    "litellm.llms.vertex_ai.vertex_ai_partner_models.anthropic.transformation",
    "litellm.proxy._types",
    "litellm.types.litellm_core_utils.streaming_chunk_builder_utils",
    "router.ledger.outage",
    "router.ledger.sqlite.store",
)

def _next_program():
    from router import Router
    from router.dispatch.wire import load_litellm
    load_litellm()
    for name in _LATE:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    import openai
    for client in (openai.OpenAI, openai.AsyncOpenAI):
        client(api_key="none").chat.completions
    assert threading.active_count() == 1  # no other would pass through a fork
    line = socket.socket(fileno=int(sys.argv[1]))
    line.sendall(b"ready")
    while True:
        asked, descriptors, _, _ = socket.recv_fds(line, 1 << 20, 2)
        if not asked:
            os._exit(0)
        asked = json.loads(asked)
        if "wait" in asked:
            answer = os.waitstatus_to_exitcode(os.waitpid(asked["wait"], 0)[1])
        else:
            answer = os.fork()
            if answer == 0:
                line.close()
                for number, descriptor in enumerate(descriptors, 1):
                    os.dup2(descriptor, number)
                    os.close(descriptor)
                os.chdir(asked["folder"])
                os.environ.clear()
                os.environ.update(asked["environment"])
                sys.argv = asked["argv"]
                return asked["program"]
            for descriptor in descriptors:
                os.close(descriptor)
        line.sendall(json.dumps(answer).encode())

_program = _next_program()
__file__ = sys.argv[0]
exec(compile(_program, __file__, "exec"))
"""


class Program:
    """A program that runs. `stdout` and `stderr` are to be read."""

    def __init__(self, server: _Server, pid: int, stdout: Any, stderr: Any):
        self._server, self.pid, self.stdout, self.stderr = server, pid, stdout, stderr

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def wait(self) -> int:
        """Wait until it has ended; its exit status, or minus the signal that ended it."""
        code: int = self._server.ask({"wait": self.pid})
        self.stdout.close()
        self.stderr.close()
        return code

    def communicate(self) -> tuple[int, str, str]:
        """Its exit status and all that it said. It may say less to stderr than a pipe holds."""
        said = self.stdout.read(), self.stderr.read()
        return self.wait(), *said


class _Server:
    def __init__(self) -> None:
        self._line, theirs = socket.socketpair()
        self._line.settimeout(120)  # the machine may be busy
        self._process = subprocess.Popen(
            [sys.executable, "-c", _SERVER, str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        theirs.close()
        atexit.register(self._stop)
        assert self._line.recv(16) == b"ready"

    def ask(self, what: dict[str, Any], descriptors: Sequence[int] = ()) -> Any:
        socket.send_fds(self._line, [json.dumps(what).encode()], descriptors)
        return json.loads(self._line.recv(1024))

    def _stop(self) -> None:
        self._line.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(10)
            return
        self._process.send_signal(signal.SIGKILL)


@functools.cache
def _server() -> _Server:
    return _Server()


def start(
    program: str,
    *arguments: str,
    name: str = "program.py",
    folder: Path = ROOT,
    environment: Mapping[str, str] | None = None,
) -> Program:
    """Run the text of a program, called `name` with `arguments`, in `folder`."""
    pipes = [os.pipe() for _ in range(2)]
    asked = {
        "program": program,
        "argv": [name, *arguments],
        "folder": str(folder),
        "environment": dict(os.environ if environment is None else environment),
    }
    pid = _server().ask(asked, [end for _, end in pipes])
    for _, end in pipes:
        os.close(end)
    return Program(_server(), pid, *(open(end, encoding="utf-8") for end, _ in pipes))
