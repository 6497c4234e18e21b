"""params.yaml: typed, frozen, and kind about mistakes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from videollava.errors import InputError
from videollava.gate import Bar, Gate
from videollava.params import Params, load_params, markdown, parse_params, profile_names, profile_text, schema

ROOT = Path(__file__).parents[1]


def test_every_profile_is_valid_and_names_itself(tmp_path: Path) -> None:
    assert "tiny" in profile_names()
    for name in profile_names():
        file = tmp_path / "params.yaml"
        file.write_text(profile_text(name))
        assert load_params(file).profile == name


def test_the_committed_params_are_the_tiny_profile() -> None:
    assert (ROOT / "params.yaml").read_text() == profile_text("tiny")


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (
            {"finetune": {"lerning_rate": 1}},
            "unknown key 'finetune.lerning_rate' .did you mean 'learning_rate'",
        ),
        ({"finetun": {}}, "unknown key 'finetun' .did you mean 'finetune'"),
        ({"finetune": {"epochs": "two"}}, "finetune.epochs must be int, not 'two'"),
        ({"finetune": {"epochs": True}}, "finetune.epochs must be int"),
        ({"finetune": {"precision": "bf61"}}, "finetune.precision is 'bf61' .did you mean 'bf16'"),
        ({"model": 3}, "model must be a mapping"),
        ({"sources": {"x": {}}}, r"sources\.x lacks kind, format"),
        ({"sources": {"../up": {}}}, "made of letters, digits"),
        ({"sources": {"x": {"name": "y"}}}, "the key is its name; leave it out"),
        (
            {"fetch": {"sources": [{"name": "x", "kind": "package"}]}},
            r"(?s)write in their place:.*x: \{kind: package\}",
        ),
        ({"evaluate": {"benchmarks": "gqa"}}, "evaluate.benchmarks must be a list"),
    ],
)
def test_a_mistake_names_the_key_and_the_remedy(raw: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_params(raw)


def test_overrides_and_numbers_without_a_dot(tmp_path: Path) -> None:
    file = tmp_path / "params.yaml"
    file.write_text("finetune: {learning_rate: 2e-5}\n")
    params = load_params(file, ["finetune.epochs=3", "evaluate.folders.gqa=here", "finetune.lora.r=8"])
    assert params.finetune.learning_rate == 2e-5
    assert (params.finetune.epochs, params.finetune.lora.r, params.evaluate.folders["gqa"]) == (3, 8, "here")
    with pytest.raises(InputError, match=r"write SECTION\.KEY=VALUE"):
        load_params(file, ["epochs"])


def test_sections_are_frozen_and_derive_tokens() -> None:
    params = Params()
    with pytest.raises(ValidationError, match="frozen"):
        params.seed = 1  # type: ignore[misc]
    assert (params.model.image_tokens, params.model.video_tokens) == (64, 8 * 65)


def test_a_missing_file_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="videollava profile tiny"):
        load_params(tmp_path / "params.yaml")


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"finetune": {"epochs": -1}}, "finetune.epochs must be at least 1, not -1"),
        ({"finetune": {"learning_rate": float("nan")}}, "finetune.learning_rate must be a finite number"),
        ({"finetune": {"learning_rate": float("inf")}}, "finetune.learning_rate must be a finite number"),
        ({"finetune": {"learning_rate": True}}, "finetune.learning_rate must be float, not True"),
        ({"finetune": {"batch_size": 0}}, "finetune.batch_size must be at least 1, not 0"),
        ({"finetune": {"warmup_ratio": 1.5}}, "finetune.warmup_ratio must be at most 1, not 1.5"),
        ({"evaluate": {"blind": "yes"}}, "evaluate.blind must be bool"),
        ({"evaluate": {"benchmarks": ["gqa", "gqa"]}}, "evaluate.benchmarks names gqa twice"),
        (
            {"model": {"vision": {"heads": 3}}},
            "model.vision: heads is 3, which does not divide the width 128",
        ),
        ({"model": {"image_size": 65}}, "model: patch_size is 8, which does not divide image_size 65"),
        ({"model": {"feature_layer": -9}}, "model: feature_layer is -9; an encoder of 4 layers has"),
        (
            {"tracking": {"model": "team/videollava"}},
            "tracking.model is 'team/videollava': a name of letters, digits",
        ),
        (
            {"tracking": {"model": "videollava.v2"}},
            "tracking.model is 'videollava.v2': a name of letters, digits",
        ),
        ({"finetune": None}, "finetune must be a mapping of keys, not NoneType"),
    ],
)
def test_values_out_of_range_are_refused(raw: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        parse_params(raw)


def test_every_number_has_bounds() -> None:
    """A parameter without a range accepts -1, nan or 10**9 and ends hours later."""
    loose = [
        f"{section}.{name}" for section, name, field in numbers(json.loads(schema())) if not bounded(field)
    ]
    free = ["Model.feature_layer"]  # counts both ways
    assert sorted(loose) == free


def numbers(made: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for section, entry in {**made["$defs"], "Params": made}.items():
        for name, declared in entry["properties"].items():
            inner = declared.get("additionalProperties", declared)
            if inner.get("type") in ("integer", "number"):
                yield section, name, inner


def bounded(declared: dict[str, Any]) -> bool:
    return any(key in declared for key in ("minimum", "exclusiveMinimum"))


def test_every_parameter_is_described_and_the_committed_pages_are_the_codes() -> None:
    made = json.loads(schema())
    for section in (*made["$defs"].values(), made):
        assert all(declared.get("description") for declared in section["properties"].values())
    assert (ROOT / "docs/params.schema.json").read_text() == schema()
    assert (ROOT / "docs/parameters.md").read_text() == markdown()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed: 1\nseed: 2\n", "the key 'seed' stands twice"),
        ("finetune: {epochs: 1, epochs: 2}\n", "the key 'epochs' stands twice"),
        ("- seed\n", "the file must be a mapping of keys, not list"),
        ("seed: [\n", "not valid YAML"),
    ],
)
def test_what_yaml_would_drop_in_silence_is_refused(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "params.yaml"
    file.write_text(text)
    with pytest.raises(InputError, match=message):
        load_params(file)


@pytest.mark.parametrize(
    "twice",
    [("seed=1", "seed=2"), ("evaluate.folders={gqa: a}", "evaluate.folders.gqa=b"), ("seed=1", "seed=1")],
)
def test_two_overrides_of_one_parameter_are_refused(tmp_path: Path, twice: tuple[str, str]) -> None:
    file = tmp_path / "params.yaml"
    file.write_text("seed: 0\n")
    with pytest.raises(InputError, match="is set already; give one value"):
        load_params(file, twice)


def test_a_changed_copy_is_checked_too() -> None:
    train = Params().finetune
    assert train.replace(epochs=3).epochs == 3
    with pytest.raises(ValidationError, match="greater than or equal to 1"):
        train.replace(epochs=0)
    with pytest.raises(ValidationError, match="Extra inputs"):
        train.replace(epoch=3)


def test_an_older_files_gate_is_told_what_to_write_into_gate_yaml() -> None:
    old = {
        "gate": {
            "minimum": {"easy_vqa": 60.0},
            "minimum_gains": {"mine": 1.0},
            "allowed_regressions": {"easy_vqa": 2.0},
            "allowed_regression": 1.5,
            "significance": 0.01,
        },
        "tracking": {"model": "ours"},
    }
    with pytest.raises(InputError) as caught:
        parse_params(old)
    head, _, text = str(caught.value).partition("\n")
    assert "gate moved to gate.yaml" in head
    gate = Gate.model_validate(yaml.safe_load(text)["ours"])
    assert gate == Gate(
        benchmarks={
            "easy_vqa": Bar(minimum=60.0, allowed_regression=2.0),
            "mine": Bar(minimum_gain=1.0),
        },
        allowed_regression=1.5,
        level=0.01,
    )
