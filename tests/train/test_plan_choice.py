"""What plan chooses: the quickest way that fits, by trying them all; presets are its choice; hours by hand."""

from __future__ import annotations

import dataclasses
import functools
import json
import shutil
from pathlib import Path
from typing import get_args

import pytest
from micro import ROOT

from videollava.errors import InputError
from videollava.machine import Machine, Strategy, load_machine, preset_text
from videollava.params import Frames, load_params
from videollava.train.gpus import GPUS, find_gpu
from videollava.train.planning import outlook
from videollava.train.planning.choice import ALIKE, DEEPSPEED, FILLED, Case, look_at
from videollava.train.planning.hardware import hardware_of
from videollava.train.planning.hours import DISK, START
from videollava.train.planning.outlook import Outlook, look_ahead, plan, way_out
from videollava.train.planning.scale import Scale, bound_of, look_far
from videollava.train.planning.shape import model_of
from videollava.train.planning.text import as_text, machine_lines
from videollava.train.planning.typical import parse_samples

PAPER = ["pretrain=558000,702000,0", "finetune=625000,100000,40000"]
OWN = ["finetune=3000,2000,500"]


@functools.cache
def planned(profile: str, gpu: str, gpus: int, price: float = 0.0) -> Outlook:
    params = load_params(ROOT / f"videollava/profiles/{profile}.yaml")
    samples = parse_samples(OWN if profile == "own-24g" else PAPER)
    return plan(
        params,
        Machine(gpus=gpus, compile=True),
        Path("nowhere"),
        hardware_of(gpu, gpus),
        samples,
        price=price,
    )


@functools.cache
def scaled() -> Scale:
    params = load_params(ROOT / "videollava/profiles/paper-7b.yaml")
    return look_far(
        params, Machine(gpus=1), Path("nowhere"), hardware_of("H100", 1), parse_samples(PAPER), price=2.0
    )


def case_of(outlook: Outlook, stage: str) -> Case:
    return next(look.case for look in outlook.stages if look.stage == stage)


@pytest.mark.parametrize(
    ("preset", "profile", "gpu", "gpus"),
    [
        ("8x80g", "paper-7b", "H100", 8),
        ("8x80g", "paper-7b", "A100", 8),
        ("gpu-80g", "paper-7b-lora", "H100", 1),
        ("gpu-80g", "paper-7b-lora", "A100", 1),
        ("gpu-24g", "own-24g", "A10G", 1),
        ("gpu-24g", "own-24g", "L4", 1),
        ("slurm", "paper-7b", "H100", 16),
    ],
)
def test_a_preset_is_what_plan_chooses(
    tmp_path: Path, preset: str, profile: str, gpu: str, gpus: int
) -> None:
    (tmp_path / "machine.yaml").write_text(preset_text(preset))
    machine = load_machine(tmp_path, {})
    for look in planned(profile, gpu, gpus).stages:
        work = machine.work(look.stage)
        assert look.best is not None
        chosen = look.best.work
        names = ("strategy", "tokens_per_pack", "recompute")
        assert {n: getattr(work, n) for n in names} == {n: getattr(chosen, n) for n in names}
        assert work.ranks == gpus


def test_nothing_that_fits_is_quicker() -> None:
    """Every strategy, pack size and number of layers, for stage 2 of 7B on eight cards of 24 GB."""
    case = case_of(planned("paper-7b", "RTX 4090", 8), "finetune")
    best = look_ahead(case).best
    assert best is not None
    assert best.fits
    assert best.need.total <= FILLED * case.hardware.memory
    for size in (4096, 8192, 16384):
        for name in get_args(Strategy):
            for layers in range(case.layers + 1):
                way = look_at(case, case.work.replace(strategy=name, tokens_per_pack=size, recompute=layers))
                slack = (1 + ALIKE) * (1 + DEEPSPEED if name.startswith("zero") else 1)
                assert not way.fits or best.spending.total <= way.spending.total * slack


