"""What versions are made of and how two differ: a real git, DVC and registry, and a clone that has no registry."""

from __future__ import annotations

import json
import re
import shutil
import xml.etree.ElementTree as ET
from contextlib import chdir
from pathlib import Path

import pytest
from dvc.repo import Repo

from flows.history.diff import Change, compare_stories
from flows.history.keep import keep, tie
from flows.history.lineage import as_json, as_text
from flows.history.past import read_past
from flows.history.picture import draw
from flows.history.retrainings import as_html, as_page
from flows.history.story import tell
from flows.places.git import run_git
from videollava import registry
from videollava.cli import main
from videollava.errors import InputError
from videollava.gate import Decision
from videollava.params import Tracking, load_params
from videollava.tracking.lineage import flatten
from videollava.tracking.store import connect

REPOSITORY = Path(__file__).resolve().parents[3]


def save_version(root: Path, epochs: int) -> str:
    """Train so many epochs, save and register; the commit."""
    file = root / "params.yaml"
    file.write_text(re.sub(r"epochs: \d+\n  learning", f"epochs: {epochs}\n  learning", file.read_text()))
    with chdir(root), Repo(str(root)) as repo:
        repo.reproduce()
    params = load_params(file)
    saved = keep(root, root, params)
    version, _ = registry.register(root, params, saved=(saved.commit, saved.ref))
    tie(root, root, params, version, saved)
    return saved.commit


