"""Nothing a stage starts outlives it, whoever is killed; its output is readable in a log."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from flows.places.lock import hold
from videollava.environment import SUPERVISED
from videollava.errors import InputError
from videollava.process import (
    SUPERVISE,
    OutputLines,
    Supervised,
    end_carrying,
    find_carrying,
    run_streamed,
)

# A program that starts a child in a session of its own, which ignores SIGTERM, and then hangs.
STUBBORN = """
import subprocess, sys
child = '''
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print('up', flush=True)
time.sleep(600)
'''
print("started", flush=True)
subprocess.Popen([sys.executable, "-c", child, sys.argv[1]], start_new_session=True).wait()
"""


def wait_for(condition: Callable[[], bool], seconds: float = 120.0) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def test_output_becomes_lines() -> None:
    lines: list[str] = []
    echoed: list[str] = []
    output = OutputLines(lines.append, echoed.append, re.compile("^noise"))
    for piece in ("fir", "st\nnoise here\n\n10%\r20%\r", "\x1b[31m30%\x1b[0m\r\nla", "st"):
        output.feed(piece)
    output.close()
    assert lines == ["first", "30%", "last"]
    assert "".join(echoed) == "first\n10%\r20%\r\x1b[31m30%\x1b[0m\nlast\n"


def test_a_bar_shows_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("videollava.process.time.monotonic", lambda: now[0])
    lines: list[str] = []
    output = OutputLines(lines.append)
    for second in range(60):
        now[0] = float(second)
        output.feed(f"step {second}\r")
    assert lines == ["step 15", "step 30", "step 45"]


def test_status_output_and_environment_come_through(tmp_path: Path) -> None:
    lines: list[str] = []
    body = (
        "import os, sys; print(os.environ['MARK'], os.getcwd()); print('bad', file=sys.stderr); sys.exit(3)"
    )
    status = run_streamed(
        [sys.executable, "-c", body], tmp_path, {**os.environ, "MARK": "here"}, OutputLines(lines.append)
    )
    assert status == 3
    assert sorted(lines) == ["bad", f"here {tmp_path}"]
    dying = [sys.executable, "-c", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"]
    assert run_streamed(dying, tmp_path, os.environ, OutputLines(lines.append)) == 128 + signal.SIGKILL


def test_a_terminal_is_given_where_a_person_watches(tmp_path: Path) -> None:
    lines: list[str] = []
    body = "import sys; print(sys.stdout.isatty())"
    output = OutputLines(lines.append)
    assert run_streamed([sys.executable, "-c", body], tmp_path, os.environ, output, terminal=True) == 0
    assert lines == ["True"]


def test_an_interruption_ends_every_descendant(tmp_path: Path, mentions: Callable[[str], list[int]]) -> None:
    mark = f"mark-{tmp_path.name}-{os.getpid()}"

    def stop_when_up(line: str) -> None:
        if line == "up":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_streamed(
            [sys.executable, "-c", STUBBORN, mark], tmp_path, os.environ, OutputLines(stop_when_up), grace=0.2
        )
    assert mentions(mark) == []


def test_what_a_finished_command_left_behind_is_ended(
    tmp_path: Path, mentions: Callable[[str], list[int]]
) -> None:
    mark = f"left-{tmp_path.name}-{os.getpid()}"
    body = (
        "import subprocess, sys; body = 'import time; time.sleep(600)'\n"
        "subprocess.Popen([sys.executable, '-c', body, sys.argv[1]],"
        " start_new_session=True, stdout=subprocess.DEVNULL)"
    )
    lines: list[str] = []
    command = [sys.executable, "-c", body, mark]
    assert run_streamed(command, tmp_path, os.environ, OutputLines(lines.append), grace=0.2) == 0
    assert mentions(mark) == []


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_caller_takes_all_of_it_along(
    tmp_path: Path, mentions: Callable[[str], list[int]], number: signal.Signals
) -> None:
    mark = f"caller-{tmp_path.name}-{os.getpid()}"
    caller = (
        "import os, sys; from pathlib import Path; from videollava.process import OutputLines, run_streamed\n"
        "run_streamed([sys.executable, '-c', sys.argv[1], sys.argv[2]], Path('.'), os.environ,"
        " OutputLines(lambda line: print(line, flush=True)), grace=0.2)"
    )
    running = subprocess.Popen(
        [sys.executable, "-c", caller, STUBBORN, mark], stdout=subprocess.PIPE, text=True
    )
    assert running.stdout is not None
    while running.stdout.readline().strip() != "up":
        pass
    running.send_signal(number)
    running.wait()
    running.stdout.close()
    assert wait_for(lambda: mentions(mark) == [])


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


# As DVC runs a stage: a shell of its own for the command, every other open file closed.
THROUGH_A_SHELL = (
    "import subprocess, sys; subprocess.run(f'true; {sys.executable} -c \\\"$BODY\\\" {sys.argv[1]}; true',"
    " shell=True, close_fds=True)"
)


@pytest.mark.parametrize("killed", ["guard", "supervisor", "both"])
def test_a_killed_supervisor_takes_all_of_it_along_and_the_lock_holds_until_then(
    tmp_path: Path, mentions: Callable[[str], list[int]], killed: str
) -> None:
    mark = f"killed-{tmp_path.name}-{os.getpid()}"

    def kill_when_up(line: str) -> None:
        if line != "up":
            return
        one, two = (pid for pid in mentions(mark) if str(SUPERVISE) in command_of(pid))
        guard, supervisor = (one, two) if two in children(one) else (two, one)
        for pid in {"guard": [guard], "supervisor": [supervisor], "both": [guard, supervisor]}[killed]:
            os.kill(pid, signal.SIGKILL)

    with hold(tmp_path) as lock:
        environment = {**os.environ, "BODY": STUBBORN}
        command = [sys.executable, "-c", THROUGH_A_SHELL, mark]
        assert run_streamed(command, tmp_path, environment, OutputLines(kill_when_up), [lock], grace=0.2) != 0
    with hold(tmp_path, wait=60.0):  # the stages' processes held it too: the last is gone
        assert mentions(mark) == []


def test_what_outlived_everybody_is_ended_by_the_next(
    tmp_path: Path, mentions: Callable[[str], list[int]]
) -> None:
    mark = f"orphan-{tmp_path.name}-{os.getpid()}"
    body = (
        "import os, signal, sys; from pathlib import Path; from flows.places.lock import hold\n"
        "from videollava.process import Supervised\n"
        "with hold(Path('.')) as lock:\n"
        "    running = Supervised([sys.executable, '-c', sys.argv[1], sys.argv[2]], Path('.'), keep=[lock])\n"
        "    print(running.process.pid, flush=True)\n"
        "    running.process.wait()"
    )
    flow = subprocess.Popen(
        [sys.executable, "-c", body, THROUGH_A_SHELL, mark],
        cwd=tmp_path,
        env={**os.environ, "BODY": STUBBORN, "PYTHONPATH": os.getcwd()},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert flow.stdout is not None
    said = [flow.stdout.readline().strip() for _ in range(3)]
    assert said[1:] == ["started", "up"]
    guard = int(said[0])
    for pid in (flow.pid, *children(guard), guard):  # all at once
        os.kill(pid, signal.SIGSTOP)
    for pid in (flow.pid, *children(guard), guard):
        os.kill(pid, signal.SIGKILL)
    flow.wait()
    flow.stdout.close()
    assert mentions(mark)
    with hold(tmp_path, wait=30.0):
        assert mentions(mark) == []


def test_a_live_retraining_of_another_checkout_is_let_alone(tmp_path: Path) -> None:
    other = tmp_path / "other" / "flows"
    other.mkdir(parents=True)
    shutil.copy(SUPERVISE, other)
    with hold(tmp_path) as lock:
        line = [sys.executable, "-I", "-S", str(other / "supervise.py"), "0.2", str(lock)]
        body = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(600)"]
        running = subprocess.Popen(
            [*line, *body],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=[lock],
            env={**os.environ, SUPERVISED: "its-mark"},
        )
        assert running.stdout is not None
        assert running.stdin is not None
        assert running.stdout.readline() == b"up\n"
    with pytest.raises(InputError, match="another retraining"), hold(tmp_path, wait=0.5):
        pass
    assert running.poll() is None
    running.stdin.close()
    running.wait()
    running.stdout.close()


def command_of(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")


def test_a_stage_below_a_shell_holds_the_lock(tmp_path: Path) -> None:
    command, environment = [sys.executable, "-c", THROUGH_A_SHELL, "x"], {**os.environ, "BODY": STUBBORN}
    read_end, write_end = os.pipe()
    with hold(tmp_path) as lock:
        running = Supervised(command, tmp_path, environment, write_end, grace=0.2, keep=[lock])
    os.close(write_end)
    with running, open(read_end) as said:
        assert [said.readline(), said.readline()] == ["started\n", "up\n"]
        (supervisor,) = children(running.process.pid)
        os.kill(running.process.pid, signal.SIGSTOP)  # neither of them holds anything together now
        os.kill(supervisor, signal.SIGSTOP)
        with pytest.raises(InputError, match="another retraining"), hold(tmp_path, wait=0.0):
            pass
        os.kill(supervisor, signal.SIGCONT)
        os.kill(running.process.pid, signal.SIGCONT)
    with hold(tmp_path, wait=0.0):
        pass


def test_what_reads_its_input_finds_none(tmp_path: Path) -> None:
    lines: list[str] = []
    body = "import sys; print(repr(sys.stdin.read()), sys.stdin.isatty())"
    with hold(tmp_path) as lock:
        run_streamed([sys.executable, "-c", body], tmp_path, os.environ, OutputLines(lines.append), [lock])
    assert lines == ["'' False"]


@pytest.mark.parametrize(("mode", "status"), [(None, 127), (0o644, 126)])
def test_a_program_that_cannot_be_started_is_said(tmp_path: Path, mode: int | None, status: int) -> None:
    program = tmp_path / "program"
    if mode is not None:
        program.write_text("")
        program.chmod(mode)
    lines: list[str] = []
    assert run_streamed([str(program)], tmp_path, os.environ, OutputLines(lines.append)) == status
    assert lines[0].startswith(f"{program}: ")


def test_stop_is_quiet_about_what_ended_already(tmp_path: Path) -> None:
    running = Supervised([sys.executable, "-c", ""], tmp_path)
    running.process.wait()
    assert running.stop() == 0


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nothing tells what a process was started with")
def test_what_shows_no_mark_any_more_is_found_with_who_started_it() -> None:
    """PostgreSQL's processes write what they are doing over their environment."""
    mark = f"VIDEOLLAVA_TRIED={os.getpid()}"
    child = "import os, sys; os.execve('/bin/sleep', ['sleep', '600'], {sys.argv[1]: '1'} if sys.argv[1:] else {})"
    script = (
        "import subprocess, sys\n"
        f"started = [subprocess.Popen([sys.executable, '-c', {child!r}, *words], start_new_session=True)"
        " for words in ([], ['VIDEOLLAVA_TRIED'])]\n"
        "print(*(one.pid for one in started), flush=True)\n"
        "started[0].wait()\n"
    )
    name, _, value = mark.partition("=")
    parent = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, env={**os.environ, name: value}
    )
    assert parent.stdout is not None
    bare, other = map(int, parent.stdout.readline().split())
    try:
        assert wait_for(lambda: find_carrying(mark) == sorted([parent.pid, bare]))
        end_carrying(mark)
        assert find_carrying(mark) == []
        assert Path(f"/proc/{other}/cmdline").read_bytes()  # it has a mark of its own
    finally:
        os.kill(other, signal.SIGKILL)
        parent.kill()
        parent.communicate()
