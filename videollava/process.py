"""Commands run under supervision, their output read as it comes: lines, and bars now and then."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from videollava.environment import SUPERVISED
from videollava.scrub import scrub

__all__ = [
    "GRACE_SECONDS",
    "SUPERVISE",
    "OutputLines",
    "Supervised",
    "end_carrying",
    "end_orphans",
    "find_carrying",
    "run_streamed",
]

SUPERVISE = Path(__file__).with_name("supervise.py")
GRACE_SECONDS = 10.0
LOOK_SECONDS = 1.0  # between two looks at a supervisor whose command says nothing
BAR_SECONDS = 15.0  # between two pictures of a progress bar in a log
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Supervised:
    """A command in its own session that ends with this process, whatever ends that. A context."""

    def __init__(
        self,
        command: Sequence[str],
        cwd: Path,
        env: Mapping[str, str] | None = None,
        output: int | None = None,
        grace: float = GRACE_SECONDS,
        keep: Iterable[int] = (),
    ) -> None:
        kept = tuple(keep)
        numbers = ",".join(str(number) for number in kept)
        line = [sys.executable, "-I", "-S", str(SUPERVISE), str(grace), numbers, *command]
        self.grace = grace
        self._mark = uuid.uuid4().hex
        self.process = subprocess.Popen(
            line,
            cwd=cwd,
            env={**(os.environ if env is None else env), SUPERVISED: self._mark},
            stdin=subprocess.PIPE,  # the lifeline: it closes when this process ends
            stdout=output,
            stderr=subprocess.STDOUT if output is not None else None,
            start_new_session=True,
            pass_fds=kept,
        )

    def poll(self) -> int | None:
        """The exit status, None while it runs. What a killed supervisor left behind is ended here."""
        status = self.process.poll()
        if status is not None and status < 0:
            _end_marked(self._mark)
        return status

    def work(self) -> tuple[int, float] | None:
        """(bytes read and written, seconds of CPU) of everything it started that runs now; None where the system does
        not tell.
        """
        told = [_work(pid) for pid in _processes() if _carries(pid, f"{SUPERVISED}={self._mark}")]
        known = [one for one in told if one is not None]
        return (sum(size for size, _ in known), sum(spent for _, spent in known)) if known else None

    def stop(self) -> int:
        """End the command and everything it started; its exit status."""
        if self.process.stdin and not self.process.stdin.closed:
            with suppress(BrokenPipeError):
                self.process.stdin.close()
        try:
            self.process.wait(self.grace + 10)
        except subprocess.TimeoutExpired:  # the supervisor itself hangs
            self.process.kill()
            self.process.wait()
        except BaseException:  # told to end a second time
            self.hurry()
            raise
        return self.poll() or 0

    def hurry(self) -> None:
        """Whatever time is left to it: what is being stopped is killed now."""
        self.process.terminate()

    def __enter__(self) -> Supervised:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class OutputLines:
    """Turns raw output into lines for a log; what a bar redraws (after a carriage return) only now and then.

    echo: gets the raw text too, as it comes (a terminal that can draw the bar itself); lines that `noise`
    matches go nowhere. Neither gets a credential: this is the one way from a stage's mouth to a log.
    """

    def __init__(
        self,
        line: Callable[[str], None],
        echo: Callable[[str], None] | None = None,
        noise: re.Pattern[str] | None = None,
    ) -> None:
        self._line = line
        self._echo = echo
        self._noise = noise
        self._rest = ""
        self._drawn = time.monotonic()
        self._last = ""

    def feed(self, text: str) -> None:
        """Take the next piece of output."""
        pieces = re.split(r"(\r\n|\n|\r)", self._rest + text)
        self._rest = pieces.pop()
        for content, end in zip(pieces[::2], pieces[1::2], strict=True):
            self._take(content, bar=end == "\r", end="\n" if end == "\r\n" else end)

    def close(self) -> None:
        """Take what has no end of line yet as a line."""
        if self._rest:
            self._take(self._rest, bar=False, end="\n")
            self._rest = ""

    def _take(self, content: str, bar: bool, end: str) -> None:
        content = scrub(content)
        text = ESCAPES.sub("", content).strip()
        if (not text and not bar) or (self._noise and self._noise.search(text)):
            return
        if self._echo:
            self._echo(content + end)
        if not text or (bar and time.monotonic() - self._drawn < BAR_SECONDS) or text == self._last:
            return
        if bar:
            self._drawn = time.monotonic()
        self._last = text
        self._line(text)


def run_streamed(
    command: Sequence[str],
    cwd: Path,
    env: Mapping[str, str],
    lines: OutputLines,
    keep: Iterable[int] = (),
    grace: float = GRACE_SECONDS,
    terminal: bool = False,
    look: Callable[[Supervised], object] | None = None,
) -> int:
    """Run a command to its end, feeding `lines`; its exit status. Whatever is raised meanwhile ends it first.

    terminal: give it a pseudo-terminal, so that it draws its progress bars. look: called every second or so.
    """
    read_end, write_end = pty.openpty() if terminal else os.pipe()
    try:
        running = Supervised(command, cwd, env, write_end, grace, keep)
    finally:
        os.close(write_end)
    with running, open(read_end, "rb", buffering=0) as stream:
        for text in _pieces(stream.fileno(), running, look):
            lines.feed(text)
        lines.close()
        running.process.wait()
        return running.poll() or 0


def _pieces(
    descriptor: int, running: Supervised, look: Callable[[Supervised], object] | None
) -> Iterator[str]:
    import codecs
    import select

    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    while True:
        if look:
            look(running)
        if not select.select([descriptor], [], [], LOOK_SECONDS)[0]:
            running.poll()
            continue
        try:
            block = os.read(descriptor, 1 << 16)
        except OSError:  # how a pseudo-terminal says that nobody writes any more
            return
        if not block:
            return
        yield decoder.decode(block)


def end_orphans(pids: Iterable[int]) -> None:
    """Kill those of the processes that a supervisor started which is gone, and what they started."""
    for pid in pids:
        words = _environment(pid).split(b"\0")
        mark = next((word.decode() for word in words if word.startswith(f"{SUPERVISED}=".encode())), "")
        if mark and not any(_supervises(one) for one in _processes() if _carries(one, mark)):
            _end_marked(mark.partition("=")[2])


def find_carrying(word: str) -> list[int]:
    """Processes with NAME=VALUE in the environment they were started with (Linux; elsewhere there is no telling).

    Also what they started that shows no NAME any more: some write what they are doing over it, as PostgreSQL's do.
    """
    name, found, others = word.partition("=")[0].encode() + b"=", set(), {}
    for pid in _processes():
        words = _environment(pid).split(b"\0")
        if word.encode() in words:
            found.add(pid)
        elif not any(other.startswith(name) for other in words) and (parent := _parent(pid)):
            others[pid] = parent
    while more := {pid for pid, parent in others.items() if parent in found} - found:
        found |= more
    return sorted(found)


def end_carrying(word: str) -> None:
    """Kill every process with NAME=VALUE in its environment, and those that they start meanwhile."""
    for _ in range(100):
        found = find_carrying(word)
        if not found:
            return
        for pid in found:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)


def _end_marked(mark: str) -> None:
    end_carrying(f"{SUPERVISED}={mark}")


def _processes() -> list[int]:
    return (
        [int(name) for name in os.listdir("/proc") if name.isdigit()] if os.path.isdir("/proc/self") else []
    )


def _carries(pid: int, word: str) -> bool:
    return word.encode() in _environment(pid).split(b"\0")


def _parent(pid: int) -> int:
    """Who started it; 0 where it has ended."""
    state, parent, *_ = [*_read(pid, "stat").rpartition(b")")[2].split(), b"", b""]
    return int(parent) if state and state not in b"ZX" else 0


def _environment(pid: int) -> bytes:
    return _read(pid, "environ")


def _work(pid: int) -> tuple[int, float] | None:
    counts = dict(line.split(b": ") for line in _read(pid, "io").splitlines())
    fields = _read(pid, "stat").rpartition(b")")[2].split()
    if not counts or not fields:
        return None
    ticks = int(fields[11]) + int(fields[12])
    return int(counts[b"rchar"]) + int(counts[b"wchar"]), ticks / os.sysconf("SC_CLK_TCK")


def _supervises(pid: int) -> bool:
    """By the file's name alone: a retraining of another checkout runs that one's."""
    words = os.fsdecode(_read(pid, "cmdline")).split("\0")
    return any(os.path.basename(word) == SUPERVISE.name for word in words)


def _read(pid: int, name: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:  # another user's, or gone
        return b""
