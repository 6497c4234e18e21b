"""The flow `evaluate`: what it needs, and what it says where that is not to be had."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import flows.evaluate
import flows.stages.remote
from flows.evaluate import have_questions
from flows.places.lock import hold
from flows.stages.stage import push_stages
from videollava.errors import InputError
from videollava.params import load_params

REMOTE = "[core]\n    remote = far\n['remote \"far\"']\n    url = {}\n"
Lines = list[str]


def test_questions_that_are_here_are_taken(workspace: Path) -> None:
    (workspace / "data" / "index").mkdir(parents=True)
    have_questions(workspace, pytest.fail)


def test_without_them_the_remedy_is_named_at_once(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flows.evaluate, "run_streamed", pytest.fail)
    with pytest.raises(InputError, match=r"no default remote is set.*dvc repro index"):
        have_questions(workspace, print)
    (workspace / ".dvc" / "config.local").write_text(REMOTE.format("/nowhere"))
    monkeypatch.setattr(flows.stages.remote, "_ask", lambda _: "Connection refused")
    with pytest.raises(InputError, match=r"DVC cannot bring them \(Connection refused\)"):
        have_questions(workspace, print)


def test_what_the_remote_lacks_is_said_in_dvcs_words(workspace: Path) -> None:
    (workspace.parent / "remote").mkdir()
    (workspace / ".dvc" / "config.local").write_text(REMOTE.format(workspace.parent / "remote"))
    with pytest.raises(InputError, match=r"cannot bring them \(.*data/index"):
        have_questions(workspace, print)


def test_what_the_remote_has_is_brought(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (finished / ".dvc" / "config.local").write_text(REMOTE.format(finished.parent / "remote"))
    assert push_stages(finished, ["fetch"], lambda _: None) == ""
    for name in (".dvc/cache", "data"):
        shutil.rmtree(finished / name)
    monkeypatch.setattr(flows.evaluate, "DATA", "data/raw")
    have_questions(finished, lambda _: None)
    assert (finished / "data" / "raw" / "toy").is_file()


def test_what_the_cache_has_is_taken_without_a_remote(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(finished / "data")
    monkeypatch.setattr(flows.evaluate, "DATA", "data/raw")
    have_questions(finished, lambda _: None)
    assert (finished / "data" / "raw" / "toy").is_file()


@pytest.mark.parametrize("git", [True, False])
def test_it_runs_without_git_and_never_beside_a_retraining(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, git: bool
) -> None:
    class Log:
        def __init__(self) -> None:
            self.told: Lines = []

        def warning(self, line: str) -> None:
            self.told.append(line)

    log, busy = Log(), []

    class Version:
        number, reference, saved = 3, "models:/videollava/3", ""

    def score(root: Path, folder: Path, out: Path, benchmarks: Lines, lock: int) -> dict[str, object]:
        with pytest.raises(InputError, match="or an evaluation"), hold(root, wait=0.0):
            pass
        busy.append(out)
        return {"easy_vqa": {"accuracy": 50.0}}

    if not git:
        shutil.rmtree(workspace / ".git")
    monkeypatch.setattr(flows.evaluate, "get_run_logger", lambda: log)
    monkeypatch.setattr(flows.evaluate.registry, "find_version", lambda *_: Version)
    monkeypatch.setattr(flows.evaluate, "bring", lambda *_: workspace)
    monkeypatch.setattr(flows.evaluate, "score_version", score)
    monkeypatch.setattr(flows.evaluate, "log_scores", lambda *_: None)
    for _ in range(2):
        assert flows.evaluate.evaluate(workspace, "models:/videollava@champion") == {
            "easy_vqa": {"accuracy": 50.0}
        }
    assert len(set(busy)) == 2  # in the same second, too
    assert any("no git repository" in line for line in log.told) is not git
    monkeypatch.setattr("flows.evaluate.hold", lambda root, shared: hold(root, wait=0.0, shared=shared))
    with hold(workspace), pytest.raises(InputError, match="another retraining is running here"):
        flows.evaluate.evaluate(workspace, "models:/videollava@champion")


def test_questions_are_answered_though_encoders_are_not_to_be_had(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the gate compares of the language model does not hang on what its encoders were asked."""
    asked: list[Lines] = []

    class Log:
        def warning(self, line: str, *values: object) -> None:
            asked.append([line % values])

    class Version:
        number, reference, saved = 3, "models:/videollava/3", ""

    def lacking(*_: object) -> Path:
        raise InputError("its encoders cannot be had")

    monkeypatch.setattr(flows.evaluate, "get_run_logger", lambda: Log())
    monkeypatch.setattr(flows.evaluate.registry, "find_version", lambda *_: Version)
    monkeypatch.setattr(flows.evaluate, "bring", lambda *_: workspace)
    monkeypatch.setattr(flows.evaluate, "bring_encoders", lacking)
    monkeypatch.setattr(
        flows.evaluate, "score_version", lambda root, model, out, benchmarks, lock: asked.append(benchmarks)
    )
    monkeypatch.setattr(flows.evaluate, "log_scores", lambda *_: None)
    params = load_params(workspace / "params.yaml")
    flows.evaluate.answer(workspace, params, "3", ["gqa", "toy_pairs.audio", "msvd"], 0)
    assert asked == [["its encoders cannot be had"], ["gqa", "msvd"]]
    with pytest.raises(InputError, match="cannot be had"):
        flows.evaluate.answer(workspace, params, "3", ["toy_pairs.audio"], 0)
    assert len(asked) == 2
