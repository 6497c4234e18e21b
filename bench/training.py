"""Ours against the padded way: the same model, samples and optimiser, in turn in one run.

    python bench/training.py [--stage 1|2] [--rounds N] [--geometry small|7b]

The padded way is what a user writes: transformers' own VideoLlavaForConditionalGeneration, its Trainer, a collator that
pads. Ours is videollava's loop: packs, variable-length attention, the head at targets alone. Samples have the paper's
mix (stage 1: short captions of images and videos; stage 2: conversations, mostly about images) with all lengths about a
seventh of the paper's on a CPU, and the paper's own with `--geometry 7b` (CUDA, random weights, bfloat16). Without
temporal attention, which transformers' class lacks: so both compute the same loss, before and after, on held-out samples.
Each run is a process of its own, so that its peak memory is its own.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from padding.models import choose, configure, image_argument, make_ours, make_theirs
from padding.ours import now, train_packed
from padding.samples import GEOMETRIES, IGNORED, STAGES, Geometry, Pad, Samples, Stage, pack

RATES = ("samples_per_second", "samples_per_cpu_second", "tokens_per_second", "flops_per_second")


def run_ours(
    stage: Stage, shape: Geometry, samples: Samples, held_out: Samples, device: torch.device
) -> dict[str, Any]:
    """Train with videollava's loop, in a process that is set up as a stage's."""
    from videollava.environment import keep_freed_memory
    from videollava.machine import Work
    from videollava.params import Train
    from videollava.train.instruct import forward
    from videollava.train.recompute import recompute_layers

    keep_freed_memory()
    model = make_ours(shape, device)
    learned = choose(model, stage)
    settings = Train(learning_rate=stage.rate, precision="bf16" if shape.precision == "bf16" else "fp32")
    work = Work(tokens_per_pack=shape.tokens_per_pack, recompute=shape.checkpointing, workers=0)
    recompute_layers(model.model.language_model, work)
    asked = [pack([held_out[row]], shape) for row in range(len(held_out))]
    before = loss_of(model, asked, forward, device)
    start = memory(device)
    run = train_packed(model, [{"params": learned, "lr": stage.rate}], stage, samples, settings, work)
    peak = memory(device) - start
    after = loss_of(model.eval(), asked, forward, device)
    # The first step warms up.
    done = np.concatenate([run.samples_of(step) for step in range(1, len(run.plan))])
    return figures(run.ends[1:], run.ends[0], done, samples, run.cost, peak, before, after)


@torch.no_grad()
def loss_of(model: Any, batches: list[Any], forward: Any, device: torch.device) -> float:
    """Mean loss per target over these batches."""
    total = sum(float(forward(model, batch, 1.0)) for batch in batches)
    return total / sum(len(batch.targets) for batch in batches)


def run_theirs(
    stage: Stage, shape: Geometry, samples: Samples, held_out: Samples, device: torch.device
) -> dict[str, Any]:
    """Train with transformers' class and Trainer."""
    from transformers import Trainer, TrainerCallback, TrainingArguments

    from videollava.train.lengths import prices_of

    model = make_theirs(shape, device)
    choose(model, stage)
    pad = Pad(image_argument(model))

    @torch.no_grad()
    def held_out_loss() -> float:
        total = count = 0.0
        for row in range(len(held_out)):
            batch = {name: value.to(device) for name, value in pad([held_out[row]]).items()}
            if "pixel_values_videos" in batch or pad.image_name in batch:
                batch = {n: v.to(model.dtype) if v.is_floating_point() else v for n, v in batch.items()}
            targets = int((batch["labels"] != IGNORED).sum())
            total, count = total + float(model(**batch).loss) * targets, count + targets
        return total / count

    class Clock(TrainerCallback):  # type: ignore[misc]
        times: list[tuple[float, float]] = []  # noqa: RUF012

        def on_step_end(self, *_: Any, **__: Any) -> None:
            if device.type == "cuda":
                torch.cuda.synchronize()
            self.times.append(now())

    before = held_out_loss()
    start = memory(device)
    with tempfile.TemporaryDirectory() as folder:
        options = TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=stage.padded_batch,
            gradient_accumulation_steps=stage.batch // stage.padded_batch,
            num_train_epochs=1,
            learning_rate=stage.rate,
            lr_scheduler_type="cosine",
            warmup_steps=max(1, round(0.03 * len(samples) / stage.batch)),
            weight_decay=0.0,
            max_grad_norm=1.0,
            bf16=shape.precision == "bf16",
            use_cpu=device.type == "cpu",
            **({"gradient_checkpointing": True} if shape.checkpointing else {}),
            remove_unused_columns=False,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            logging_strategy="no",
            seed=0,
        )
        clock = Clock()
        Trainer(
            model=model, args=options, train_dataset=samples, data_collator=pad, callbacks=[clock]
        ).train()
    peak = memory(device) - start
    after = held_out_loss_in_eval(model, held_out_loss)
    counts = [(samples.kinds == kind).astype(np.int64) for kind in (0, 1)]
    ours = configure(shape)
    cost = prices_of(ours, stage.language_learns).cost(samples.tokens, samples.targets, *counts)
    # Every sample but those of the first step; which these are makes no difference to a mean over all of them.
    share = 1 - min(1.0, stage.batch / len(samples))
    whole = figures(
        clock.times[1:], clock.times[0], np.arange(len(samples)), samples, cost, peak, before, after
    )
    for name in RATES:
        whole[name] *= share
    return whole


