"""Who is at work: what a person says of themselves, and accounts without a name."""

from __future__ import annotations

import getpass
import subprocess
from pathlib import Path
from typing import Any

import pytest

from videollava.who import name_account, name_person


@pytest.fixture(autouse=True)
def _nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VIDEOLLAVA_USER", raising=False)
    for name in ("GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM"):
        monkeypatch.setenv(name, "/dev/null")
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))


def test_a_person_is_named_by_themselves_then_by_git(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(getpass, "getuser", lambda: "ann")
    assert name_person(tmp_path).startswith("ann@")
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    assert name_person(tmp_path).startswith("ann@")
    subprocess.run(["git", "-C", tmp_path, "config", "user.email", "ann@example.org"], check=True)
    assert name_person(tmp_path) == "ann@example.org"
    subprocess.run(["git", "-C", tmp_path, "config", "user.name", "Ann Other"], check=True)
    assert name_person(tmp_path) == "Ann Other <ann@example.org>"
    assert name_account().startswith("worker account ann on ")
    monkeypatch.setenv("VIDEOLLAVA_USER", "Ben")
    assert name_person(tmp_path) == name_account() == "Ben"


def test_an_account_without_a_name_is_its_number(tmp_path: Path, monkeypatch: Any) -> None:
    def unknown() -> str:
        raise KeyError("getpwuid(): uid not found: 4242")

    monkeypatch.setattr(getpass, "getuser", unknown)
    assert name_person(tmp_path).startswith("uid-")
    assert name_account().startswith("worker account uid-")
