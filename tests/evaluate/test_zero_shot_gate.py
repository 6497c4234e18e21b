"""`dvc repro evaluate` with `evaluate.zero_shot`, as a person types it, and what the gate makes of its figures."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from micro import ROOT, settings, write_machine

from flows.places.workspace import apply_params
from videollava import registry
from videollava.data.modalities import KINDS
from videollava.params import Params, load_params

# So few media tell nothing: what is lost does not count here, but the least that sounds must reach does.
GATE = """\
videollava:
  minimum_gain: -100.0
  allowed_regression: 100.0
  minimum_over_blind: -100.0
"""
ASKED = "  benchmarks: {{toy_pairs.audio: {{minimum: {least}}}}}\n"
CLIPS = "{clips: {kind: generated, format: clips, train: 24, test: 8, seed: 1, senses: [image, depth, thermal, audio]}}"
SMALL = "{epochs: 1, batch_size: 8}"
WISHES = settings(
    f"sources={CLIPS}",
    "model.audio_bins=32",
    "model.audio_frames=64",
    "evaluate.blind=false",
)


def git(folder: Path, *arguments: str) -> str:
    line = ["git", "-c", "user.name=t", "-c", "user.email=t@t", *arguments]
    return subprocess.run(line, cwd=folder, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """This repository's files as they are now, committed by themselves, with micro parameters."""
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / "site"))
    for name in ("MLFLOW_TRACKING_URI", "PREFECT_API_URL", "DVC_STAGE"):
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "checkout"
    for name in git(ROOT, "ls-files", "--cached", "--others", "--exclude-standard").splitlines():
        if (ROOT / name).is_file() and name != "dvc.lock":
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    (folder / ".venv").symlink_to(sys.prefix)
    (folder / "gate.yaml").write_text(GATE)
    write_machine(folder)
    git(folder, "init", "--quiet")
    git(folder, "add", "-A")
    git(folder, "commit", "--quiet", "-m", "start")
    return folder


def evaluate(checkout: Path, epochs: int, benchmarks: str = "[toy_pairs]") -> tuple[Params, dict[str, Any]]:
    """The graph up to `evaluate` by DVC itself, sounds learned in so many epochs; parameters and figures."""
    towers = f"align.towers={{depth: {SMALL}, thermal: {SMALL}, audio: {{epochs: {epochs}, batch_size: 8}}}}"
    apply_params(checkout, "tiny", [*WISHES, towers, f"evaluate.zero_shot={benchmarks}"])
    call(checkout, "dvc", "repro", "evaluate")
    return load_params(checkout / "params.yaml"), json.loads((checkout / "metrics.json").read_text())


def call(checkout: Path, *words: str) -> str:
    """`python -m WORDS` in the checkout, by its own code; what it says."""
    done = subprocess.run(
        [sys.executable, "-m", *words], cwd=checkout, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.slow
def test_champion_and_candidate_meet_on_what_their_encoders_find(checkout: Path) -> None:
    params, unasked = evaluate(checkout, epochs=1, benchmarks="[]")
    assert set(unasked) == {"toy_video_qa"}
    one, _ = registry.register(checkout, params)
    outcome = registry.promote(checkout, params, str(one.number))
    assert outcome.move is not None, outcome.decision.reasons
    params, first = evaluate(checkout, epochs=1)  # what the champion would have said then: kept by nobody
    asked = {f"toy_pairs.{part}" for part in (*KINDS, "across")}
    assert set(first) == {"toy_video_qa", *asked}
    page = (checkout / "evaluation/report.html").read_text()
    assert "Encoders by themselves" in page
    assert "Held-out pairs" not in page  # align.validations is 0 here

    with (checkout / "videollava/embedding/search.py").open("a") as code:
        code.write("# other code than the champion's\n")
    git(checkout, "commit", "--quiet", "-am", "change what no stage reads")
    params, second = evaluate(checkout, epochs=3)
    two, new = registry.register(checkout, params)
    assert new
    decision = registry.examine(two, one, params, checkout)
    assert set(decision.unanswered) == asked
    command = decision.notes[-1].partition("`")[2].partition("`")[0].split()
    assert command[:2] == ["videollava", "evaluate"]
    said = call(checkout, *command)
    assert f"{one.reference} answers by its own code" in said
    one = registry.find_version(checkout, params.tracking, str(one.number))
    (later,) = one.later.values()
    assert later == {name: first[name] for name in asked}

    decision = registry.examine(two, one, params, checkout)
    rows = {row.benchmark: row for row in decision.rows}
    for name in asked:
        row, kinds = rows[name], len(KINDS)
        headline = second[name]["headline"]
        assert row.score == pytest.approx(second[name][headline])
        assert row.champion == pytest.approx(first[name][headline])
        assert row.gain == pytest.approx(second[name][headline] - first[name][headline])
        assert row.media == 8 or name.endswith("across")
        assert row.n == (8 * kinds * (kinds - 1) if name.endswith("across") else 8)
        assert row.p is not None
    assert rows["toy_pairs.depth"].gain == 0  # it learned the very same
    assert not decision.unanswered

    (checkout / "gate.yaml").write_text(GATE + ASKED.format(least=100.5))
    git(checkout, "commit", "--quiet", "-am", "ask for more")
    refused = registry.promote(checkout, params, str(two.number))
    assert refused.move is None
    assert any(
        "toy_pairs.audio: " in reason and "below the minimum" in reason for reason in refused.decision.reasons
    )
    (checkout / "gate.yaml").write_text(GATE + ASKED.format(least=0))
    git(checkout, "commit", "--quiet", "-am", "ask for less")
    moved = registry.promote(checkout, params, str(two.number))
    assert moved.move is not None, moved.decision.reasons
    assert (moved.move.came_from, moved.move.to) == (one.number, two.number)