def held_out_loss_in_eval(model: Any, loss: Any) -> float:
    """Trainer leaves the model in training mode."""
    model.eval()
    return float(loss())


def figures(
    ends: list[tuple[float, float]],
    begin: tuple[float, float],
    done: np.ndarray[Any, Any],
    samples: Samples,
    cost: np.ndarray[Any, Any],
    peak: float,
    before: float,
    after: float,
) -> dict[str, Any]:
    """Rates over the steps after the first."""
    seconds, cpu_seconds = ends[-1][0] - begin[0], ends[-1][1] - begin[1]
    return {
        "samples_per_second": len(done) / seconds,
        "samples_per_cpu_second": len(done) / cpu_seconds,
        "tokens_per_second": float(samples.tokens[done].sum()) / seconds,
        "flops_per_second": float(cost[done].sum()) / seconds,
        "peak_mib": peak / 2**20,
        "loss_before": before,
        "loss_after": after,
    }


def memory(device: torch.device) -> float:
    """Peak bytes so far: of the device, or of this process."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0


def child(way: str, number: int, name: str, count: int, padded_batch: int) -> None:
    """One run; its figures as the last line. padded_batch: samples padded together, 0 for the stage's own."""
    import transformers

    transformers.utils.logging.set_verbosity_error()
    stage, shape = STAGES[number], GEOMETRIES[name]
    stage = dataclasses.replace(stage, padded_batch=padded_batch or stage.padded_batch)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    samples, held_out = Samples(stage, shape, count, seed=1), Samples(stage, shape, 32, seed=2)
    run = run_ours if way == "ours" else run_theirs
    print(json.dumps(run(stage, shape, samples, held_out, device)))


def measure(number: int, geometry: str, count: int, rounds: int) -> Iterator[str]:
    """Both ways in turn, `rounds` times; lines of a report, the best round of each counted."""
    results: dict[str, list[dict[str, Any]]] = {"padded": [], "ours": []}
    for _ in range(rounds):
        for way, found in results.items():
            command = [sys.executable, __file__, "--child", way, "--stage", str(number)]
            command += ["--geometry", geometry, "--samples", str(count)]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                raise SystemExit(done.stderr[-3000:])
            found.append(json.loads(done.stdout.strip().splitlines()[-1]))
    best = {way: max(found, key=lambda run: run["samples_per_second"]) for way, found in results.items()}
    for way, run in best.items():
        peaks = min(found["peak_mib"] for found in results[way])
        yield (
            f"stage {number} {way:7} {run['samples_per_second']:8.2f} samples/s {run['tokens_per_second']:9.0f} real tokens/s "
            f"{run['flops_per_second'] / 1e9:9.1f} GFLOP/s{mfu(run)}  peak +{peaks:.0f} MiB  "
            f"held-out loss {run['loss_before']:.6f} -> {run['loss_after']:.4f}"
        )
    ours, theirs = best["ours"], best["padded"]
    cpu = max(run["samples_per_cpu_second"] for run in results["ours"])
    cpu /= max(run["samples_per_cpu_second"] for run in results["padded"])
    yield (
        f"stage {number} ratio   {ours['samples_per_second'] / theirs['samples_per_second']:.2f}x samples/s "
        f"({cpu:.2f}x by CPU time), "
        f"{ours['peak_mib'] / max(1.0, theirs['peak_mib']):.2f}x peak memory, "
        f"loss before differs by {abs(ours['loss_before'] - theirs['loss_before']):.1e}"
    )


def mfu(run: dict[str, Any]) -> str:
    """Share of the device's peak, on CUDA."""
    if not torch.cuda.is_available():
        return ""
    from videollava.train.engine import peak_flops

    peak = peak_flops(torch.device("cuda", 0))
    return f"  MFU {run['flops_per_second'] / peak:.1%}" if peak else ""


def main() -> None:
    """Print the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stage", type=int, choices=(1, 2), help="default: both")
    parser.add_argument("--geometry", choices=tuple(GEOMETRIES), help="default: small on a CPU, 7b on CUDA")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--samples", type=int, default=0, help="default: 8 optimiser steps")
    parser.add_argument("--padded-batch", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--child", choices=("ours", "padded"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    geometry = arguments.geometry or ("7b" if torch.cuda.is_available() else "small")
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    if arguments.child:
        child(arguments.child, arguments.stage, geometry, arguments.samples, arguments.padded_batch)
        return
    for number in (arguments.stage,) if arguments.stage else (1, 2):
        count = arguments.samples or 8 * STAGES[number].batch
        for line in measure(number, geometry, count, arguments.rounds):
            print(line, flush=True)


if __name__ == "__main__":
    main()
