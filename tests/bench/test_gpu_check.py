"""The check of a GPU, in small on a CPU: a part that fails costs the others nothing, and each tells what it found."""

from __future__ import annotations

import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bench.gpu_check import bundle, environment, generation, stages, steps
from bench.gpu_check.__main__ import main as run_check
from bench.gpu_check.parts import GROUPS, Outcome, Part, run_group
from bench.gpu_check.report import table
from bench.gpu_check.told import Row, read_rows
from bench.padding.samples import Geometry, Stage

ROOT = Path(__file__).parents[2]
FINDS = "from bench.gpu_check.told import tell\ntell('first', figure=1.5)\n"
MODULES = {
    "part_that_ends": FINDS,
    "part_that_raises": FINDS + "raise RuntimeError('no such kernel')\n",
    "part_that_hangs": FINDS + "import subprocess; subprocess.run(['sleep', '600'])\n",
}


def run_parts(
    folder: Path, names: Sequence[str], monkeypatch: pytest.MonkeyPatch, **limits: float
) -> list[Outcome]:
    """Parts of these modules in one group, a minute left."""
    for name, code in MODULES.items():
        (folder / f"{name}.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(folder))
    parts = [Part(name, name, limits.get(name, 30)) for name in names]
    return run_group(parts, time.monotonic() + 60, folder, ())


def test_a_part_that_raises_or_hangs_is_reported_and_the_rest_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcomes = run_parts(tmp_path, list(MODULES), monkeypatch, part_that_hangs=4)
    found = {outcome.part: outcome for outcome in outcomes}
    assert found["part_that_ends"].status == "done"
    assert found["part_that_raises"].status == "failed (1)"
    assert found["part_that_raises"].said[-1] == "RuntimeError: no such kernel"
    assert found["part_that_hangs"].status == "stopped after its 4 s"
    # What was found before stays.
    assert all(outcome.rows == [{"what": "first", "figure": 1.5}] for outcome in outcomes)
    assert [outcome.failed for outcome in outcomes] == [False, True, True]
    shown = table(outcomes)
    assert "| | first | figure 1.5 |" in shown
    assert "RuntimeError: no such kernel" in shown


def test_a_part_ends_at_its_own_limit_and_tells_its_own_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = ["part_that_hangs", "part_that_ends"]
    hung, ended = run_parts(tmp_path, parts, monkeypatch, part_that_hangs=8)
    assert (hung.part, ended.part) == tuple(parts)
    assert hung.seconds >= 8
    assert ended.seconds < hung.seconds  # not as long as what began before it


def test_a_part_without_time_left_is_left_out_with_a_word(tmp_path: Path) -> None:
    (outcome,) = run_group([Part("late", "nowhere", 30)], time.monotonic() + 3, tmp_path, ())
    assert outcome.status == "left out: 3 s were left"
    assert not outcome.failed


def test_a_row_cut_off_by_a_kill_is_left_out() -> None:
    assert list(read_rows(['@row {"what": "a"}', "words", '@row {"what": "b', ""])) == [{"what": "a"}]


def test_every_part_is_a_module_that_is_there() -> None:
    parts = [part for group in GROUPS for part in group]
    assert len({part.name for part in parts}) == len(parts)
    for part in parts:
        assert (ROOT / f"{part.module.replace('.', '/')}.py").is_file()


def wheel(file: Path) -> None:
    """As bitsandbytes' is: code, libraries, metadata."""
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("bitsandbytes/__init__.py", "here = True\n")
        for name in ("cpu", "cuda128", "cuda130", "rocm70"):
            archive.writestr(f"bitsandbytes/libbitsandbytes_{name}.so", "x" * 1000)
        info = "bitsandbytes-1.0.dist-info"
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: bitsandbytes\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")


def test_one_release_of_cuda_travels_and_the_wheel_still_installs(tmp_path: Path) -> None:
    file = tmp_path / "bitsandbytes-1.0-py3-none-any.whl"
    wheel(file)
    bundle.slim(file, "130")
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps"]
    subprocess.run([*command, "--target", str(tmp_path / "to"), str(file)], check=True)
    libraries = sorted(path.name for path in (tmp_path / "to/bitsandbytes").glob("*.so"))
    assert libraries == ["libbitsandbytes_cpu.so", "libbitsandbytes_cuda130.so"]


def test_a_cuda_that_the_wheel_lacks_is_named(tmp_path: Path) -> None:
    file = tmp_path / "bitsandbytes-1.0-py3-none-any.whl"
    wheel(file)
    with pytest.raises(SystemExit, match="no library for CUDA 140: it has cpu, cuda128, cuda130, rocm70"):
        bundle.slim(file, "140")


def test_a_bundle_over_its_limit_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny/data").write_bytes(bytes(bundle.DATA_LIMIT))
    assert bundle.say_size(tmp_path) == 0
    (tmp_path / "tiny/more").write_bytes(b"1")
    assert bundle.say_size(tmp_path) == 1
    assert "8 MB of them data" in capsys.readouterr().err


def test_every_wheel_has_a_pin() -> None:
    assert [pin.partition("==")[0] for pin in bundle.pins()] == list(bundle.LACKING)


def test_ways_that_do_not_fit_are_timed_at_half_the_layers(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def need(shape: Geometry, stage: Stage, way: steps.Way) -> float:
        return shape.language["layers"] * (1 if way.recompute else 2)

    monkeypatch.setattr(steps, "predicted", need)
    monkeypatch.setattr(
        steps, "Room", lambda device: SimpleNamespace(total=2.1 / steps.FILLED, start=lambda: None)
    )
    assert steps.main(["--small", "--stage", "pretrain"]) == 0
    told = list(read_rows(capsys.readouterr().out.splitlines()))
    shown = [found.get("layers", found["what"].partition(",")[2]) for found in told]
    on, off = " recompute on, compile off", " recompute off, compile off"
    assert shown == ["all 2", on, on, "1 of 2, at full width", on, off, off]


def test_a_folder_that_is_no_bundle_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_check(["--bundle", str(tmp_path)]) == 2
    assert "is no bundle: make one with `make gpu-check-bundle`" in capsys.readouterr().err


def row(losses: Sequence[float], answers: Sequence[str] = ()) -> Row:
    return {"losses": list(losses), "answers": list(answers), "seconds": 1.0}


@pytest.mark.parametrize(
    ("found", "agrees"),
    [
        (row([2.0001, 1.001]), True),
        (row([2.01, 1.0]), False),  # the first step is more than 1e-4 off
        (row([2.0, 1.02]), False),  # the last is more than 1e-2 off
        (row([2.0]), False),  # a step is missing
        ({"error": "RuntimeError: no such kernel"}, False),
    ],
)
def test_float32_losses_are_held_against_the_cpus(found: Row, agrees: bool) -> None:
    reference, rounded = row([2.0, 1.0]), row([2.1, 1.1])
    figures, good = stages.beside({"cpu fp32": reference, "cuda fp32": found, "cuda bf16": rounded})
    assert good is agrees
    # Bfloat16 is told, and not held to it.
    assert figures["cuda bf16 off by (first, most)"] == pytest.approx([0.05, 0.1])


def rows_of(
    main: Callable[..., int], capsys: pytest.CaptureFixture[str], *options: str
) -> dict[str, dict[str, Any]]:
    assert main([*options, "--small"]) == 0
    return {found["what"]: found for found in read_rows(capsys.readouterr().out.splitlines())}


@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
def test_steps_run_in_small_and_tell_rates_and_memory(
    stage: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # They write no checkpoints, and ask for no room for any.
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=-1))
    found = rows_of(steps.main, capsys, "--stage", stage)
    model = found.pop("the model")
    assert model["layers"] == "all 2"
    assert len(found) == 4
    for told in found.values():
        assert told["tokens_per_s"] > 0
        assert told["predicted_gib"] > 1.19  # the context of a process
        assert 0 < told["loss"][1] < told["loss"][0] * 1.2


def test_generation_runs_in_small(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("bitsandbytes")
    found = rows_of(generation.main, capsys)
    rates = {what: told["new_tokens_per_s"] for what, told in found.items() if what != "the model"}
    assert len(rates) == 5
    assert min(rates.values()) > 0


def test_packed_attention_is_held_against_products_in_float64(capsys: pytest.CaptureFixture[str]) -> None:
    found = rows_of(environment.main, capsys)
    off = found["packed attention, float32"]["off_by_out_q_k_v"]
    assert len(off) == 4
    assert max(off) < 1e-5


@pytest.mark.slow
def test_the_whole_check_runs_in_small_from_a_bundle(tmp_path: Path) -> None:
    from bench.gpu_check.tiny import make_workspace

    make_workspace(tmp_path / "bundle/tiny")
    assert bundle.say_size(tmp_path / "bundle") == 0
    command = [sys.executable, "-m", "bench.gpu_check", "--small", "--bundle", str(tmp_path / "bundle")]
    command += ["--out", str(tmp_path / "out")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-3000:]
    assert "bit for bit" in done.stdout
    names = {file.name for file in (tmp_path / "out").iterdir()}
    assert names == {f"gpu-check.{kind}" for kind in ("json", "txt", "log")}