@pytest.fixture(scope="module")
def twice(run_once: tuple[Path, list[str], list[str]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with two versions: of 2 and of 3 epochs; 3 epochs score 63."""
    finished = tmp_path_factory.mktemp("twice") / "ws"
    shutil.copytree(run_once[0], finished, symlinks=True)
    (finished / "locks/models").mkdir(parents=True)
    (finished / "locks/models/bases.json").write_text('{"org/base": "0123abcd"}')
    (finished / "locks/toy.json").write_text(
        json.dumps({"files": [{"name": "a.tar", "size": 1000, "sha256": "ab"}]})
    )
    with pytest.MonkeyPatch.context() as patch:
        for name in ("MLFLOW_TRACKING_URI", "PREFECT_API_URL", "DVC_STAGE"):
            patch.delenv(name, raising=False)
        patch.setenv("VIDEOLLAVA_FOLLOWED", "1")
        patch.setenv("PYTHONPATH", str(REPOSITORY))
        save_version(finished, 2)
        save_version(finished, 3)
    return finished


def test_a_version_says_what_it_is_made_of(
    twice: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    params = load_params(twice / "params.yaml")
    story = tell(twice, "2")
    assert story.commit == run_git(twice, "rev-parse", "refs/videollava/model/videollava/2")
    assert story.baseline == run_git(twice, "rev-parse", "HEAD")
    assert story.params["finetune"]["epochs"] == 3
    assert story.scores["easy_vqa"]["accuracy"] == 63.0
    assert [(data.name, data.kind, data.files, data.bytes) for data in story.data] == [
        ("toy", "generated", 1, 1000)
    ]
    assert [(base.stage, base.name, base.revision) for base in story.bases] == [
        ("bases", "org/base", "0123abcd")
    ]
    assert story.lacks == ()
    decision, move, *_ = registry.promote(twice, params, "2")
    assert decision.passed
    assert move is not None

    monkeypatch.chdir(twice)
    picture = tmp_path / "lineage.svg"
    assert main(["lineage", "champion", "--picture", str(picture)]) == 0
    said = capsys.readouterr().out
    for words in (
        "models:/videollava/2 @champion",
        "profile tiny",
        "0123abcd",
        "easy_vqa",
        "63.00",
        "promote",
    ):
        assert words in said
    texts = [node.text for node in ET.parse(picture).iter() if node.text]
    assert {"toy", "finetune", "63.00"} <= set(texts)
    assert main(["lineage", "1", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["params"]["finetune"]["epochs"] == 2
    assert told["made"]["stages"]["finetune"]["hours"] is not None
    assert told == json.loads(json.dumps(as_json(tell(twice, "1"))))


def test_two_versions_differ_by_what_was_changed(
    twice: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = compare_stories(twice, tell(twice, "1"), tell(twice, "2"))
    assert found.params == (Change("finetune.epochs", "2", "3"),)
    assert found.scores == (Change("easy_vqa", "62.00", "63.00"),)
    assert (found.data, found.bases, found.code, found.packages) == ((), (), (), ())
    monkeypatch.chdir(twice)
    assert main(["diff", "1", "2"]) == 0
    assert "finetune.epochs  2 -> 3" in capsys.readouterr().out
    assert main(["diff", "1", "1"]) == 0
    assert "the same parameters, data, bases, packages and code" in capsys.readouterr().out


def test_a_clone_without_the_registry_tells_what_git_holds(twice: Path, tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    run_git(tmp_path, "clone", "--quiet", str(twice), str(clone))
    refs = "refs/videollava/model/videollava/*"
    run_git(clone, "fetch", "--quiet", "origin", f"{refs}:{refs}")
    story = tell(clone, "1")
    assert story.scores["easy_vqa"]["accuracy"] == 62.0
    assert story.version is None
    assert any("not in the registry" in line for line in story.lacks)
    assert "62.00" in as_text(story)
    assert draw(story).startswith("<svg")
    with pytest.raises(InputError, match="7: not in the registry"):
        tell(clone, "7")


def test_an_experiment_of_a_version_is_told_as_the_version(twice: Path) -> None:
    ref = run_git(twice, "for-each-ref", "--format=%(refname)", "refs/exps", "--sort=-refname").splitlines()[
        0
    ]
    story = tell(twice, ref.rpartition("/")[2])
    assert (story.name, story.version is not None, story.lacks) == ("videollava", True, ())
    assert story.commit == tell(twice, str(story.number)).commit


def test_what_nobody_knows_is_asked_of_the_registry_once(
    twice: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that does not answer costs its time-outs, and is told of, once."""
    asked: list[str] = []
    find = registry.find_version

    def count(root: Path, tracking: Tracking, reference: str) -> registry.Version:
        asked.append(reference)
        return find(root, tracking, reference)

    monkeypatch.setattr(registry, "find_version", count)
    with pytest.raises(InputError) as caught:
        tell(twice, "17")
    assert asked == ["17"]
    assert str(caught.value).count("not in the registry") == 1


def test_all_retrainings_by_git_and_tracker(
    twice: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Run after the first test here, which promotes version 2."""
    params = load_params(twice / "params.yaml")
    version = registry.find_version(twice, params.tracking, "2")
    registry.note_decision(
        twice, params.tracking, version, Decision(False, ("easy_vqa: too little",), (), candidate=2)
    )
    store = connect(twice, params.tracking)
    values = flatten(params.replace(seed=7))
    run = store.client.create_run(
        store.experiment, run_name="retrain", tags={"who": "Ada <a@b>", "dirty": "true"}
    )
    child = store.client.create_run(
        store.experiment, run_name="finetune", tags={"mlflow.parentRunId": run.info.run_id}
    )
    for name, value in (("machine.cost.per_gpu_hour", "4.0"), ("machine.cost.currency", "EUR")):
        store.client.log_param(child.info.run_id, name, value)
    store.client.log_metric(child.info.run_id, "gpu_hours", 2.5)
    store.client.set_terminated(child.info.run_id)
    for name in ("seed", "finetune.epochs", "tracking.model"):
        store.client.log_param(run.info.run_id, name, values[name])
    other = store.client.create_run(store.experiment, run_name="retrain")  # of another model: none of these
    store.client.log_param(other.info.run_id, "tracking.model", "other")
    store.client.set_tag(other.info.run_id, "version", "1")
    store.client.set_tag(run.info.run_id, "error", "StageFailed: stage evaluate failed\nTraceback")
    store.client.set_terminated(run.info.run_id, "FAILED")
    past = read_past(twice, params)
    failed, second, first = past.rows
    assert (failed.state, failed.version, failed.who, failed.cost) == (
        "failed",
        0,
        "Ada <a@b>",
        {"EUR": 10.0},
    )
    assert failed.reasons == ("StageFailed: stage evaluate failed",)
    assert "seed: 0 -> 7" in failed.changed
    assert failed.changed[-1] == "edits that are in no commit"
    assert (second.version, second.gate, second.changed) == (2, "refused", ("finetune.epochs: 2 -> 3",))
    assert set(second.ran) == {"finetune", "evaluate"}
    assert second.aliases == ("champion",)
    assert second.promoted[0].startswith("promote after none, ")
    assert (first.version, first.gate, first.changed) == (1, "", ("the first one known",))
    assert set(first.ran) == {"fetch", "finetune", "evaluate"}
    assert first.scores == {"easy_vqa": 62.0}
    assert first.hours is not None
    assert (past.more, past.lacks) == (0, ())
    page = as_page(past)
    assert page.split("\n")[2].endswith("| finetune | Ada |  |")
    assert "<td>refused; promote after none" in as_html(past, "Retrainings")

    monkeypatch.chdir(twice)
    assert main(["retrainings", "--most", "1", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["retrainings"][0]["run"], told["more"]) == (run.info.run_id, 2)
    assert main(["retrainings", "--most", "0"]) == 2
    # Without the tracker git tells what it holds, and what is missing is said.
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    capsys.readouterr()
    assert main(["retrainings"]) == 0
    said = capsys.readouterr().out
    assert "changed  finetune.epochs: 2 -> 3" in said
    assert "version 1" in said
    assert "lacks: runs that failed, the gate's word, promotions" in said
