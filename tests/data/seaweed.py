"""A real S3 server (SeaweedFS) on loopback, for tests."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from flows.stack.ground import WEED
from flows.stack.objects import objects_client, weed_command
from flows.stack.programs import find_weed
from videollava.errors import InputError

KEY, SECRET = "test-key", "test-secret"
PATIENCE = 60.0  # seconds for the server to start


def free_port() -> int:
    """A port whose number plus 10,000 (SeaweedFS' gRPC) is free as well."""
    while True:
        with socket.socket() as one, socket.socket() as two:
            one.bind(("127.0.0.1", 0))
            port: int = one.getsockname()[1]
            if port < 50_000:
                try:
                    two.bind(("127.0.0.1", port + 10_000))
                except OSError:
                    continue
                return port


@dataclass
class Seaweed:
    """A server of a folder, at the same ports however often it is started. `anonymous`: what who is nobody may do."""

    folder: Path
    anonymous: tuple[str, ...] = ()
    ports: list[int] = field(default_factory=lambda: [free_port() for _ in range(4)])
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.ports[0]}"

    def start(self) -> None:
        """Start it, and wait until it answers."""
        try:
            weed = str(find_weed())
        except InputError as error:
            pytest.skip(str(error))
        actions = ["Admin", "Read", "Write", "List", "Tagging"]
        keys = [{"accessKey": KEY, "secretKey": SECRET}]
        people: list[dict[str, Any]] = [{"name": "dev", "credentials": keys, "actions": actions}]
        if self.anonymous:
            people.append({"name": "anonymous", "actions": list(self.anonymous)})
        config = self.folder / "s3.json"
        config.write_text(json.dumps({"identities": people}))
        ports = {name: (port, port + 10_000) for name, port in zip(WEED, self.ports, strict=True)}
        command = weed_command(weed, self.folder, config, ports, volumes=100, megabytes=64)
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        self._wait()

    def stop(self) -> None:
        """End it at once: a polite end takes half a minute, and nothing of it is kept."""
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(30)
            self.process = None

    def client(self) -> Any:
        """A client that may do all."""
        return objects_client(self.url, KEY, SECRET)

    def _wait(self) -> None:
        from botocore.exceptions import BotoCoreError, ClientError

        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                client = self.client()
                # Both the gateway and what it stores in must be there.
                if "ready" not in [bucket["Name"] for bucket in client.list_buckets()["Buckets"]]:
                    client.create_bucket(Bucket="ready")
                client.put_object(Bucket="ready", Key="x", Body=b"x")
                client.get_object(Bucket="ready", Key="x")["Body"].read()
                return
            except (BotoCoreError, ClientError):
                if time.monotonic() > deadline:
                    raise
                threading.Event().wait(0.2)
