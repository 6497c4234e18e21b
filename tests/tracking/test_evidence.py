"""The gate asks the answers themselves: a loss that chance explains does not refuse, a real one does."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from videollava.params import Params, parse_params
from videollava.registry import Store, champion, examine, find_version, promote, register
from videollava.registry.evidence import answers_folder, comparison_page

QUESTIONS = 200


@pytest.fixture
def params() -> Params:
    return parse_params({"seed": 1, "finetune": {"epochs": 2}, "gate": {"minimum_gain": -5.0}})


def answer(workspace: Path, wrong: set[int], put: Callable[..., str]) -> None:
    """Put an evaluation with these questions answered wrongly where the evaluate stage would leave it."""
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


def test_a_loss_by_chance_is_noted_and_passes(workspace: Path, params: Params, versions: Any) -> None:
    # 26 others are wrong where 20 of the old ones are right now: equal models differ as much.
    decision = examine(*versions(set(range(100, 126))), params, workspace)
    assert not decision.reasons
    assert decision.rows[0].gain == pytest.approx(-3.0)
    assert "equal models would show as well" in decision.notes[0]


def test_a_real_loss_is_refused(workspace: Path, params: Params, versions: Any) -> None:
    decision = examine(*versions(set(range(40))), params, workspace)
    assert not decision.passed
    assert "-10.00 against the champion" in decision.reasons[0]
    assert decision.rows[0].p is not None
    assert decision.rows[0].p < 0.001


def test_answers_are_taken_from_the_remote_or_done_without(
    workspace: Path, params: Params, versions: Any
) -> None:
    new, old = versions(set(range(100, 126)))
    cache, remote = workspace / ".dvc/cache/files", workspace.parent / "remote"
    remote.mkdir()
    shutil.copytree(cache, remote / "files")
    shutil.rmtree(cache)
    assert answers_folder(workspace, params.tracking, old) is None
    decision = examine(new, old, params, workspace)
    assert "-3.00 against the champion, at most -1.00 allowed" in decision.reasons[0]
    assert "version 2 and champion 1 are compared by figures alone" in decision.notes[-1]
    far = [Store(str(remote))]
    # What a remote holds damaged is not taken.
    (listing,) = (file for file in (remote / "files/md5").rglob("*.dir") if file.name[:30] in new.evaluation)
    kept = listing.read_bytes()
    listing.chmod(0o644)
    listing.write_bytes(b"[]")
    assert answers_folder(workspace, params.tracking, new, far) is None
    listing.write_bytes(kept)
    assert examine(new, old, params, workspace, far).passed


def test_a_champion_whose_answers_cannot_be_read_bars_nobody(
    workspace: Path, params: Params, versions: Any
) -> None:
    new, old = versions(set(range(10)))
    folder = answers_folder(workspace, params.tracking, old)
    assert folder is not None
    file = folder / "predictions/easy_vqa.jsonl"
    size = file.stat().st_size
    file.unlink()  # a link into the store
    file.write_text("not JSON\n".ljust(size))
    decision = examine(new, old, params, workspace)
    assert decision.passed
    assert "compared by figures alone" in decision.notes[-1]
    assert "easy_vqa.jsonl" in decision.notes[-1]


def test_a_page_sets_both_versions_side_by_side(workspace: Path, params: Params, versions: Any) -> None:
    new, old = versions(set(range(100, 126)))
    assert comparison_page(workspace, params, old, old) is None
    page = comparison_page(workspace, params, new, old)
    assert page is not None
    assert page.name == "against-version-1.html"
    text = page.read_text()
    assert "Lost since the champion" in text
    assert "Gained since the champion" in text
