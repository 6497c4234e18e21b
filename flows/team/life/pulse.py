"""A flow run's sign of life, and what the server says of the run, read back.

    with beating(log.info) as pulse:             # in the flow `stage`, and in the coordinator's
        with pulse.over(workspace, "pretrain") as heard:
            run_stage(workspace, "pretrain", heard(log.info), ..., look=pulse.look)

The sign is a progress artifact on the run's page, changed every BEAT seconds. A run that is not this process's any more
(cancelled by a person, closed since its machine slept, taken up by another worker, waited for by nobody) is left:
every process of its stage is ended first, and its state stays what others made it. A server that does not answer ends
nothing.
"""

from __future__ import annotations

import contextvars
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import ArtifactCreate, ArtifactUpdate
from prefect.client.schemas.objects import State
from prefect.context import FlowRunContext
from prefect.exceptions import Abort, ObjectNotFound, TerminationSignal
from prefect.states import Cancelled

from flows.team.life.claims import Claims
from flows.team.life.progress import Progress
from flows.team.life.server import AWAY, Away, impatient_client
from flows.team.life.stalls import Vigil
from videollava.machine import load_machine
from videollava.process import Supervised

__all__ = ["KEY", "Pulse", "beating"]

KEY = "progress"  # of the artifact
BEAT = 10.0  # seconds between two signs of life
LOOK = 5.0  # between two looks at the run's state
WORKER_SECONDS = 5.0  # in which a worker that lives ends a cancelled run itself
LOST_SECONDS = 60.0  # how long a run that the server does not know is none of its
ENDING_SECONDS = 120.0  # that this process has to end once it is told to, beside the stages' own time
AWAY_SECONDS = 7200.0  # how long an end is kept for a server that is away


class Pulse:
    """Of the flow run `run_id`; does nothing where that is None."""

    def __init__(self, run_id: UUID | None, say: Callable[[str], None]) -> None:
        self.closed = ""  # why this run is not ours any more
        self.terms = Terms()
        self._cancelling = False
        self._run_id = run_id
        self._say = say
        self._state: UUID | None = None
        self._artifact: UUID | None = None
        self._written = self._known = self._answered = 0.0
        self._shown = ("at work", 0.0)
        self._vigil: Vigil | None = None
        self._claims = Claims()
        self._stop = threading.Event()
        self._grace = 0.0

    @contextmanager
    def over(
        self, workspace: Path, stage: str, parent: str = ""
    ) -> Iterator[Callable[[Callable[[str], None]], Callable[[str], None]]]:
        """Inside, `stage` is at work in `workspace`: its journal is what the run's page shows. Yields what makes of a
        `say` one that counts as life. parent: the retraining's journal, where several work beside each other.
        """
        machine = load_machine(workspace)
        work = machine.work(stage.partition("@")[0])
        vigil = self._vigil = Vigil(Progress(workspace, stage, parent), work)
        self._grace = work.ending_seconds

        def heard(say: Callable[[str], None]) -> Callable[[str], None]:
            def take(line: str) -> None:
                vigil.hear()
                say(line)

            return take

        try:
            yield heard
            self._shown = f"{stage}: done", 100.0
        finally:
            self._vigil = None

    def look(self, running: Supervised) -> None:
        """To be called every second or so of a stage's process; raises StageFailed (76) where it hangs."""
        if self._vigil:
            self._vigil.look(running)

    def run(self) -> None:
        """Beat until the end: in a thread of its own."""
        away = Away(self._say)
        while not self._stop.is_set():
            try:
                with impatient_client() as client:
                    self._beat_with(client, away)
            except AWAY as error:
                away.failed(error)
                self._stop.wait(LOOK)
            except Exception as error:  # whatever it is, a training does not end of it
                self._say(f"pulse: {type(error).__name__}: {error}")
                self._stop.wait(LOOK)

    def stop(self) -> None:
        """No sign from now on."""
        self._stop.set()

    def tell_done(self) -> None:
        """The last sign: what the page of a run that is over shows. For when the beats have stopped."""
        if self.closed or self._artifact is None:
            return
        self._shown = "done", 100.0
        with suppress(*AWAY, ObjectNotFound), impatient_client() as client:
            self._write(client)

    def wait_for_server(self, seconds: float = AWAY_SECONDS) -> None:
        """Return when the server answers: what the run came to is told once, and would be lost."""
        until, said = time.monotonic() + seconds, False
        while self._run_id and not self.closed and time.monotonic() < until:
            if time.monotonic() - self._answered < 2 * LOOK:
                return
            if not said:
                self._say("Prefect's server does not answer: the work is done, its end is told when it does")
                said = True
            time.sleep(1)

    def _beat_with(self, client: SyncPrefectClient, away: Away) -> None:
        while not self._stop.is_set():
            self._read_back(client)
            away.answered()
            now = time.monotonic()
            if not self.closed and now - self._written >= BEAT:
                self._write(client)
                self._written = now
            if self._stop.wait(LOOK):
                return

    def _read_back(self, client: SyncPrefectClient) -> None:
        assert self._run_id
        now = time.monotonic()
        try:
            run = client.read_flow_run(self._run_id)
        except ObjectNotFound:
            if self._known and now - self._known > LOST_SECONDS:
                self._leave("the server does not know this run any more")
            return
        self._known = self._answered = now
        if self.closed:
            return
        if run.state is None or not run.state.is_running() or self._state not in (None, run.state.id):
            self._cancelling = bool(run.state and run.state.is_cancelling())
            if self._cancelling and (self._stop.wait(WORKER_SECONDS) or self.terms.told):
                return  # its worker does it
            self._leave(f"this run was closed by somebody else: {_words(run.state)}")
            return
        self._state = run.state.id
        if self._claims.are_given_up(client, run, now):
            self._cancelling = True
            self._leave("nobody waits for this run any more")

    def _write(self, client: SyncPrefectClient) -> None:
        if self._vigil:
            progress = self._vigil.progress
            self._shown = progress.words(), progress.percent
        text, percent = self._shown
        if self._artifact is None:
            made = ArtifactCreate(
                key=KEY, type="progress", description=text, data=percent, flow_run_id=self._run_id
            )
            self._artifact = client.create_artifact(made).id
        else:
            client.update_artifact(self._artifact, ArtifactUpdate(description=text, data=percent))

    def _leave(self, why: str) -> None:
        """End this process by way of all that it started; by force where that takes too long."""
        self.closed = why
        self._say(f"{why}: what it started is ended")
        if not self.terms.told:  # a second one would take a stage the time for a last checkpoint
            os.kill(os.getpid(), signal.SIGTERM)
        if not self._stop.wait(self._grace + ENDING_SECONDS):
            os._exit(1)  # what it started ends with it

    def close_cancelled(self) -> None:
        """Say that the run is cancelled, where there is no worker who would."""
        if not (self._cancelling and self._run_id):
            return
        try:
            with impatient_client() as client:
                run = client.read_flow_run(self._run_id)
                if run.state and not run.state.is_final():
                    client.set_flow_run_state(self._run_id, Cancelled(message=self.closed), force=True)
        except (*AWAY, ObjectNotFound):
            return  # whoever waits closes it


