"""Fixtures that every test may use."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of genuine annotation files, reference tensors and media beside the checkout."""
    folder = Path(__file__).resolve().parents[2] / "shared"
    if not folder.is_dir():
        pytest.skip(
            "../shared (genuine annotation files, reference tensors, media) is not beside this checkout"
        )
    return folder


@pytest.fixture
def mentions() -> Callable[[str], list[int]]:
    """Processes whose command line or working directory mentions a text."""

    def find(text: str) -> list[int]:
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != os.getpid():
                try:
                    line = (entry / "cmdline").read_bytes().decode(errors="replace")
                    where = os.readlink(entry / "cwd")
                    state = (entry / "stat").read_text().rsplit(")", 1)[1].split()[0]
                except OSError:
                    continue
                if state != "Z" and (text in line or text in where):
                    found.append(int(entry.name))
        return found

    return find
