"""Two evaluations, question by question."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from videollava.errors import InputError
from videollava.evaluate.compare import compare, format_comparison, format_interval, to_html
from videollava.evaluate.results import Answer, group_by_medium, interval, read_results
from videollava.evaluate.statistics import flip_signs


def row(key: int, right: bool, **changes: Any) -> dict[str, Any]:
    return {
        "question_id": f"q{key}",
        "kind": "color" if key % 2 else "shape",
        "question": f"<image>\nquestion {key}?",
        "answer": "red",
        "prediction": "red" if right else "blue",
        "correct": right,
        "media": [key],
    } | changes


def evaluation(
    folder: Path,
    rows: Sequence[dict[str, Any]],
    name: str = "easy_vqa",
    metrics: dict[str, Any] | None = None,
) -> Path:
    file = folder / "predictions" / f"{name}.jsonl"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(r) + "\n" for r in rows))
    if metrics:
        (folder / "metrics.json").write_text(json.dumps(metrics))
    return folder


def test_scores_changes_and_test_are_those_of_the_answers(tmp_path: Path) -> None:
    a = evaluation(tmp_path / "a", [row(key, key >= 30) for key in range(100)])
    b = evaluation(tmp_path / "b", [row(key, key not in (40, 41)) for key in range(100)])
    (contrast,) = compare(a, b).contrasts
    assert (contrast.a.value, contrast.b.value) == (70.0, 98.0)
    assert contrast.a.low < 70 < contrast.a.high
    assert contrast.paired.difference == pytest.approx(28.0)
    assert contrast.paired.p == flip_signs([1.0] * 30 + [-1.0] * 2)
    assert [change.after.id for change in contrast.broken] == ["q40", "q41"]
    assert [change.before.id for change in contrast.fixed] == [f"q{key}" for key in range(30)]
    assert contrast.by_kind["color"].n == 50
    assert contrast.by_kind["shape"].lost == 1


def test_order_of_lines_does_not_matter(tmp_path: Path) -> None:
    rows = [row(key, key % 3 == 0) for key in range(40)]
    a = evaluation(tmp_path / "a", rows)
    b = evaluation(tmp_path / "b", rows[::-1])
    (contrast,) = compare(a, b).contrasts
    assert not contrast.fixed
    assert not contrast.broken
    assert contrast.paired.difference == 0


def test_text_names_both_verdicts_and_changes(tmp_path: Path) -> None:
    a = evaluation(tmp_path / "a", [row(key, key >= 30) for key in range(100)])
    b = evaluation(tmp_path / "b", [row(key, key != 40, prediction="Red\x1b[31m") for key in range(100)])
    text = format_comparison(compare(a, b), listed=2)
    head, line = text.splitlines()[3:5]
    assert head.startswith("benchmark")
    assert line.split()[:3] == ["easy-VQA", "100", "70.00"]
    assert "better" in line
    assert "<0.001" in line
    assert "easy-VQA: broken (1)" in text
    assert "... and 28 more" in text
    assert "q40  question 40?  gold: red" in text
    assert "69 more answers in other words" in text
    assert "\x1b" not in text


def test_an_equal_pair_is_unclear(tmp_path: Path) -> None:
    rows = [row(key, True) for key in range(20)]
    a, b = evaluation(tmp_path / "a", rows), evaluation(tmp_path / "b", rows)
    line = format_comparison(compare(a, b)).splitlines()[4]
    assert "unclear" in line
    assert "+0.00" in line


def test_parts_of_a_point(tmp_path: Path) -> None:
    a = evaluation(tmp_path / "a", [row(key, True, score=30.0) for key in range(50)], "vqav2")
    b = evaluation(tmp_path / "b", [row(key, True, score=30 + key % 4 * 10) for key in range(50)], "vqav2")
    (contrast,) = compare(a, b).contrasts
    assert contrast.a.value == 30
    assert contrast.paired.p < 0.001
    assert contrast.paired.difference == pytest.approx(14.6)
    assert "better" in format_comparison(compare(a, b))


def test_questions_about_one_picture_are_tested_together(tmp_path: Path) -> None:
    def of(name: str, wrong: set[int], **changes: Any) -> Path:
        return evaluation(
            tmp_path / name, [row(n, n not in wrong, media=[n // 8], **changes) for n in range(80)]
        )

    a, b = of("a", set()), of("b", set(range(16)))  # all eight questions about two of ten pictures
    (contrast,) = compare(a, b).contrasts
    assert (contrast.paired.n, contrast.paired.media) == (80, 10)
    assert contrast.paired.p == 0.5
    assert "unclear" in format_comparison(compare(a, b))


def test_media_are_told_by_their_bytes(tmp_path: Path) -> None:
    def of(name: str, numbers: Sequence[int], sums: Sequence[str] | None) -> Path:
        rows = [row(n, True, media=[numbers[n]]) for n in range(4)]
        for n, one in enumerate(rows if sums else ()):
            one["media_sums"] = [sums[n]]
        return evaluation(tmp_path / name, rows)

    old, new = of("old", [1, 1, 2, 2], None), of("new", [7, 8, 9, 9], ["aa", "aa", "bb", "bb"])
    (contrast,) = compare(of("other", [3, 3, 4, 5], None), new).contrasts
    assert contrast.paired.media == 2
    assert compare(old, new).contrasts[0].paired.media == 2
    with pytest.raises(InputError, match="question 'q3' is about other media"):
        compare(of("changed", [1, 1, 2, 2], ["aa", "aa", "bb", "cc"]), new)


def test_questions_with_several_media_count_with_all_that_they_tie_together() -> None:
    def about(key: str, *media: int) -> Answer:
        return Answer(key, "", "?", "a", "a", True, 100.0, media)

    found = group_by_medium([about("1", 1), about("2", 2, 3), about("3", 3, 1), about("4", 4), about("5")])
    assert found["1"] == found["2"] == found["3"]
    assert len({found[key] for key in ("1", "4", "5")}) == 3


def test_two_judges_are_refused(tmp_path: Path) -> None:
    rows = [row(key, True) for key in range(4)]
    a = evaluation(tmp_path / "a", rows, "msvd", {"msvd": {"judge": "gpt-3.5", "judge_prompt": "match/1"}})
    b = evaluation(tmp_path / "b", rows, "msvd", {"msvd": {"judge": "qwen", "judge_prompt": "match/1"}})
    with pytest.raises(
        InputError, match=r"msvd: graded in .*a by gpt-3.5 match/1 and in .*b by qwen match/1"
    ):
        compare(a, b)
    (b / "metrics.json").unlink()
    with pytest.raises(InputError, match="by no judge"):
        compare(a, b)
    (b / "metrics.json").write_text((a / "metrics.json").read_text())
    assert "both judged by gpt-3.5 match/1" in format_comparison(compare(a, b))


def test_the_judge_is_read_beside_a_workspace_evaluation(tmp_path: Path) -> None:
    folder = evaluation(tmp_path / "evaluation", [row(1, True)], "msvd")
    (tmp_path / "metrics.json").write_text(json.dumps({"msvd": {"judge": {"name": "j", "version": 2}}}))
    assert read_results(folder)["msvd"].judge == '{"name": "j", "version": 2}'


def test_other_questions_are_refused(tmp_path: Path) -> None:
    a = evaluation(tmp_path / "a", [row(key, True) for key in range(6)])
    b = evaluation(tmp_path / "b", [row(key, True) for key in range(1, 8)])
    with pytest.raises(InputError, match=r"easy_vqa: .*1 only in .*a \(q0\) and 2 only in .*b \(q6, q7\)"):
        compare(a, b)
    evaluation(b, [row(key, True) for key in range(5)] + [row(5, True, answer="green")])
    with pytest.raises(InputError, match=r"question 'q5' expects 'red' in .*a and 'green' in .*b"):
        compare(a, b)
    evaluation(b, [row(0, True, question="other?"), *(row(key, True) for key in range(1, 6))])
    with pytest.raises(InputError, match=r"question 'q0' asks 'question 0\?' in .* and 'other\?'"):
        compare(a, b)


def test_benchmarks_of_one_alone_are_named(tmp_path: Path) -> None:
    rows = [row(key, True) for key in range(4)]
    a = evaluation(evaluation(tmp_path / "a", rows), rows, "gqa")
    b = evaluation(evaluation(tmp_path / "b", rows), rows, "mine")
    found = compare(a, b)
    assert (found.only_a, found.only_b) == (("gqa",), ("mine",))
    text = format_comparison(found)
    assert "Only A was scored on GQA: not compared." in text
    assert "Only B was scored on mine: not compared." in text
    with pytest.raises(InputError, match="no benchmark in common"):
        compare(evaluation(tmp_path / "c", rows, "gqa"), evaluation(tmp_path / "d", rows))


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "line 2: not JSON"),
        ("[]", "line 2: must be an object"),
        (json.dumps(row(2, True) | {"prediction": None}), "line 2: prediction is None"),
        (json.dumps(row(2, True) | {"correct": 1}), "line 2: correct must be true or false"),
        (json.dumps(row(2, True) | {"score": "high"}), "line 2: score is 'high', not a number"),
        (json.dumps(row(1, True)), "line 2: question 'q1' comes twice"),
    ],
)
def test_a_line_that_cannot_be_read_is_named(tmp_path: Path, line: str, said: str) -> None:
    folder = evaluation(tmp_path / "a", [row(1, True)])
    with (folder / "predictions/easy_vqa.jsonl").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(InputError, match=said):
        read_results(folder)


def test_no_predictions_and_no_answers_are_errors(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no predictions"):
        compare(tmp_path, tmp_path)
    with pytest.raises(InputError, match="holds no answer"):
        read_results(evaluation(tmp_path, []))


def test_line_separators_within_text_do_not_end_a_line(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    (folder / "predictions").mkdir(parents=True)
    text = json.dumps(row(1, True, prediction="one\u2028two\x85three"), ensure_ascii=False)
    (folder / "predictions/easy_vqa.jsonl").write_text(text + "\n", encoding="utf-8")
    assert read_results(folder)["easy_vqa"].answers["q1"].prediction == "one\u2028two\x85three"


def test_interval_of_answers_that_are_all_alike_is_exact() -> None:
    right = interval([100.0] * 50)
    assert (right.value, right.high) == (100.0, 100.0)
    assert right.low == pytest.approx(92.887, abs=1e-3)  # Clopper-Pearson, 50 of 50
    wrong = interval([0.0] * 50)
    assert [wrong.low, wrong.high] == pytest.approx([0.0, 7.113], abs=1e-3)
    assert interval([5.0] * 10, full=5.0).low == pytest.approx(3.457, abs=1e-3)
    assert format_interval(right) == "100.00 [92.9, 100.0]"


def test_html_holds_tables_and_escapes(tmp_path: Path) -> None:
    a = evaluation(tmp_path / "a", [row(key, True) for key in range(30)])
    b = evaluation(tmp_path / "b", [row(key, False, prediction="<script>x</script>") for key in range(30)])
    page = to_html(compare(a, b))
    assert page.startswith("<!doctype html>")
    assert "<script" not in page
    assert "&lt;script&gt;x&lt;/script&gt;" in page
    assert "Right in A, wrong or worse in B (30)" in page
    assert page == to_html(compare(a, b))
