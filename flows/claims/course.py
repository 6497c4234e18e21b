"""All runs of a plan, a few at a time, each a retraining as `make retrain` starts it; none is done twice."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from flows.claims.arms import PROFILE, Arm, settings_of
from flows.claims.ground import Ground, Outcome, code_key, run_key, settle, stage_seconds
from videollava.process import OutputLines, Supervised, run_streamed

__all__ = ["Course", "Run", "Stopped", "time_left"]

GRACE = 30.0  # seconds in which a stage ends with a last checkpoint


class Stopped(Exception):
    """The course was told to end."""


@dataclass(frozen=True)
class Run:
    """One arm with one seed."""

    arm: Arm
    seed: int

    @property
    def place(self) -> tuple[str, int]:
        """Arm's name and seed: what its outcome is found by."""
        return self.arm.name, self.seed


@dataclass
class Course:
    """Does the runs of each seed one after another, `lanes` seeds at a time: arms of a seed share stages.

    more: settings over the profile for all arms. say: gets a line after each run. outcomes, failed: what came of it.
    """

    ground: Ground
    runs: Sequence[Run]
    lanes: int = 1
    more: tuple[str, ...] = ()
    say: Callable[[str], None] = print
    outcomes: dict[tuple[str, int], Outcome] = field(default_factory=dict)
    failed: dict[tuple[str, int], str] = field(default_factory=dict)
    _stop: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _took: list[tuple[str, float]] = field(default_factory=list)
    _broken: list[BaseException] = field(default_factory=list)

    def run(self) -> None:
        """To the end; on Ctrl-C and SIGTERM (as KeyboardInterrupt) what runs is ended first."""
        waiting = sorted({run.seed for run in self.runs})
        lanes = range(min(self.lanes, len(waiting)))
        places = [self.ground.lane(number) for number in lanes]
        threads = [
            threading.Thread(target=self._drive, args=(place, waiting), name=place.name) for place in places
        ]
        for thread in threads:
            thread.start()
        try:
            for thread in threads:
                thread.join()
        finally:
            self._stop.set()
            for thread in threads:
                thread.join()
        if self._broken:
            raise self._broken[0]

    def recall(self) -> None:
        """What is done already; nothing is run, and no lane is touched: another course may be at work in them."""
        desk = self.ground.clone("desk")
        code = code_key(desk)
        for run in self.runs:
            if known := self.ground.find(run_key(desk, code, run.arm, run.seed, self.more)):
                self.outcomes[run.place] = known

    @property
    def missing(self) -> bool:
        """Whether any run is not done yet."""
        return len(self.outcomes) < len(self.runs)

    def _drive(self, lane: Path, waiting: list[int]) -> None:
        try:
            while True:
                with self._lock:
                    if not waiting:
                        return
                    seed = waiting.pop(0)
                for run in self.runs:
                    if run.seed == seed:
                        self._do(lane, run)
        except Stopped:
            return
        except BaseException as error:  # the thread that waits for this one tells it
            self._broken.append(error)
            self._stop.set()

    def _do(self, lane: Path, run: Run) -> None:
        if self._stop.is_set():
            raise Stopped
        settle(lane, self.ground.commit)
        key = run_key(lane, code_key(lane), run.arm, run.seed, self.more)
        if known := self.ground.find(key):
            with self._lock:
                self.outcomes[run.place] = known
            self.say(f"seed {run.seed} {run.arm.name}: done before")
            return
        began = time.monotonic()
        status, last = self._retrain(lane, run)
        seconds = time.monotonic() - began
        if status:
            with self._lock:
                self.failed[run.place] = last
            self.say(
                f"seed {run.seed} {run.arm.name}: failed after {seconds:.0f} s: {last}; see {self._log(run)}"
            )
            return
        outcome = Outcome(key, *run.place, self.ground.commit, round(seconds, 1), stage_seconds(lane))
        self.ground.keep(lane, outcome)
        with self._lock:
            self.outcomes[run.place] = outcome
            self._took.append((run.arm.name, seconds))
        self.say(self._told(run, seconds))

    def _retrain(self, lane: Path, run: Run) -> tuple[int, str]:
        """Its exit status, and its last words."""
        said = [word for setting in settings_of(run.arm, run.seed, self.more) for word in ("--set", setting)]
        command = [
            sys.executable,
            "-m",
            "flows.retrain",
            "--profile",
            PROFILE,
            "--no-promote",
            "--no-push",
            *said,
        ]
        threads = max(1, (os.cpu_count() or 1) // self.lanes)
        own = {"PYTHONPATH": str(lane), "MLFLOW_TRACKING_URI": ""}
        environment = {"OMP_NUM_THREADS": str(threads), **os.environ, **own}
        log = self._log(run)
        log.parent.mkdir(parents=True, exist_ok=True)
        last = [""]
        with log.open("a", encoding="utf-8") as stream:

            def take(line: str) -> None:
                print(line, file=stream, flush=True)
                if line.startswith(("error", "retraining failed", "ERROR")):
                    last[0] = line

            status = run_streamed(command, lane, environment, OutputLines(take), grace=GRACE, look=self._look)
        return status, last[0] or f"status {status}"

    def _look(self, running: Supervised) -> None:
        if self._stop.is_set():
            raise Stopped

    def _log(self, run: Run) -> Path:
        return self.ground.folder / "logs" / f"{run.seed}-{run.arm.name}.log"

    def _told(self, run: Run, seconds: float) -> str:
        results = self.ground.results(self.outcomes[run.place])
        scores = ", ".join(f"{name} {found.score.value:.1f}" for name, found in results.items())
        ended = {*self.outcomes, *self.failed}
        left = [one.arm.name for one in self.runs if one.place not in ended]
        minutes = time_left(left, self._took, self.lanes) / 60
        name = f"[{len(ended)}/{len(self.runs)}] seed {run.seed} {run.arm.name}"
        return f"{name}: {scores} in {seconds:.0f} s; about {minutes:.0f} min left"


def time_left(left: Sequence[str], took: Sequence[tuple[str, float]], lanes: int) -> float:
    """Seconds for the arms that are left, by what each took so far (an arm not run yet: the mean of all)."""
    if not took:
        return 0.0
    mean = sum(seconds for _, seconds in took) / len(took)
    each: dict[str, list[float]] = {}
    for name, seconds in took:
        each.setdefault(name, []).append(seconds)
    means = {name: sum(values) / len(values) for name, values in each.items()}
    return sum(means.get(name, mean) for name in left) / max(1, lanes)
