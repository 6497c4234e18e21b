"""Arms are valid recipes that differ from the base in what they say, and in nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flows.claims.arms import ARMS, BASE, CLAIMS, choose_arms, params_of, settings_of
from videollava.errors import InputError
from videollava.tracking.lineage import flatten

ROOT = Path(__file__).resolve().parents[3]
PICTURES = {"pretrain.media": '["image"]', "finetune.media": '["image"]'}
CLIPS = {"pretrain.media": '["video"]', "finetune.media": '["video"]'}
CHANGED = {
    "aligned": {},
    "separate": {"align.spaces": "separate"},
    "pictures": PICTURES,
    "clips": CLIPS,
    "separate-pictures": {"align.spaces": "separate", **PICTURES},
    "separate-clips": {"align.spaces": "separate", **CLIPS},
    "no-stage-1": {"pretrain.epochs": "0"},
    "no-dropout": {"align.video_patch_dropout": "0.0"},
    "no-time": {"model.temporal_attention": "False"},
}


def flat(name: str, seed: int = 0) -> dict[str, Any]:
    arm = next(arm for arm in ARMS if arm.name == name)
    return flatten(params_of(ROOT, arm, seed))


@pytest.mark.parametrize("name", [arm.name for arm in ARMS])
def test_an_arm_changes_what_it_says_and_nothing_else(name: str) -> None:
    base, other = flat(BASE), flat(name)
    assert {key: other[key] for key in other if base.get(key) != other[key]} == CHANGED[name]
    assert flat(name, 3)["seed"] == "3"


def test_what_is_set_for_all_arms_gives_way_to_an_arms_own() -> None:
    without = next(arm for arm in ARMS if arm.name == "no-stage-1")
    assert settings_of(without, 2, ("pretrain.epochs=4", "seed=9", "finetune.epochs=3")) == [
        "finetune.epochs=3",
        "pretrain.epochs=0",
        "seed=2",
    ]


def test_each_contrast_asks_what_both_its_arms_are_asked() -> None:
    arms = {arm.name: params_of(ROOT, arm, 0) for arm in ARMS}
    for claim in CLAIMS:
        for one in claim.contrasts:
            assert one.benchmark in arms[one.arm].evaluate.benchmarks
            assert one.benchmark in arms[one.base].evaluate.benchmarks


def test_claims_and_arms_are_chosen_by_letter_or_name() -> None:
    assert [arm.name for arm in choose_arms()] == [arm.name for arm in ARMS]
    assert [arm.name for arm in choose_arms("a,b")] == ["aligned", "separate", "pictures", "clips"]
    assert [arm.name for arm in choose_arms("a2")] == [
        *("aligned", "pictures", "clips", "separate-pictures", "separate-clips")
    ]
    assert [arm.name for arm in choose_arms("no-time, c")] == ["aligned", "no-stage-1", "no-time"]
    with pytest.raises(
        InputError, match="--arms z: no such claim or arm; there are a, a2, b, c, d, e, aligned"
    ):
        choose_arms("a,z")
