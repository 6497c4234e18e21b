"""A server between a client and another one on loopback: it counts, cuts connections and answers 503, as told."""

from __future__ import annotations

import http.client
import itertools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Faulty:
    """Every `refuse`th request gets a 503, every `cut`th ends in the middle of its body (0: none)."""

    port: int
    refuse: int = 0
    cut: int = 0
    url: str = ""
    sent: dict[str, int] = field(default_factory=dict)
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))


class _Between(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    faulty: Faulty

    def do_GET(self) -> None:
        faulty, number = self.faulty, next(self.faulty.numbers)
        if faulty.refuse and number % faulty.refuse == 0:
            self.send_response(503)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        there = http.client.HTTPConnection("127.0.0.1", faulty.port)
        # The host stays as it was asked for: it is signed.
        there.request(self.command, self.path, headers=dict(self.headers.items()))
        reply = there.getresponse()
        body = reply.read()
        there.close()
        self.send_response(reply.status)
        for name, value in reply.getheaders():
            if name.lower() not in ("transfer-encoding", "connection", "content-length", "date", "server"):
                self.send_header(name, value)
        length = reply.getheader("Content-Length") if self.command == "HEAD" else str(len(body))
        self.send_header("Content-Length", length or "0")
        self.end_headers()
        cut = bool(faulty.cut) and number % faulty.cut == 0 and len(body) > 1
        part = body[: len(body) // 2] if cut else body
        path = self.path.partition("?")[0]
        faulty.sent[path] = faulty.sent.get(path, 0) + len(part)
        self.wfile.write(part)
        self.close_connection = cut

    do_HEAD = do_GET

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def between(port: int, **faults: int) -> Iterator[Faulty]:
    """A faulty way to the server at a port of this machine."""
    faulty = Faulty(port, **faults)
    handler = type("Bound", (_Between,), {"faulty": faulty})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        faulty.url = f"http://127.0.0.1:{running.server_port}"
        try:
            yield faulty
        finally:
            running.shutdown()
            thread.join()