def test_paper_7b_on_eight_needs_neither_recompute_nor_offload() -> None:
    for look in planned("paper-7b", "H100", 8).stages:
        assert look.best is not None
        assert (look.best.work.strategy, look.best.work.recompute) == ("sharded", False)
    alone = planned("paper-7b", "H100", 1).stages[1].best
    assert alone is not None
    assert alone.work.strategy == "zero2-offload"
    assert alone.need.host > 90e9


def test_hours_are_their_parts() -> None:
    """By hand, on one GPU, where nothing is sent or waited for."""
    look = planned("paper-7b", "H100", 1).stages[0]
    way, load = look.best, look.case.load
    assert way is not None
    spent = way.spending
    assert spent.computing == pytest.approx(load.flops / (989e12 * 0.4))
    assert (spent.again, spent.sending) == (0, 0)
    assert spent.slowest == pytest.approx(0, abs=1)
    weights = look.case.weights
    assert spent.loading == pytest.approx(START + 2 * (weights.learned + weights.frozen) / DISK)
    assert spent.total == pytest.approx(spent.steps + spent.checkpoints + spent.loading + spent.validation)
    # Stage 1 is one forward and one backward pass: all layers again are half as much more of the language model's part.
    again = look_at(look.case, way.work.replace(recompute=True)).spending.again
    half = look_at(look.case, way.work.replace(recompute=16)).spending.again
    assert again == pytest.approx(load.language / (989e12 * 0.4))
    assert half == pytest.approx(again / 2)
    assert load.language == pytest.approx(load.flops / 2, rel=0.15)


def test_a_checkpoint_holds_the_steps_up_for_its_copy_alone() -> None:
    """12 bytes a weight that learns, an eighth of them on each GPU, at 50 GB/s every 15 minutes: less than 2 %."""
    look = planned("paper-7b", "H100", 8).stages[1]
    assert look.best is not None
    saving = look.best.saving
    assert saving.size == 12 * look.case.weights.learned
    assert saving.stall == pytest.approx(saving.size / 8 / 50e9)
    assert 0 < look.best.spending.share("checkpoints") < 0.02
    waited = look_at(look.case, look.case.work.replace(strategy="zero2"))
    assert waited.saving.stall == pytest.approx(saving.size / DISK)
    assert waited.spending.checkpoints > 50 * look.best.spending.checkpoints


def test_stored_frames_are_planned_with_their_own_bytes() -> None:
    params = load_params(ROOT / "videollava/profiles/paper-7b.yaml")
    frames = Frames(count=params.model.frames, size=params.model.image_size)
    stored = params.replace(shards=params.shards.replace(frames=frames))
    asked = (Machine(gpus=8), Path("nowhere"), hardware_of("H100", 8), parse_samples(PAPER))
    plain, planned = plan(params, *asked), plan(stored, *asked)
    clips = 702_000 + 100_000
    exact = 8 * 3 * 224 * 224 * 2
    assert planned.disk.data - plain.disk.data == pytest.approx(clips * (exact - 2e6))
    assert "`videollava shards --plan`" in as_text(plain)


