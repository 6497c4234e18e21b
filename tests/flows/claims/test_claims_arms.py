"""Arms are valid recipes that differ from the base in what they say, and in nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flows.claims import __main__ as module
from flows.claims.arms import ARMS, BASE, CLAIMS, choose_arms, params_of, seeds_of, settings_of
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


def test_an_arm_has_as_many_seeds_as_the_claims_it_is_compared_for() -> None:
    planned = dict.fromkeys((arm.name for arm in ARMS), 10)
    assert seeds_of(ARMS) == planned | {"no-dropout": 4, "no-time": 4}
    assert seeds_of(choose_arms("b")) == {"aligned": 10, "pictures": 10, "clips": 10}
    # In no claim together:
    assert seeds_of(choose_arms("separate-clips")) == {"aligned": 1, "separate-clips": 1}
    assert seeds_of(choose_arms("d"), "3") == {"aligned": 3, "no-time": 3}
    assert seeds_of(choose_arms("a,d"), "a=20, d=2") == {"aligned": 20, "separate": 20, "no-time": 2}


@pytest.mark.parametrize("asked", ["0", "-1", "many", "a", "a=0", "z=3", "a=1.5"])
def test_what_is_no_number_of_seeds_is_refused(asked: str) -> None:
    with pytest.raises(InputError, match=f"--seeds {asked}: neither a number from 1 on nor numbers by claim"):
        seeds_of(ARMS, asked)


def test_runs_go_seed_by_seed_and_the_plan_counts_what_both_arms_have() -> None:
    arms = choose_arms("a,c")
    runs = module._runs(arms, "c=3")
    assert [(run.arm.name, run.seed) for run in runs[:4]] == [
        *(("aligned", 0), ("separate", 0), ("no-stage-1", 0), ("aligned", 1))
    ]
    assert len(runs) == 10 + 10 + 3
    plans = module._plans(params_of(ROOT, arms[0], 0), runs)
    seeds = {"separate": (2700, 10), "no-stage-1": (2700, 3)}
    assert {one.arm: (plan.questions, plan.seeds) for one, plan in plans.items()} == seeds
    assert len(plans) == 4
    assert {run.seed for run in module._runs(arms, "2")} == {0, 1}
