"""Every stage's step and a generation on a device that is not the CPU: no tensor left behind, the CPU's own values."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
STEPS = ("bases", "align-text", "align-image", "align-video", "pretrain", "finetune", "lora")


@pytest.fixture(scope="module")
def runs() -> dict[str, Any]:
    """What steps.py found, by stage and device. Another process: the device is made before any backward pass."""
    environment = {**os.environ, "PYTHONPATH": f"{HERE}:{HERE.parents[1]}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(HERE / "steps.py")],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("stage", STEPS)
def test_a_step_on_a_device_is_the_cpus_step_in_float32(runs: dict[str, Any], stage: str) -> None:
    here, there = runs[stage]["cpu"], runs[stage]["npu"]
    assert there["loss"] == pytest.approx(here["loss"], rel=1e-5)
    assert there["gradient"] == pytest.approx(here["gradient"], rel=1e-5)


@pytest.mark.parametrize("stage", STEPS)
def test_the_host_waits_for_the_device_nowhere_in_a_micro_step(runs: dict[str, Any], stage: str) -> None:
    assert runs[stage]["npu"]["waits"] == {}


@pytest.mark.parametrize("how", ["generate-single", "generate-batched", "generate-drawn"])
def test_generation_on_a_device_gives_the_cpus_tokens(runs: dict[str, Any], how: str) -> None:
    assert runs[how]["npu"]["ids"] == runs[how]["cpu"]["ids"]


@pytest.mark.parametrize("how", ["generate-single", "generate-batched", "generate-drawn"])
def test_generation_waits_twice_a_token(runs: dict[str, Any], how: str) -> None:
    """For the token, whether it ends the answer, and in transformers, which looks for padding in the mask."""
    waits = runs[how]["npu"]["waits"]
    assert set(waits) == {"evaluate/generate.py:run", "model/attention.py:mask_varlen"}
    assert max(waits.values()) <= runs[how]["npu"]["tokens"]


def test_an_evaluation_on_a_device_gives_the_cpus_tokens(runs: dict[str, Any]) -> None:
    assert runs["evaluate"]["npu"] == runs["evaluate"]["cpu"]
    assert runs["evaluate"]["npu"]["problems"] == ["broken"]


def test_features_come_back_from_a_device_as_the_cpus(runs: dict[str, Any]) -> None:
    assert runs["features"]["npu"]["sums"] == pytest.approx(runs["features"]["cpu"]["sums"], rel=1e-5)
