"""The gate asks the answers themselves, of the same questions, wherever they lie; without them it compares nothing."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from videollava.params import Params, parse_params
from videollava.registry import (
    Store,
    champion,
    examine,
    find_version,
    note_decision,
    note_evaluation,
    promote,
    register,
)
from videollava.registry.evidence import answers_folder, comparison_page

QUESTIONS = 200


@pytest.fixture
def params() -> Params:
    return parse_params({"seed": 1, "finetune": {"epochs": 2}})


@pytest.fixture(autouse=True)
def gate(workspace: Path) -> None:
    (workspace / "gate.yaml").write_text("videollava: {minimum_gain: -5.0, allowed_regression: 10.0}\n")


def answer(workspace: Path, wrong: set[int], put: Callable[..., str], questions: str = "") -> None:
    """Put an evaluation with these questions answered wrongly where the evaluate stage would leave it."""
    metrics = json.loads((workspace / "metrics.json").read_text())
    if questions:
        metrics["easy_vqa"]["questions"] = questions
    (workspace / "metrics.json").write_text(json.dumps(metrics))
    lines = [
        {
            "question_id": str(number),
            "kind": "color",
            "question": "what color is it?",
            "answer": "red",
            "prediction": "blue" if number in wrong else "red",
            "correct": number not in wrong,
            "media": [],
        }
        for number in range(QUESTIONS)
    ]
    cache = workspace / ".dvc" / "cache"
    files = {
        "predictions/easy_vqa.jsonl": "".join(json.dumps(line) + "\n" for line in lines),
        "metrics.json": (workspace / "metrics.json").read_text(),
    }
    rows = [{"md5": put(cache, text.encode()), "relpath": name} for name, text in files.items()]
    lock = yaml.safe_load((workspace / "dvc.lock").read_text())
    lock["stages"]["evaluate"]["outs"][0]["md5"] = put(cache, json.dumps(rows).encode(), ".dir")
    (workspace / "dvc.lock").write_text(yaml.safe_dump(lock))


@pytest.fixture
def versions(
    workspace: Path, params: Params, trained: Callable[..., Any], store_object: Callable[..., str]
) -> Callable[[set[int]], tuple[Any, Any]]:
    """Version 1 answers all but 20 and is champion; version 2 answers as asked for."""

    def make(wrong: set[int]) -> tuple[Any, Any]:
        for weights, missed in (("first", set(range(20))), ("second", wrong)):
            trained(weights, 100.0 * (1 - len(missed) / QUESTIONS))
            answer(workspace, missed, store_object)
            register(workspace, params)
            if weights == "first":
                assert promote(workspace, params, "1")[1]
        return find_version(workspace, params.tracking, "2"), champion(workspace, params.tracking)

    return make


def test_what_is_excluded_passes_and_what_is_not_refuses(
    workspace: Path, params: Params, versions: Any
) -> None:
    # 26 others are wrong where 20 of the old ones are right now: a loss of 9 is not shown, nor excluded.
    new, old = versions(set(range(100, 126)))
    decision = examine(new, old, params, workspace)
    assert decision.passed
    assert decision.rows[0].gain == pytest.approx(-3.0)
    assert decision.rows[0].at_least == pytest.approx(-9.7, abs=0.3)
    (workspace / "gate.yaml").write_text("videollava: {minimum_gain: -5.0, allowed_regression: 5.0}\n")
    decision = examine(new, old, params, workspace)
    assert "but that it lost up to 9." in decision.reasons[0]
    assert decision.rules["sha256"] == hashlib.sha256((workspace / "gate.yaml").read_bytes()).hexdigest()
    assert (decision.candidate, decision.champion) == (2, 1)


def test_a_real_loss_is_refused(workspace: Path, params: Params, versions: Any) -> None:
    decision = examine(*versions(set(range(50))), params, workspace)
    assert not decision.passed
    assert "-15.00 against the champion" in decision.reasons[0]
    assert decision.rows[0].p is not None
    assert decision.rows[0].p < 0.001


def test_answers_are_taken_from_the_remote_and_nothing_is_compared_without(
    workspace: Path, params: Params, versions: Any
) -> None:
    new, old = versions(set(range(100, 126)))
    cache, remote = workspace / ".dvc/cache/files", workspace.parent / "remote"
    remote.mkdir()
    shutil.copytree(cache, remote / "files")
    shutil.rmtree(cache)
    assert answers_folder(workspace, params.tracking, old) is None
    decision = examine(new, old, params, workspace)
    assert "no comparison with the champion: this version's answers are in no store" in decision.reasons[0]
    assert decision.unanswered == ()
    far = [Store(str(remote))]
    # What a remote holds damaged is not taken.
    (listing,) = (file for file in (remote / "files/md5").rglob("*.dir") if file.name[:30] in new.evaluation)
    kept = listing.read_bytes()
    listing.chmod(0o644)
    listing.write_bytes(b"[]")
    assert answers_folder(workspace, params.tracking, new, far) is None
    listing.write_bytes(kept)
    assert examine(new, old, params, workspace, far).passed


def test_a_champion_whose_answers_cannot_be_read_answers_again(
    workspace: Path, params: Params, versions: Any, tmp_path: Path
) -> None:
    new, old = versions(set(range(10)))
    folder = answers_folder(workspace, params.tracking, old)
    assert folder is not None
    file = folder / "predictions/easy_vqa.jsonl"
    text = file.read_text()
    file.unlink()  # a link into the store
    file.write_text("not JSON\n".ljust(len(text)))
    decision = examine(new, old, params, workspace)
    assert "no comparison with the champion" in decision.reasons[0]
    assert "easy_vqa.jsonl" in decision.reasons[0]
    assert decision.unanswered == ("easy_vqa",)
    assert "--model models:/videollava/1 --benchmarks easy_vqa --keep" in decision.notes[-1]
    assert not decision.passed


def test_the_champion_answers_once_and_the_answers_stay_with_it(
    workspace: Path, params: Params, trained: Any, store_object: Callable[..., str], tmp_path: Path
) -> None:
    """Version 2 is asked other questions; what the champion says to them is kept by their hash."""
    for number, weights in enumerate(("first", "second", "third")):
        trained(weights, 90.0)
        answer(workspace, set(range(20)), store_object, "ab" if number else "cd")
        register(workspace, params)
    assert promote(workspace, params, "1")[1]
    at = params.tracking
    old, new, third = (find_version(workspace, at, number) for number in "123")
    decision = examine(new, old, params, workspace)
    assert "other questions, media or gold than the champion's" in decision.reasons[0]
    assert decision.unanswered == ("easy_vqa",)
    out = tmp_path / "out"
    (out / "predictions").mkdir(parents=True)
    found = answers_folder(workspace, at, new)
    assert found is not None
    shutil.copy(found / "predictions/easy_vqa.jsonl", out / "predictions")
    scores = {"easy_vqa": {"accuracy": 88.0, "questions": "ab"}}
    (out / "metrics.json").write_text(json.dumps(scores))
    assert note_evaluation(workspace, at, old, scores, out) == []
    old = find_version(workspace, at, "1")
    assert list(old.later.values()) == [scores]
    shutil.rmtree(out)
    decision = examine(new, old, params, workspace)
    assert decision.passed
    assert decision.rows[0].champion == 88.0
    assert (decision.rows[0].gain, decision.rows[0].p, decision.rows[0].decided) == (2.0, 1.0, 0)
    # The next one with these questions needs nothing more, and the count goes on.
    note_decision(workspace, at, new, decision)
    assert find_version(workspace, at, "2").decision["rows"][0]["questions"] == "ab"
    decision = examine(third, old, params, workspace)
    assert decision.passed
    assert "these questions have judged 1 version before" in "".join(decision.notes)
    assert examine(find_version(workspace, at, "2"), old, params, workspace).rows[0].decided == 0


def test_a_page_sets_both_versions_side_by_side(workspace: Path, params: Params, versions: Any) -> None:
    new, old = versions(set(range(100, 126)))
    assert comparison_page(workspace, params, old, old) is None
    page = comparison_page(workspace, params, new, old)
    assert page is not None
    assert page.name == "against-version-1.html"
    text = page.read_text()
    assert "Lost since the champion" in text
    assert "Gained since the champion" in text
