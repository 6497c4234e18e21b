"""dvc.yaml lists the sources of params.yaml, line by line, and keeps all else that is in it."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from videollava import cli
from videollava.data.prepare.listed import check_listed, join_params, list_sources, listed_sources
from videollava.errors import InputError
from videollava.params import load_params

REPOSITORY = Path(__file__).resolve().parents[3]
PARAMS = """\
sources:
  clips: {kind: generated, format: clips, train: 4, test: 2, seed: 1}
  more: {kind: generated, format: clips, train: 4, test: 2, seed: 2}
evaluate:
  folders: {gqa: data/raw/more, pope: /elsewhere}
"""


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Our own graph beside a small params.yaml."""
    (tmp_path / "dvc.yaml").write_text((REPOSITORY / "dvc.yaml").read_text())
    (tmp_path / "params.yaml").write_text(PARAMS)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def deps(workspace: Path, stage: str) -> list[str]:
    return list(yaml.safe_load((workspace / "dvc.yaml").read_text())["stages"][stage]["deps"])


def test_join_writes_a_line_for_each_source(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = deps(workspace, "index"), deps(workspace, "evaluate")
    with pytest.raises(InputError, match="has the sources clips, more; `videollava data join` writes them"):
        check_listed(workspace, ["clips", "more"])
    assert cli.main(["data", "join"]) == 0
    assert "stage index now reads the shards of clips, more\n" in capsys.readouterr().out
    code = [dep for dep in before[0] if not dep.startswith("data/shards/")]
    assert sorted(deps(workspace, "index")) == sorted(["data/shards/clips", "data/shards/more", *code])
    assert sorted(deps(workspace, "evaluate")) == sorted(["data/raw/more", *before[1]])
    check_listed(workspace, ["clips", "more"])
    assert not join_params(workspace, load_params())


def test_what_a_stage_no_longer_reads_goes(workspace: Path) -> None:
    join_params(workspace, load_params())
    (workspace / "params.yaml").write_text(PARAMS.replace("data/raw/more", "/elsewhere"))
    assert join_params(workspace, load_params())
    assert not [dep for dep in deps(workspace, "evaluate") if dep.startswith("data/raw")]


def test_align_reads_what_was_fetched_for_the_sets_that_it_asks(workspace: Path) -> None:
    before = deps(workspace, "align")
    join_params(workspace, load_params())
    assert deps(workspace, "align") == before  # gqa is no set that it asks
    named = PARAMS.replace("gqa:", "msvd: /questions, msvd.zero_shot:")
    asking = f"{named}align: {{validations: 1, zero_shot: [msvd, esc-50]}}\n"
    (workspace / "params.yaml").write_text(asking)
    assert join_params(workspace, load_params())
    assert sorted(deps(workspace, "align")) == sorted([*before, "data/raw/more"])
    (workspace / "params.yaml").write_text(asking.replace("align: {", "align: {train: false, "))
    assert join_params(workspace, load_params())
    assert deps(workspace, "align") == before


def test_gold_files_of_ones_own_are_dependencies_and_media_are_not(workspace: Path) -> None:
    folder = workspace / "my bench"
    (folder / "videos").mkdir(parents=True)
    (folder / "videos/a.mp4").write_bytes(b"\0\0\0 ftyp")
    (folder / "test_q.json").write_text("[]")
    (folder / "more").mkdir()
    (folder / "more/test_a.json").write_text("[]")
    before = deps(workspace, "evaluate")
    asked = PARAMS.replace("/elsewhere", "my bench, mme: /nowhere") + "  benchmarks: [pope, mme]\n"
    (workspace / "params.yaml").write_text(asked)
    assert join_params(workspace, load_params())
    assert not join_params(workspace, load_params())
    added = set(deps(workspace, "evaluate")) - set(before)
    assert added == {"data/raw/more", "my bench/test_q.json", "my bench/more"}
    (folder / "test_q.json").unlink()
    assert join_params(workspace, load_params())
    (workspace / "params.yaml").write_text(PARAMS)
    assert join_params(workspace, load_params())
    assert set(deps(workspace, "evaluate")) == {"data/raw/more", *before}


def test_all_else_stays_to_the_byte(workspace: Path) -> None:
    text = (workspace / "dvc.yaml").read_text()
    mine = listed_sources(workspace)
    assert mine == ["easy_vqa", "toy_clips"]
    assert list_sources(workspace, ["one"])
    assert list_sources(workspace, [])
    assert listed_sources(workspace) == []
    assert list_sources(workspace, mine)
    assert (workspace / "dvc.yaml").read_text() == text


def test_a_graph_without_the_stage_and_a_benchmark_of_no_source_are_refused(workspace: Path) -> None:
    (workspace / "params.yaml").write_text(PARAMS.replace("data/raw/more", "data/raw/mroe"))
    with pytest.raises(InputError, match=r"evaluate\.folders\.gqa: data/raw/mroe: no source 'mroe'"):
        join_params(workspace, load_params())
    (workspace / "dvc.yaml").write_text("stages:\n  other: {cmd: x}\n")
    with pytest.raises(InputError, match="no stage index with deps"):
        list_sources(workspace, ["one"])