@contextmanager
def beating(say: Callable[[str], None]) -> Iterator[Pulse]:
    """Inside, this process's flow run gives signs of life; it ends, with all it started, where somebody closed it.

    say: from another thread, too. Outside a flow run nothing of it happens.
    """
    context = FlowRunContext.get()
    run_id = context.flow_run.id if context and context.flow_run else None
    pulse = Pulse(run_id, say)
    if run_id is None:
        yield pulse
        return
    # With this thread's settings: the server may be one of its own.
    beat = partial(contextvars.copy_context().run, pulse.run)
    thread = threading.Thread(target=beat, name="pulse", daemon=True)
    done = False
    with pulse.terms:
        thread.start()
        try:
            yield pulse
        except TerminationSignal:
            if not pulse.closed:
                raise
            pulse.close_cancelled()
            raise Abort(pulse.closed) from None
        except Exception:
            pulse.wait_for_server()
            raise
        else:
            pulse.wait_for_server()
            done = True
        finally:
            pulse.stop()
            thread.join(LOOK)
            if done:
                pulse.tell_done()


class Terms:
    """Whether this process was told to end (SIGTERM), by whomever. A context.

    Prefect's own handler stays where it is: it takes a cancellation for one only while it is there.
    """

    def __init__(self) -> None:
        self._told = False
        self._before = -1
        self._read = self._write = -1

    def __enter__(self) -> Terms:
        if threading.current_thread() is threading.main_thread():
            self._read, self._write = os.pipe()
            os.set_blocking(self._read, False)
            os.set_blocking(self._write, False)
            self._before = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        return self

    def __exit__(self, *_: object) -> None:
        if self._write >= 0:
            signal.set_wakeup_fd(self._before)
            numbers, self._read, self._write = (self._read, self._write), -1, -1
            for number in numbers:
                os.close(number)

    @property
    def told(self) -> bool:
        """Until now."""
        with suppress(OSError):  # nothing new, or not in a main thread
            self._told = self._told or signal.SIGTERM in os.read(self._read, 4096)
        return self._told


def _words(state: State[Any] | None) -> str:
    if state is None:
        return "it has no state"
    return f"{state.name}{f' ({state.message})' if state.message else ''}"
