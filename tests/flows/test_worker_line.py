"""What `python -m flows.worker` becomes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from flows import worker
from videollava.machine.pools import Pool


def test_with_a_port_for_it_the_worker_answers_who_watches_containers(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    became: list[list[str]] = []

    def become(program: str, line: list[str], environment: dict[str, Any]) -> None:
        became.append(line)
        raise SystemExit(0)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(worker, "check", lambda root: None)
    monkeypatch.setattr(worker, "checkout", lambda folder: tmp_path)
    monkeypatch.setattr(worker, "load_pool", lambda name, root: Pool(type="kubernetes", worker=4))
    monkeypatch.setattr(os, "execve", become)
    for port in ("", "8080"):
        monkeypatch.setenv("PREFECT_WORKER_WEBSERVER_PORT", port)
        with pytest.raises(SystemExit):
            worker.main(["gpu"])
    without, with_port = became
    assert "worker start --pool gpu --type kubernetes --limit 4" in " ".join(without)
    assert with_port == [*without, "--with-healthcheck"]
