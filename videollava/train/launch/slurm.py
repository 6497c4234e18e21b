"""One job of Slurm for a stage: submitted, its log shown, its state followed, cancelled when it is not wanted any more.

    python -m videollava.train.launch.slurm FOLDER NAME

runs under the launcher's supervisor and so ends when the launcher does, however that ends: it cancels the job then.
The job is `nodes` tasks of agent.py. Slurm requeues it itself where it loses a node; training goes on from the last
checkpoint then. Plain sbatch, scontrol and scancel: no accounting database is needed.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from videollava.environment import RANKS, SUPERVISED
from videollava.errors import InputError
from videollava.machine import Slurm, Work
from videollava.train.launch.agent import SECONDS
from videollava.train.launch.attempts import CANCELLED, STOPPED, forget_pulses, stop_once

__all__ = ["main", "write_job"]

POLL = 2.0
ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "OUT_OF_MEMORY", "DEADLINE", "BOOT_FAIL", "NODE_FAIL")
SETTLING = 30.0  # seconds that a job may be NODE_FAIL before Slurm requeues it
VERDICT = 900  # seconds in which Slurm sees that a node is lost
OVERTIME = 124
SCRIPT = """\
#!/bin/bash
{options}
unset {supervised}
export {folder_name}={folder} PYTHONPATH={path} PYTHONUNBUFFERED=1 {seconds_name}={seconds}
{setup}
srun {srun} {command}
status=$?
attempt={folder}/{name}.${{SLURM_RESTART_COUNT:-0}}
if [ -e "$attempt/again" ]; then
    echo "a last checkpoint is made; the job is queued again and goes on from there"
    scontrol requeue "$SLURM_JOB_ID" && sleep 60
fi
if [ -e "$attempt/lost" ]; then
    # Slurm sees it too, in its own time, and starts the job again.
    echo "a node of the job is lost; waiting for Slurm to requeue it"
    sleep {verdict}
    scontrol requeue "$SLURM_JOB_ID"
    sleep 60
fi
exit $status
"""


def write_job(
    folder: Path, name: str, stage: str, work: Work, asked: Slurm, agent: Sequence[str], path: str
) -> Path:
    """The job's script in the launch's folder. path: PYTHONPATH on the nodes."""
    python = "python3" if asked.container else sys.executable
    container = []
    if asked.container:
        container = [f"--container-image={asked.container}", f"--container-mounts={Path.cwd()}:{Path.cwd()}"]
        container += [f"--container-workdir={Path.cwd()}"]
    cpus = [f"--cpus-per-task={asked.cpus * work.per_node}"] if asked.cpus else []
    script = folder / "job.sh"
    script.write_text(
        SCRIPT.format(
            options="\n".join(
                f"#SBATCH {option}" for option in [*_options(folder, name, stage, work, asked), *cpus]
            ),
            supervised=SUPERVISED,
            folder_name=RANKS,
            folder=shlex.quote(str(folder)),
            seconds_name=SECONDS,
            seconds=asked.notice_seconds,
            path=shlex.quote(path),
            setup="\n".join(asked.setup),
            srun=shlex.join(["--kill-on-bad-exit=1", *cpus, *container]),
            command=shlex.join([python, "-P", *agent]),
            name=name,
            verdict=VERDICT,
        )
    )
    return script


def _options(folder: Path, name: str, stage: str, work: Work, asked: Slurm) -> Iterator[str]:
    yield f"--job-name=videollava-{stage}-{name}"
    yield f"--chdir={Path.cwd()}"
    yield f"--output={folder}/job.log"
    yield from (
        "--open-mode=append",
        "--requeue",
        f"--signal=TERM@{asked.notice_seconds}",
        "--ntasks-per-node=1",
    )
    yield f"--nodes={work.nodes}"
    if work.gpus:
        yield f"--gres=gpu:{work.per_node}"
    wishes = {"mem": asked.memory} | {
        key: getattr(asked, key) for key in ("partition", "account", "qos", "time", "constraint")
    }
    for key, value in wishes.items():
        if value:
            yield f"--{key}={value}"
    yield from asked.options


def submit(script: Path) -> str:
    """The job's number. InputError with Slurm's own words where it refuses it."""
    done = subprocess.run(["sbatch", "--parsable", str(script)], capture_output=True, text=True)
    if done.returncode == 0:
        return done.stdout.strip().partition(";")[0]
    words = re.sub(r"(?m)^sbatch: (error: )?", "", done.stderr).strip().splitlines() or ["no reason given"]
    partitions = _run("sinfo", "-h", "-o", "%R").split()
    known = f" (partitions: {', '.join(sorted(set(partitions)))})" if partitions else ""
    raise InputError(f"Slurm refuses the job: {words[-1]}{known}: see slurm in machine.yaml")


class _Log:
    """The job's output, shown as it comes."""

    def __init__(self, file: Path) -> None:
        self.file, self.offset = file, 0

    def show(self) -> None:
        if not self.file.is_file():
            return
        with open(self.file, "rb") as stream:
            stream.seek(self.offset)
            while block := stream.read(1 << 16):
                self.offset += len(block)
                sys.stdout.buffer.write(block)
        sys.stdout.buffer.flush()


