"""The gate's decisions, each rule by itself."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from videollava.gate import Bar, Decision, Gate, Pair, Rules, decide, primary, read_pairs
from videollava.gate.benchmark import Scores

LOOSE = Gate(minimum_over_blind=10.0)


def answer(folder: Path, right: Sequence[bool], metrics: dict[str, Any] | None = None, per: int = 1) -> Path:
    """An evaluation's folder: these answers to the benchmark vqa, `per` questions a picture."""
    lines = [
        {
            "question_id": str(number),
            "question": f"<image>\nquestion {number}?",
            "answer": "a",
            "prediction": "a" if yes else "b",
            "correct": bool(yes),
            "media": [number // per],
        }
        for number, yes in enumerate(right)
    ]
    (folder / "predictions").mkdir(parents=True)
    (folder / "predictions/vqa.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "metrics.json").write_text(json.dumps({"vqa": metrics or {}}))
    return folder


def meet(
    tmp_path: Path,
    mine: Sequence[bool],
    theirs: Sequence[bool],
    gate: Gate = LOOSE,
    per: int = 1,
    **figures: Any,
) -> Decision:
    """The decision on these answers."""
    pairs, unlike = read_pairs(
        answer(tmp_path / "new", mine, per=per), [answer(tmp_path / "old", theirs, per=per)]
    )
    scores = [{"vqa": {"accuracy": 100.0 * sum(one) / len(one), "n": len(one)}} for one in (mine, theirs)]
    scores[0]["vqa"] |= figures
    pairs = {name: Pair(scores[1]["vqa"], p.comparison, p.differences, p.media) for name, p in pairs.items()}
    return decide(scores[0], scores[1], Rules(gate), pairs, unlike)


def changed(n: int, lost: int = 0, gained: int = 0) -> tuple[list[bool], list[bool]]:
    """Answers of candidate and champion to n questions; the last tenth is wrong in both."""
    old = [number < 0.9 * n for number in range(n)]
    new = list(old)
    for number in range(lost):
        new[number] = False
    for number in range(gained):
        old[lost + number] = False
    return new, old


@pytest.mark.parametrize(
    ("scores", "gate", "reason"),
    [
        ({"vqa": {"accuracy": 90.0}}, LOOSE, ""),
        (
            {"vqa": {"accuracy": 59.9}},
            Gate(benchmarks={"vqa": Bar(minimum=60.0)}),
            "vqa: 59.90 is below the minimum",
        ),
        (
            {"vqa": {"accuracy": 90.0, "blind_accuracy": 80.5}},
            LOOSE,
            "vqa: 90.00 is only +9.50 over the blinded model, +10.00 needed",
        ),
        ({"vqa": {"accuracy": 90.0, "blind_accuracy": 80.5}}, Gate(minimum_over_blind=9.0), ""),
        ({"vqa": {"accuracy": math.nan}}, LOOSE, "vqa: score is nan"),
        ({"vqa": {"accuracy": 99.0}}, Gate(benchmarks={"other": Bar(minimum=1.0)}), "other: no score"),
        ({"vqa": {"accuracy": 99.0}}, Gate(benchmarks={"other": Bar(minimum=1.0, dropped=True)}), ""),
        ({}, LOOSE, "no scores"),
        # A judge's 0-5 in points of a hundred: 0.6 of 5 are 12.
        ({"video-chatgpt-detail": {"score": 3.1, "blind_score": 2.5}}, LOOSE, ""),
        (
            {"video-chatgpt-detail": {"score": 2.9, "blind_score": 2.5}},
            LOOSE,
            "is only +8.00 over the blinded",
        ),
        (
            {"msvd": {"accuracy": 70.0, "n": 100, "invalid": 3, "judge": "gpt"}},
            LOOSE,
            "msvd: 3.0 % of the judge's replies could not be read, at most 2.0 % allowed",
        ),
        ({"msvd": {"accuracy": 70.0, "n": 100, "invalid": 3, "judge": "gpt"}}, Gate(most_unread=0.03), ""),
        ({"gqa": {"accuracy": 70.0, "n": 100, "invalid": 30}}, LOOSE, ""),  # a rule, and no judge
    ],
)
def test_a_first_version(scores: Scores, gate: Gate, reason: str) -> None:
    decision = decide(scores, None, Rules(gate))
    assert decision.passed == (not reason)
    assert any(reason in text for text in decision.reasons) if reason else not decision.reasons


def test_another_test_set_is_no_comparison(tmp_path: Path) -> None:
    """96% of fifty new questions do not beat 80% of two hundred old ones."""
    mine = answer(tmp_path / "new", [True] * 48 + [False] * 2, {"questions": "b"})
    theirs = answer(tmp_path / "old", [True] * 160 + [False] * 40, {"questions": "a"})
    pairs, unlike = read_pairs(mine, [theirs])
    scores = {"vqa": {"accuracy": 96.0}}, {"vqa": {"accuracy": 80.0}}
    decision = decide(*scores, Rules(LOOSE), pairs, unlike)
    assert not decision.passed
    assert "vqa: no comparison with the champion: other questions, media or gold" in decision.reasons[0]
    assert (decision.rows[0].champion, decision.rows[0].gain, decision.unanswered) == (None, None, ("vqa",))
    # Once the champion has answered them, its score there counts.
    later = answer(tmp_path / "later", [True] * 45 + [False] * 5, {"questions": "b", "accuracy": 90.0})
    pairs, unlike = read_pairs(mine, [theirs, later])
    gate = Gate(benchmarks={"vqa": Bar(allowed_regression=20.0)})
    decision = decide(*scores, Rules(gate), pairs, unlike)
    assert decision.passed
    assert (decision.rows[0].champion, decision.rows[0].gain) == (90.0, pytest.approx(6.0))
    first = Gate(benchmarks={"vqa": Bar(without_comparison=True)})
    decision = decide(*scores, Rules(first), *read_pairs(mine, [theirs]))
    assert decision.passed
    assert "not compared with the champion, as gate.yaml allows" in decision.notes[-1]


def test_without_hashes_the_questions_themselves_are_compared(tmp_path: Path) -> None:
    mine = answer(tmp_path / "new", [True] * 50, {"questions": "b"})
    same, fewer = answer(tmp_path / "old", [True] * 50), answer(tmp_path / "few", [True] * 49)
    assert list(read_pairs(mine, [same])[0]) == ["vqa"]
    assert "not the same questions" in read_pairs(mine, [fewer])[1]["vqa"]
    assert list(read_pairs(mine, [fewer, same])[0]) == ["vqa"]
    (fewer / "predictions/vqa.jsonl").write_text("not JSON\n")
    assert "not JSON" in read_pairs(mine, [fewer])[1]["vqa"]


def test_a_benchmark_may_be_dropped_or_added(tmp_path: Path) -> None:
    pairs, unlike = read_pairs(answer(tmp_path / "a", [True] * 900), [answer(tmp_path / "b", [True] * 900)])
    mine, champion = {"vqa": {"accuracy": 100.0}}, {"vqa": {"accuracy": 100.0}, "old": {"accuracy": 99.0}}
    decision = decide(mine, champion, Rules(LOOSE), pairs, unlike)
    assert decision.reasons[0].startswith("old: no score (gate.yaml or the champion has it; `dropped: true`")
    dropped = Gate(benchmarks={"old": Bar(dropped=True)})
    decision = decide(mine, champion, Rules(dropped), pairs, unlike)
    assert decision.passed
    assert "old: dropped in gate.yaml: whatever it scores does not count" in decision.notes
    assert "vqa: no entry of its own in gate.yaml: what holds for all benchmarks counts" in decision.notes
    assert decision.rows[1].verdict == "dropped"
    added = decide(mine | {"new": {"accuracy": 50.0}}, champion, Rules(dropped), pairs, unlike)
    assert added.reasons == ("new: no comparison with the champion: the champion was never asked",)
    assert added.unanswered == ("new",)
    encoders = {"headline": "text_to_media_r1", "text_to_media_r1": 50.0, "asked": "encoders"}
    added = decide(mine | {"pairs.audio": encoders}, champion, Rules(dropped), pairs, unlike)
    assert added.unanswered == ("pairs.audio",)
    unable = {"pairs.audio": "models:/videollava/1 has no encoder of audio (it has image, video)"}
    added = decide(mine | {"pairs.audio": encoders}, champion, Rules(dropped), pairs, unlike, unable=unable)
    assert added.reasons == (
        "pairs.audio: no comparison with the champion: the champion was never asked, and cannot be asked now: "
        "models:/videollava/1 has no encoder of audio (it has image, video); `without_comparison: true` for it in "
        "gate.yaml lets this one pass",
    )
    assert added.unanswered == ()
    let = dropped.replace(benchmarks=dropped.benchmarks | {"pairs.audio": Bar(without_comparison=True)})
    assert decide(mine | {"pairs.audio": encoders}, champion, Rules(let), pairs, unlike).passed


@pytest.mark.parametrize(
    ("answers", "gate", "reason"),
    [
        (changed(2_000), LOOSE, ""),  # as good is good enough, where there is enough to see it
        (changed(300), LOOSE, "vqa: +0.00 against the champion, but that it lost up to 1.1"),
        (changed(100), Gate(allowed_regression=4.0), ""),
        (changed(2_000, lost=5, gained=5), LOOSE, ""),
        (changed(2_000, lost=30), LOOSE, "vqa: -1.50 against the champion, at most -1.00 allowed"),
        (
            changed(2_000, lost=14),
            Gate(minimum_gain=-5.0),
            "-0.70 against the champion, but that it lost up to 1.1",
        ),
        (changed(2_000, lost=14), Gate(minimum_gain=-5.0, allowed_regression=1.5), ""),
        (
            changed(2_000, lost=14),
            Gate(allowed_regression=1.5),
            "mean gain over the champion -0.70, at least +0.00",
        ),
        (
            changed(2_000, gained=3),
            Gate(minimum_gain=0.1),
            "mean gain over the champion +0.15, which equal models",
        ),
        (changed(2_000, gained=20), Gate(minimum_gain=0.5), ""),
        (
            changed(2_000, gained=8),
            Gate(minimum_gain=0.5),
            "mean gain over the champion +0.40, at least +0.50",
        ),
        (changed(2_000, gained=20), Gate(benchmarks={"vqa": Bar(minimum_gain=2.0)}), "at least +2.00 needed"),
        (
            changed(2_000, gained=3),
            Gate(benchmarks={"vqa": Bar(minimum_gain=0.1)}),
            "which equal models would show",
        ),
        (
            changed(2_000, lost=30),
            Gate(benchmarks={"vqa": Bar(allowed_regression=3.0)}, minimum_gain=-5.0),
            "",
        ),
    ],
)
def test_against_the_champion(tmp_path: Path, answers: Any, gate: Gate, reason: str) -> None:
    decision = meet(tmp_path, *answers, gate)
    assert decision.passed == (not reason), decision.reasons
    assert reason in "".join(decision.reasons)


def test_few_questions_say_how_many_are_needed(tmp_path: Path) -> None:
    decision = meet(tmp_path, *changed(100), LOOSE, per=4)
    (reason,) = decision.reasons
    assert "100 questions about 25 media are too few" in reason
    needed = int(reason.partition("from about ")[2].split()[0].replace(",", ""))
    wide = float(reason.partition("`allowed_regression: ")[2].partition("`")[0])
    assert 400 < needed < 500
    assert meet(tmp_path / "wide", *changed(100), Gate(allowed_regression=wide), per=4).passed
    assert meet(tmp_path / "many", *changed(4 * needed), LOOSE, per=4).passed


def test_a_rule_without_a_level_is_named(tmp_path: Path) -> None:
    gate = Gate(rule="not_shown_worse", minimum_gain=-100.0)
    decision = meet(tmp_path / "few", *changed(50, lost=2, gained=1), gate)
    assert decision.passed
    assert "equal models would show as well (p=1.000)" in "".join(decision.notes)
    assert "refuses, at no level" in "".join(decision.notes)
    assert not meet(tmp_path / "more", *changed(50, lost=8), gate).passed


def test_questions_about_one_picture_count_together(tmp_path: Path) -> None:
    answers = changed(2_000, lost=8)
    gate = Gate(minimum_gain=-5.0)
    assert meet(tmp_path / "apart", *answers, gate).passed
    together = meet(tmp_path / "together", *answers, gate, per=8)  # one picture of 250 is lost whole
    assert "2,000 questions about 250 media" in together.reasons[0]


def test_what_is_no_mean_of_answers_may_not_fall_either(tmp_path: Path) -> None:
    decision = meet(tmp_path, *changed(2_000), LOOSE, mean_f1=85.0, headline="mean_f1")
    assert not decision.passed
    assert "-5.00 against the champion" in decision.reasons[0]
    assert "its figure is no mean of answers" in "".join(decision.notes)


def test_what_is_reported_and_not_refused() -> None:
    leaks = {"media": 3, "of_media": 40, "questions": 9, "near": 2, "both": 1}
    mine = {"vqa": {"accuracy": 80.0, "contamination": leaks, "missing_media": 4}}
    rules = Rules(Gate(benchmarks={"vqa": Bar()}), notes=("gate.yaml here differs",))
    decision = decide(mine, None, rules, decided={"vqa": 14})
    assert decision.passed
    assert decision.notes == (
        "gate.yaml here differs",
        "vqa: these questions have judged 14 versions before",
        "vqa: in the training data are 3 of its media, 2 questions nearly so, 1 questions with their medium",
        "vqa: 4 questions lack their medium and count as wrong",
    )
    assert decision.rows[0].decided == 14


def test_the_decision_as_json_has_everything(tmp_path: Path) -> None:
    gate = Gate(benchmarks={"vqa": Bar(minimum=60.0)})
    pairs, unlike = read_pairs(answer(tmp_path / "a", [True] * 900), [answer(tmp_path / "b", [True] * 900)])
    scores = {"vqa": {"accuracy": 100.0, "questions": "ab" * 32}}
    rules = Rules(gate, "origin/main at 0123", "0123", "cd" * 32, "videollava")
    decision = decide(scores, scores, rules, pairs, unlike)
    told = json.loads(json.dumps(decision.as_dict(), allow_nan=False))
    (row,) = told["rows"]
    assert (row["questions"], row["n"], row["media"], row["p"]) == ("ab" * 32, 900, 900, 1.0)
    assert row["at_least"] == pytest.approx(-0.39, abs=0.01)
    assert row["p_worse"] < 0.05
    assert told["rules"]["sha256"] == "cd" * 32
    assert told["rules"]["gate"] == {"benchmarks": {"vqa": {"minimum": 60.0}}}
    lonely = decide({"vqa": {"accuracy": math.inf}}, None, rules)
    json.dumps(lonely.as_dict(), allow_nan=False)


def test_the_table_tells_all(tmp_path: Path) -> None:
    decision = meet(tmp_path, *changed(2_000, lost=30), blind_accuracy=20.0)
    assert decision.cells() == [
        {
            "benchmark": "vqa",
            "score": "88.50",
            "blinded": "20.00",
            "champion": "90.00",
            "gain": "-1.50",
            "at least": "-2.03",
            "allowed": "-1.00",
            "verdict": "refused (p=0.000)",
        }
    ]
    lines = decision.table().splitlines()
    assert len({len(line) for line in lines}) == 1


def test_the_figure_that_counts() -> None:
    assert primary({"n": 10, "score": 3.0, "accuracy": 50}) == 50.0
    assert primary({"score": 3.0}) == 3.0
    assert primary({"accuracy": "good"}) is None
    assert primary(None) is None
    assert primary({"accuracy": 50.0, "mean_f1": 80.0, "headline": "mean_f1"}) == 80.0
