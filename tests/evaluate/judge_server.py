"""A judge's endpoint over real loopback HTTP that misbehaves as told, and remembers what it was asked."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Act:
    """One response. `cut` announces more bytes than come; `hang` answers when the server ends."""

    content: str = ""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    raw: bytes | None = None
    cut: bool = False
    hang: bool = False

    def body(self) -> bytes:
        if self.raw is not None:
            return self.raw
        choice = {"message": {"role": "assistant", "content": self.content}, "finish_reason": "stop"}
        return json.dumps({"model": "fake-0613", "choices": [choice]}).encode()


@dataclass
class Log:
    """Requests seen: their bodies, paths and headers (names in lower case), in order."""

    bodies: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    url: str = ""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def questions(self) -> list[str]:
        return [body["messages"][-1]["content"] for body in self.bodies]


@contextmanager
def serve(act: Callable[[dict[str, Any], int], Act]) -> Iterator[Log]:
    """A server that answers with `act(request body, how often this user text was seen before)`."""
    log, ended = Log(), threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with log.lock:
                before = log.questions().count(body["messages"][-1]["content"])
                log.bodies.append(body)
                log.keys.append(self.headers.get("Authorization"))
                log.paths.append(self.path)
                log.headers.append({name.lower(): value for name, value in self.headers.items()})
            done = act(body, before)
            if done.hang:
                ended.wait(20)
            payload = done.body()
            try:
                self.send_response(done.status)
                for name, value in done.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(payload) + (100 if done.cut else 0)))
                self.end_headers()
                self.wfile.write(payload)
            except OSError:
                pass  # the client had gone

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    log.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield log
    finally:
        ended.set()
        server.shutdown()
        thread.join()
        server.server_close()
