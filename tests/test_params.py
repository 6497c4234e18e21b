"""params.yaml: typed, frozen, and kind about mistakes."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from videollava.errors import InputError
from videollava.params import Params, load_params, parse_params, profile_names, profile_text

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
        ({"fetch": {"sources": [{"name": "x"}]}}, r"fetch.sources\[0\] lacks kind, format"),
        ({"evaluate": {"benchmarks": "gqa"}}, "evaluate.benchmarks must be a list"),
    ],
)
def test_a_mistake_names_the_key_and_the_remedy(raw: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_params(raw)


def test_overrides_and_numbers_without_a_dot(tmp_path: Path) -> None:
    file = tmp_path / "params.yaml"
    file.write_text("finetune: {learning_rate: 2e-5}\n")
    params = load_params(file, ["finetune.epochs=3", "gate.minimum.gqa=50", "finetune.lora.r=8"])
    assert params.finetune.learning_rate == 2e-5
    assert (params.finetune.epochs, params.finetune.lora.r, params.gate.minimum["gqa"]) == (3, 8, 50.0)
    with pytest.raises(InputError, match=r"write SECTION\.KEY=VALUE"):
        load_params(file, ["epochs"])


def test_sections_are_frozen_and_derive_tokens() -> None:
    params = Params()
    with pytest.raises(dataclasses.FrozenInstanceError):
        params.seed = 1  # type: ignore[misc]
    assert (params.model.image_tokens, params.model.video_tokens) == (64, 8 * 65)


def test_a_missing_file_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="videollava profile tiny"):
        load_params(tmp_path / "params.yaml")
