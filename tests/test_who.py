"""Who is at work: what a person says of themselves, and accounts without a name."""

from __future__ import annotations

import getpass
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from videollava.who import has_ended, name_account, name_person, name_process, same_person, this_process


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


def test_two_names_of_one_person() -> None:
    assert same_person("Ann <ann@example.org>", "A. Other <Ann@example.org> ")
    assert same_person("ann@host", "Ann@host")
    assert same_person("Ann <ann@example.org>", "ann@example.org")
    assert same_person("Zo\u00eb  Other", " Zoe\u0308 other")  # looks alike, other code points
    assert not same_person("Ann <ann@example.org>", "Ann <ann@example.com>")
    assert not same_person("ann", "ben")


def test_a_process_that_ended_is_known_here_alone() -> None:
    code = "from videollava.who import this_process; print(this_process())"
    gone = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout.strip()
    assert has_ended(gone)
    assert not has_ended(this_process())
    host, *rest = gone.split(" ")
    for other in (" ".join(["elsewhere", *rest]), "", "1", f"{host} pid:[1] 7 8"):
        assert not has_ended(other)
    number = this_process().split(" ")[2]
    assert has_ended(" ".join([host, rest[0], number, "1"]))  # the number is used again


def test_a_process_that_ended_is_gone_before_its_parent_has_asked_for_it() -> None:
    with subprocess.Popen([sys.executable, "-c", ""], stdout=subprocess.PIPE) as ended:
        assert ended.stdout
        ended.stdout.read()
        os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)
        assert "Z" in Path(f"/proc/{ended.pid}/stat").read_text().rpartition(")")[2]
        assert name_process(ended.pid) == ""
