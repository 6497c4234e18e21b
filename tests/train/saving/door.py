"""A door to a server on loopback: it can be shut, as by a killed server, or pass nothing, as a stopped one."""

from __future__ import annotations

import contextlib
import socket
import threading


class Door:
    """A context. `shut` drops who is inside and refuses others; `hold` lets in and passes nothing on."""

    def __init__(self, port: int) -> None:
        self._beyond, self._inside = port, set[socket.socket]()
        self._passing = threading.Event()
        self._passing.set()
        self._listening = self._listen(0)
        self.port: int = self._listening.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"

    def shut(self) -> None:
        """As a killed server."""
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        for inside in list(self._inside):
            with contextlib.suppress(OSError):
                inside.shutdown(socket.SHUT_RDWR)

    def open(self) -> None:
        """As one that was started again, at the same address."""
        self._passing.set()
        self._listening = self._listen(self.port)

    def hold(self) -> None:
        """As one that is stopped, or a network that swallows all."""
        self._passing.clear()

    def release(self) -> None:
        """It goes on."""
        self._passing.set()

    def __enter__(self) -> Door:
        return self

    def __exit__(self, *_: object) -> None:
        self._passing.set()
        with contextlib.suppress(OSError):
            self.shut()

    def _listen(self, port: int) -> socket.socket:
        listening = socket.create_server(("127.0.0.1", port), reuse_port=False)
        threading.Thread(target=self._let_in, args=(listening,), daemon=True).start()
        return listening

    def _let_in(self, listening: socket.socket) -> None:
        while True:
            try:
                near, _ = listening.accept()
            except OSError:
                return
            far = socket.create_connection(("127.0.0.1", self._beyond))
            self._inside |= {near, far}
            for one, other in ((near, far), (far, near)):
                threading.Thread(target=self._carry, args=(one, other), daemon=True).start()

    def _carry(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                self._passing.wait()
                target.sendall(data)
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