def main(folder: Path, name: str) -> int:
    """Submit the job of a launch and stay with it to its end; its exit status."""
    stop_once()
    try:
        job = submit(folder / "job.sh")
        return _follow(job, folder)
    except InputError as error:
        (folder / "reason").write_text(str(error))
        return 2
    finally:
        _cancel(f"videollava-{name}")


def _follow(job: str, folder: Path) -> int:
    log, told, failing = _Log(folder / "job.log"), "", 0.0
    while True:
        facts = _facts(job)
        state = facts.get("JobState", told)
        if state != told:
            _say(job, state, facts)
            told = state
        if state != "RUNNING":
            forget_pulses(folder)
        log.show()
        failing = failing + POLL if state == "NODE_FAIL" else 0.0
        if state in ENDED and (state != "NODE_FAIL" or failing > SETTLING):
            log.show()
            return _status(job, state, facts, folder)
        time.sleep(POLL)


def _facts(job: str) -> dict[str, str]:
    """What Slurm says of a job; nothing where it does not answer."""
    return dict(
        word.split("=", 1) for word in _run("scontrol", "show", "job", "-o", job).split() if "=" in word
    )


def _say(job: str, state: str, facts: Mapping[str, str]) -> None:
    where = {"RUNNING": f" on {facts.get('NodeList')}", "PENDING": f" ({facts.get('Reason')})"}.get(state, "")
    again = facts.get("Restarts", "0")
    started = f", started again {again} times" if again != "0" else ""
    print(f"job {job} of Slurm: {state.lower()}{where}{started}", flush=True)


def _status(job: str, state: str, facts: Mapping[str, str], folder: Path) -> int:
    code, _, number = facts.get("ExitCode", "1:0").partition(":")
    if state == "COMPLETED":
        return 0
    status = int(code) or 128 + int(number or 0)
    reason = f"job {job} of Slurm ended: {state.lower()}"
    if state == "TIMEOUT":
        status = OVERTIME
        reason += f" after {facts.get('TimeLimit')} (slurm.time): run the stage again, it goes on from its checkpoint"
    elif state == "CANCELLED":
        status, reason = STOPPED, f"job {job} of Slurm was cancelled"
        (folder / CANCELLED).touch()
    elif not (folder / "job.log").is_file():
        reason += f"; its log did not come to {folder}: the nodes need to share this folder"
    (folder / "reason").write_text(reason)
    return status if status != 128 else 1


def _cancel(name: str) -> None:
    """End the job, if there still is one, and wait until Slurm has no process of it; ranks may make a checkpoint."""
    if not (jobs := _run("squeue", "-h", "--name", name, "-o", "%A").split()):
        return
    subprocess.run(["scancel", *jobs], check=False)
    deadline = time.monotonic() + float(os.environ.get(SECONDS, "0"))
    while _run("squeue", "-h", "--name", name, "-o", "%A").strip():
        time.sleep(POLL / 4)
        if time.monotonic() > deadline:
            subprocess.run(["scancel", "--signal=KILL", *jobs], check=False, stderr=subprocess.DEVNULL)


def _run(*command: str) -> str:
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2]))