def test_disks_are_planned_by_what_lies_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Clips as frames are smaller or larger than their files: neither is told by the other."""
    params = load_params(ROOT / "videollava/profiles/paper-7b.yaml")
    frames = Frames(count=params.model.frames, size=params.model.image_size, form="rounded")
    stored = params.replace(shards=params.shards.replace(frames=frames))
    monkeypatch.setattr(outlook, "_count_media", lambda _: {"image": 0, "video": 1000})
    for name, text in {
        "index/media.arrow": "",
        "index/shards.json": json.dumps([{"size": 300}, {"size": 50}]),
        "raw/a/source.json": json.dumps({"files": {"x": {"size": 4000}, "y": {"size": 1}}}),
        "raw/b/source.json": json.dumps({"files": {"x": {"size": 500}}}),
    }.items():
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / name).write_text(text)
    asked = (Machine(gpus=8), tmp_path, hardware_of("H100", 8), parse_samples(PAPER))
    assert [plan(chosen, *asked).disk.data for chosen in (params, stored)] == [4851, 4851]
    shutil.rmtree(tmp_path / "data/raw")
    assert plan(stored, *asked).disk.data == 700  # as much again, where nothing was fetched


def test_the_lines_to_write_are_a_machine_file(tmp_path: Path) -> None:
    outlook = planned("paper-7b", "H100", 16, 2.5)
    (tmp_path / "machine.yaml").write_text(machine_lines(outlook))
    machine = load_machine(tmp_path, {})
    for look in outlook.stages:
        assert look.best is not None
        work = machine.work(look.stage)
        assert (work.nodes, work.gpus, work.launcher) == (2, 8, "slurm")
        assert work.tokens_per_pack == look.best.work.tokens_per_pack
    told = as_text(outlook)
    assert f"{outlook.gpu_hours * 2.5:,.0f} USD" in told
    assert "whether reading keeps up: in pretrain each host must read" in told
    assert "GB/s between 2 hosts" in told


def test_what_fits_in_no_way_is_told_with_a_way_out() -> None:
    params = load_params(ROOT / "videollava/profiles/paper-7b.yaml")
    small = dataclasses.replace(hardware_of("L4", 1), memory=5 * 2**30)
    outlook = plan(params, Machine(gpus=1), Path("nowhere"), small, parse_samples(PAPER))
    assert outlook.stages[1].best is None
    assert "nothing fits" in as_text(outlook)
    said = way_out(outlook.stages[1].case, model_of(params, Path("nowhere")))
    assert "GPUs (" in said
    with pytest.raises(InputError, match="not every stage fits"):
        machine_lines(outlook)


def test_more_gpus_stop_paying_where_a_step_has_too_few_samples() -> None:
    rows = scaled().rows
    assert [row.gpus for row in rows] == [2**n for n in range(11)]
    assert max(row.efficiency for row in rows) == 1.0
    few = {row.gpus: row for row in rows}
    assert few[8].efficiency > 0.95
    assert {bound_of(way) for way in few[8].ways} == {"compute"}
    # 128 samples a step: of 1,024 GPUs 896 have nothing to do in stage 2.
    assert bound_of(few[1024].ways[1]) == "batch"
    assert few[1024].efficiency < 128 / 1024
    enough = scaled().enough
    assert enough is not None
    assert 16 <= enough.gpus <= 128
    assert few[1024].hours > 0.5 * few[enough.gpus].hours


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("NVIDIA A100-SXM4-80GB", "A100"),
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA H100 PCIe", "H100 PCIe"),
        ("NVIDIA L40S", "L40S"),
        ("NVIDIA L4", "L4"),
        ("NVIDIA L40", ""),
        ("NVIDIA RTX A6000", "A6000"),
        ("NVIDIA GeForce RTX 4090", "RTX 4090"),
        ("AMD Instinct MI300X", "MI300X"),
        ("rtx4090", "RTX 4090"),
        ("h100", "H100"),
        ("Tesla T4", ""),
    ],
)
def test_a_device_is_known_by_its_name(name: str, kind: str) -> None:
    assert find_gpu(name) == kind
    assert not kind or GPUS[kind].tflops > 50


def test_links_and_networks_may_be_stated() -> None:
    stated = hardware_of("h100", 16, 4, link=100, network=80)
    assert (stated.nodes, stated.here, stated.kind) == (4, 4, "H100")
    assert (stated.link, stated.network) == (pytest.approx(80e9), pytest.approx(8e9))
    table = hardware_of("RTX 4090", 2)
    assert table.link == pytest.approx(16e9)  # PCIe 4.0, half of it
