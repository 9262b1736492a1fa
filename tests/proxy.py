"""A TCP proxy that does to a connection what networks do: delay it, cut it, swallow its answers."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time


class Proxy:
    """Forwards from a port of its own to `port` of this machine; its fields may be set at any time.

    `latency`: seconds by which each answer is late. `swallow`: the next so many answers are not
    delivered; the connection is reset instead, once the server has sent them. `silent`: nothing
    passes, and nobody is told. `slice`: answers come in pieces of so many bytes.
    """

    def __init__(self, port: int):
        self._server_port = port
        self.latency, self.swallow, self.silent = 0.0, 0, False
        self.slice = 65536
        self.swallowed = 0
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def reset_all(self) -> None:
        """Reset every connection that there is."""
        pairs, self._pairs = self._pairs, []
        for pair in pairs:
            _reset(*pair)

    def close(self) -> None:
        """Let nobody in any more, and reset all."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.reset_all()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._server_port))
                self._pairs.append((client, server))
                for way in ((client, server, False), (server, client, True)):
                    threading.Thread(target=self._carry, args=way, daemon=True).start()

    def _carry(self, source: socket.socket, target: socket.socket, answers: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                while self.silent:
                    time.sleep(0.01)
                if answers and self.swallow:
                    self.swallow -= 1
                    self.swallowed += 1
                    break
                if answers and self.latency:
                    time.sleep(self.latency)
                size = self.slice if answers else len(data)
                for at in range(0, len(data), size):
                    target.sendall(data[at : at + size])
        _reset(source, target)


def _reset(*ends: socket.socket) -> None:
    for end in ends:
        with contextlib.suppress(OSError):  # linger for no time: RST, not FIN
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            end.shutdown(socket.SHUT_RDWR)
        end.close()
