"""Checkpoints as the loop knows them: when one is due, a snapshot on the step, the writing beside it.

The snapshot is all that training waits for. A thread writes it (hashing as it writes), takes the files to the place,
and rank 0's seals the whole once all ranks are done. A write that fails is said, the one before it stays, and training
goes on; anything else that goes wrong in the thread is raised in the loop.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from videollava.tracking import log_metrics
from videollava.train.launch.meeting import Together
from videollava.train.launch.pulse import CHECKPOINT, RESUMING, during
from videollava.train.saving.engines import Kept
from videollava.train.saving.files import Sum
from videollava.train.saving.places import FORMAT, Place
from videollava.train.saving.resuming import read_newest, read_other

__all__ = ["Saver"]


@dataclass
class Written:
    """What became of a save: bytes of all ranks and seconds, or why there is none."""

    step: int
    nbytes: int = 0
    seconds: float = 0.0
    trouble: str = ""


class Saver:
    """A job's checkpoints; a context, in which at most one is being written at a time.

    about: what a checkpoint must have been made with, to be gone on from. patience: seconds for which a run that fails
    waits for the one being written. logged_before: steps of earlier jobs in the journal. All ranks make it, and call
    `resume`, `save` and `close`, at the same points.
    """

    def __init__(
        self,
        name: str,
        place: Place,
        kept: Kept,
        about: Mapping[str, Any],
        patience: float = 60.0,
        logged_before: int = 0,
    ) -> None:
        self.name, self.place, self.kept = name, place, kept
        self.about = {**about, **kept.about()}
        self.patience, self.logged_before = patience, logged_before
        self._ranks, self._writers = Together(), Together("checkpoints")
        self._thread: threading.Thread | None = None
        self._written: Written | None = None
        self._error: BaseException | None = None
        self._said = False
        self.went_on_from = ""  # the checkpoint of another run

    def resume(self, other: Path | None = None) -> tuple[int, Mapping[str, Any]]:
        """Read the newest whole checkpoint, if there is one: its steps (0: none) and what was told of it.

        other: a checkpoint's folder to begin from where this run has none of its own yet. InputError where it isn't
        of such a run, or the place can't hold what will come.
        """
        with during(RESUMING):
            if self._ranks.first:
                self.place.room(self.kept.nbytes())
            found = read_newest(self.place, self.kept, self.about, self._ranks)
            if found is None and other is not None:
                found = read_other(other, self.kept, self.about, self._ranks)
                self.went_on_from = f"{other.parent.name}/{other.name}"
            elif found is not None:
                self.went_on_from = str(found.about.get("went_on_from", ""))
        return (found.step, found.about) if found else (0, {})

    def is_free(self) -> bool:
        """Whether a checkpoint that is due now can be written; where it has to wait for the one before, that's said."""
        if self._thread is None or not self._thread.is_alive():
            return True
        if not self._said:
            print(
                f"{self.name}: a checkpoint is due, and the one before is still being written: it waits for its turn "
                "(a faster place, or more checkpoint_minutes)",
                flush=True,
            )
            self._said = True
        return False

    def save(self, step: int, told: Mapping[str, Any], wait: bool = False) -> None:
        """Keep the state after `step` steps, and `told` with it. wait: until it is written, or is not."""
        began = time.perf_counter()
        with during(CHECKPOINT):
            self._join()
            self.kept.snapshot()
            self._begin(step, told)
            if wait or not self.kept.beside:
                self._join()
        self._said = False
        log_metrics(self.logged_before + step, checkpoint_stall_seconds=time.perf_counter() - began)
        self.check()

    def check(self) -> None:
        """Log what has been written since; raise what went wrong in the thread, if it was no failing write."""
        written, self._written = self._written, None
        if written is not None and not written.trouble:
            log_metrics(
                self.logged_before + written.step,
                checkpoint_bytes=written.nbytes,
                checkpoint_seconds=written.seconds,
            )
        error, self._error = self._error, None
        if error is not None:
            raise error

    def close(self) -> None:
        """Wait for what is being written."""
        with during(CHECKPOINT):
            self._join()
        self.kept.free()
        self.check()

    def __enter__(self) -> Saver:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self.close()
        elif self._thread is not None:
            # The run failed: what it kept before should stand. Other ranks may be gone, and then it never will.
            self._thread.join(self.patience)
            if self._thread.is_alive():
                print(f"{self.name}: the checkpoint being written was dropped", flush=True)

    def _join(self) -> None:
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _begin(self, step: int, told: Mapping[str, Any]) -> None:
        """Write in a thread; where the engine can't, here, and only the rest in the thread."""
        about = {**self.about, **told, **({"went_on_from": self.went_on_from} if self.went_on_from else {})}
        if not self.kept.beside:
            files, failure = self._attempt(step)
            arguments = (step, about, files, failure)
            self._thread = _thread(self._finish, *arguments)
        else:
            self._thread = _thread(self._write, step, about)
        self._thread.start()

    def _write(self, step: int, about: dict[str, Any]) -> None:
        self._finish(step, about, *self._attempt(step))

    def _attempt(self, step: int) -> tuple[dict[str, Sum], str]:
        """This rank's files, or why there are none: the others hear of it, so that nobody waits."""
        self._began = time.perf_counter()
        try:
            return self.kept.write(self.place.aside(step)), ""
        except (OSError, MemoryError) as error:
            return {}, _words(error)
        except BaseException as error:
            self._error = error
            return {}, _words(error)

    def _finish(self, step: int, about: dict[str, Any], files: dict[str, Sum], trouble: str) -> None:
        """Take this rank's files to the place; rank 0 seals when all have."""
        try:
            if not trouble:
                trouble = self._put(step, files)
            heard = self._writers.collect((files, trouble))
            written = Written(step)
            if self._writers.first:
                written = self._seal(step, about, heard)
            written = self._writers.hear(written)
            written.seconds = time.perf_counter() - self._began
            self._written = written
        except BaseException as error:
            self._error = error

    def _put(self, step: int, files: Mapping[str, Sum]) -> str:
        try:
            for name in files:
                self.place.put(step, name)
        except OSError as error:
            return _words(error)
        except BaseException as error:
            self._error = error
            return _words(error)
        return ""

    def _seal(self, step: int, about: dict[str, Any], heard: list[tuple[dict[str, Sum], str]]) -> Written:
        """Let the checkpoint stand, where every rank has written its part."""
        trouble = next((f"rank {rank}: {words}" for rank, (_, words) in enumerate(heard) if words), "")
        files = {name: asdict(told) for part, _ in heard for name, told in part.items()}
        if not self.kept.beside:
            about = about | {"by_rank": [sorted(part) for part, _ in heard]}
        manifest = {"format": FORMAT, "step": step, "about": about, "files": files}
        try:
            if not trouble:
                self.place.seal(step, manifest)
        except OSError as error:
            trouble = _words(error)
        except BaseException as error:
            self._error = error
            trouble = _words(error)
        if trouble:
            print(f"checkpoint of step {step} not written ({trouble}): the one before it stays", flush=True)
            self._drop(step)
        return Written(step, sum(told["size"] for told in files.values()), trouble=trouble)

    def _drop(self, step: int) -> None:
        try:
            self.place.drop(step)
        except OSError as error:
            print(f"what was written of it stays too ({_words(error)})", flush=True)


def _thread(target: Callable[..., None], *arguments: Any) -> threading.Thread:
    # A daemon, since a rank that is gone would hold up the end of one that failed.
    return threading.Thread(target=target, args=arguments, name="checkpoint", daemon=True)


def _words(error: BaseException) -> str:
    strerror = getattr(error, "strerror", None)
    return str(strerror or error or type(error).__name__)
