"""What is done is not done again: outcomes by code and settings, lanes that leave the checkout alone."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from flows.claims import course as module
from flows.claims import page
from flows.claims.arms import ARMS, BASE, Contrast
from flows.claims.course import Course, time_left
from flows.claims.ground import Ground, Outcome, code_key, outcome_key
from flows.claims.page import Report, write
from flows.claims.pooled import pool
from flows.claims.power import Plan
from videollava.params import load_params

ROOT = Path(__file__).resolve().parents[3]
PROFILE = "videollava/profiles/claims.yaml"


def git(folder: Path, *words: str) -> str:
    line = ["git", "-c", "user.name=t", "-c", "user.email=t@t", *words]
    return subprocess.run(line, cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A checkout with a graph of two files, a DVC folder, and the profile."""
    root = tmp_path / "home"
    for name, text in {
        "dvc.yaml": "stages:\n  align:\n    cmd: x\n    deps: [code.py, data/index]\n    outs: [models]\n",
        "params.yaml": "profile: tiny\n",
        "code.py": "1\n",
        "other.py": "1\n",
        ".dvc/config": "",
        ".gitignore": "/.prefect/\n/.dvc/cache\n/.dvc/config.local\n",
        PROFILE: (ROOT / PROFILE).read_text(),
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    git(root, "init", "--quiet")
    commit(root)
    return root


def commit(root: Path) -> str:
    git(root, "add", "-A")
    git(root, "commit", "--quiet", "-m", "x")
    return git(root, "rev-parse", "HEAD")


def answer(lane: Path, right: str) -> None:
    """As an evaluation leaves it."""
    place = lane / "evaluation/predictions"
    place.mkdir(parents=True, exist_ok=True)
    rows = [
        {
            "question_id": str(number),
            "kind": "color",
            "question": "what color?",
            "answer": "red",
            "prediction": digit,
            "correct": digit == "1",
            "media": [number],
            "media_sums": [f"{number:016x}"],
        }
        for number, digit in enumerate(right)
    ]
    for name in ("easy_vqa", "toy_video_qa"):
        (place / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (lane / "metrics.json").write_text("{}")


def test_an_outcome_belongs_to_code_and_settings_and_to_no_other_commit(home: Path) -> None:
    params = load_params(home / PROFILE)
    first = outcome_key(code_key(home), params)
    (home / "other.py").write_text("2\n")
    commit(home)
    assert outcome_key(code_key(home), params) == first
    assert outcome_key(code_key(home), params.replace(seed=1)) != first
    (home / "code.py").write_text("2\n")
    assert outcome_key(code_key(home), params) == first  # not committed: not tried
    commit(home)
    assert outcome_key(code_key(home), params) != first


def test_what_ended_is_not_run_again_and_the_checkout_stays_as_it_was(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {name: (home / name).read_bytes() for name in ("params.yaml", "dvc.yaml")}
    ran: list[tuple[str, int]] = []
    broken = {"separate"}

    def retrain(self: Course, lane: Path, run: module.Run) -> tuple[int, str]:
        ran.append((run.arm.name, run.seed))
        (lane / "params.yaml").write_text("changed\n")
        if run.arm.name in broken:
            return 1, "error: broken"
        answer(lane, "1111" if run.arm.name == BASE else "1100")
        return 0, ""

    monkeypatch.setattr(Course, "_retrain", retrain)
    told: list[str] = []

    def runs(seeds: int) -> list[module.Run]:
        return [module.Run(arm, seed) for seed in range(seeds) for arm in ARMS[:3]]

    def start(seeds: int) -> Course:
        course = Course(Ground(home, git(home, "rev-parse", "HEAD")), runs(seeds), 1, (), told.append)
        course.run()
        return course

    first = start(1)
    assert ran == [("aligned", 0), ("separate", 0), ("pictures", 0)]
    assert first.failed == {("separate", 0): "error: broken"}
    broken.clear()
    ran.clear()
    second = start(2)
    assert ran == [("separate", 0), ("aligned", 1), ("separate", 1), ("pictures", 1)]
    assert len(second.outcomes) == 6
    assert not second.failed
    assert "seed 0 aligned: done before" in told
    assert told[-1].startswith("[6/6] seed 1 pictures: easy_vqa 50.0, toy_video_qa 50.0 in ")
    assert {name: (home / name).read_bytes() for name in before} == before
    assert git(home, "status", "--porcelain") == ""

    def lose(self: Course, lane: Path, run: module.Run) -> tuple[int, str]:
        raise ValueError("a lane that breaks")

    monkeypatch.setattr(Course, "_retrain", lose)
    with pytest.raises(ValueError, match="a lane that breaks"):
        start(3)

    ran.clear()
    again = Course(second.ground, runs(2))
    again.recall()
    assert not again.missing
    assert again.outcomes == second.outcomes
    assert not ran


def test_a_lane_keeps_the_locks_of_its_sources_until_the_commit_has_others(home: Path) -> None:
    (home / "locks").mkdir()
    (home / "locks/clips.json").write_text("of tiny")
    ground = Ground(home, commit(home))
    lane = ground.lane(0)
    (lane / "locks/clips.json").write_text("of claims")
    (lane / "params.yaml").write_text("changed")
    ground.lane(0)
    assert (lane / "locks/clips.json").read_text() == "of claims"
    assert (lane / "params.yaml").read_text() == "profile: tiny\n"
    (home / "other.py").write_text("3\n")
    Ground(home, commit(home)).lane(0)
    assert (lane / "locks/clips.json").read_text() == "of claims"
    assert (lane / "other.py").read_text() == "3\n"
    (home / "locks/clips.json").write_text("of tiny, newer")
    Ground(home, commit(home)).lane(0)
    assert (lane / "locks/clips.json").read_text() == "of tiny, newer"


def test_half_an_outcome_is_none(home: Path) -> None:
    ground = Ground(home, git(home, "rev-parse", "HEAD"))
    lane = ground.lane(0)
    outcome = Outcome("k" * 24, "aligned", 0, ground.commit, 1.0, {})
    with pytest.raises(FileNotFoundError):
        ground.keep(lane, outcome)  # there is no evaluation
    assert ground.find(outcome.key) is None
    answer(lane, "10")
    ground.keep(lane, outcome)
    assert ground.find(outcome.key) == outcome
    assert ground.results(outcome)["easy_vqa"].score.value == 50.0


def test_time_left_counts_what_each_arm_took() -> None:
    assert time_left(["a", "b"], [], 1) == 0.0
    took = [("a", 100.0), ("a", 200.0), ("b", 30.0)]
    assert time_left(["a", "b", "b"], took, 1) == pytest.approx(150 + 30 + 30)
    assert time_left(["c", "c"], took, 2) == pytest.approx(110.0)


def test_the_page_says_commit_machine_command_power_and_the_seeds(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page, "describe_machine", lambda: "2 cores of a Test, computing in float32")
    ground = Ground(home, git(home, "rev-parse", "HEAD"))
    lane = ground.lane(0)
    outcomes = {}
    scores: dict[str, dict[int, dict[str, object]]] = {}
    for arm, right in ((BASE, "1" * 12), ("separate", "0" * 12), ("no-dropout", "1" * 12)):
        for seed in (0, 1):
            outcome = Outcome(
                f"{arm}{seed}", arm, seed, ground.commit, 60.0, {"align": 40.0 + (arm == "no-dropout") * 40}
            )
            answer(lane, right)
            ground.keep(lane, outcome)
            outcomes[arm, seed] = outcome
            scores.setdefault(arm, {})[seed] = ground.results(outcome)
    base = {seed: by["easy_vqa"] for seed, by in scores[BASE].items()}
    found = {
        "a": [
            pool((BASE, "separate"), base, {seed: by["easy_vqa"] for seed, by in scores["separate"].items()})
        ],
        "e": [
            pool(
                (BASE, "no-dropout"),
                base,
                {seed: by["easy_vqa"] for seed, by in scores["no-dropout"].items()},
            )
        ],
    }
    plans = {Contrast("separate", "easy_vqa"): Plan(12, 12, 2)}
    failed = {("clips", 1): "error: no room"}
    report = Report([ground.commit], "make claims", 8, [0, 1], plans, outcomes, failed, scores, found)
    sentences = write(report, tmp_path / "docs")
    text = (tmp_path / "docs/claims.md").read_text()
    assert sentences[0].startswith("(a) holds here")
    assert (
        f"`make claims` at commit {ground.commit[:12]} on 2 cores of a Test, computing in float32: 6 ret"
        in text
    )
    assert "(up to 2 seeds an arm), 0.1 hours" in text
    assert "| a | easy-VQA | aligned, separate | 12 | 12 | 2 | " in text
    assert "\n2 more that it asks for are not done yet" in text
    assert "- **(a) holds here**: aligned encoders answer better" in text
    assert "| a | easy-VQA | aligned | separate | 100.00 | 0.00 | +100.00 [+100.00, +100.00] |" in text
    assert "CPU time of `align`, the mean over runs: 40 s in `aligned`, 80 s in `no-dropout` (-50 %)." in text
    assert "- seed 1, `clips`: error: no room" in text
    picture = (tmp_path / "docs/claims.svg").read_bytes()
    assert picture.startswith(b"<?xml")
    write(report, tmp_path / "docs")
    assert (tmp_path / "docs/claims.svg").read_bytes() == picture
