"""Every genuine file is scored. The figures were worked out apart from this code, by straight transcription
of the official rules; where the files are complete they are the published ones.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from videollava.evaluate.score import as_json, as_text, score

VIDEO = "full/video_qa_judge/{}_Zero_Shot_QA/"
FIVE = "full/video_chatgpt5/"


class Case(NamedTuple):
    benchmark: str
    gold: tuple[str, ...]
    answers: str
    replies: str
    wanted: dict[str, float]


def vqa(folder: str, answers: str, **wanted: float) -> Case:
    return Case("vqav2", (folder + "annotations.json",), folder + answers, "", wanted)


def judged(benchmark: str, folder: str, **wanted: float) -> Case:
    gold = (folder + "test_a.json", folder + "test_q.json")
    return Case(benchmark, gold, folder + "merge.jsonl", folder + "judge_replies.json", wanted)


def five(name: str, folder: str, wanted: float, n: int) -> Case:
    folder = FIVE + folder
    replies = folder + "judge_replies.json"
    return Case(f"video-chatgpt-{name}", (), folder + "predictions.json", replies, {"score": wanted, "n": n})


def science(folder: str, answers: str, **wanted: float) -> Case:
    sample = ".sample" if folder == "samples" else ""
    gold = tuple(f"{folder}/scienceqa/{name}{sample}.json" for name in ("pid_splits", "problems"))
    return Case("scienceqa", gold, f"{folder}/scienceqa/answers.{answers}.jsonl", "", wanted)


def mm_vet(run: str, **wanted: float) -> Case:
    replies = f"full/mm-vet/llava-v1.5-{run}.json"
    return Case("mm-vet", ("full/mm-vet/mm-vet.json",), "full/mm-vet/llava-v1.5-7b.json", replies, wanted)


def simple(benchmark: str, gold: str, answers: str, **wanted: float) -> Case:
    return Case(benchmark, tuple(gold.split()), answers, "", wanted)


CASES = [
    vqa("full/vqav2/genuine10/", "results.json", accuracy=51.4, n=400),
    vqa("full/vqav2/genuine10/", "results_normalised.json", accuracy=61.15),
    vqa("full/vqav2/nasty/", "results.json", accuracy=82.36111111111111),
    vqa("samples/vqav2_format/", "results.json", accuracy=54.333333333333336),
    simple(
        "gqa",
        "full/gqa/testdev_balanced_questions.subset.json",
        "full/gqa/merge.llava-v1.5-13b.jsonl",
        accuracy=100 * 407 / 700,
        binary=100 * 152 / 188,
        open=100 * 255 / 512,
        n=700,
    ),
    simple(
        "gqa",
        "samples/gqa/testdev_balanced_questions.subset.json",
        "samples/gqa/merge.llava-v1.5-13b.jsonl",
        accuracy=100 * 34 / 60,
    ),
    simple(
        "vizwiz",
        "full/vizwiz/val_accuracy/val.subset.json",
        "full/vizwiz/val_accuracy/predictions.json",
        accuracy=67.78,
        n=500,
    ),
    simple(
        "textvqa",
        "full/textvqa/TextVQA_0.5.1_val.subset.json",
        "full/textvqa/predictions.llava-v1.5-13b.jsonl",
        accuracy=60.67,
        n=1000,
    ),
    simple(
        "textvqa",
        "samples/textvqa/TextVQA_0.5.1_val.subset.json",
        "samples/textvqa/predictions.llava-v1.5-13b.jsonl",
        accuracy=61.4,
    ),
    science("full", "llava_1.5_13b", accuracy=100 * 328 / 450, image_accuracy=100 * 141 / 203, invalid=5),
    science("full", "llava_13b_v0", accuracy=90.0, image_accuracy=100 * 176 / 203),
    science(
        "full",
        "llava_lcs_558k_12e_vicuna13b_v1_3",
        accuracy=100 * 417 / 450,
        image_accuracy=100 * 187 / 203,
    ),
    science("full", "nasty", accuracy=100 * 55 / 450, image_accuracy=100 * 24 / 193, missing=20),
    science("samples", "llava_1.5_13b", accuracy=100 * 47 / 60, image_accuracy=75.0),
    science("samples", "llava_13b_v0", accuracy=100 * 49 / 60, image_accuracy=75.0),
    simple(
        "pope",
        "full/pope/genuine/coco full/pope/genuine/llava_pope_test.jsonl",
        "full/pope/genuine/answers.jsonl",
        mean_f1=82.98310877462332,
        n=1800,
    ),
    simple(
        "pope",
        "full/pope/nasty/llava_pope_test.jsonl full/pope/nasty/coco",
        "full/pope/nasty/answers.jsonl",
        mean_f1=52.25824196360812,
    ),
    simple(
        "pope",
        "samples/pope/llava_pope_test.jsonl samples/pope/coco",
        "samples/pope/answers.jsonl",
        mean_f1=84.68599423941426,
    ),
    simple(
        "mmbench",
        "full/mmbench/genuine/mmbench_dev_20230712.subset.noimage.tsv",
        "full/mmbench/genuine/answers.jsonl",
        circular=100 * 180 / 260,
        vanilla=100 * 198 / 260,
        n=817,
    ),
    simple(
        "mmbench",
        "full/mmbench/nasty/mmbench_dev_20230712.subset.noimage.tsv",
        "full/mmbench/nasty/answers.jsonl",
        circular=3.0,
        vanilla=42.0,
    ),
    simple(
        "mmbench",
        "samples/mmbench/mmbench_dev_20230712.subset.noimage.tsv",
        "samples/mmbench/answers.jsonl",
        circular=65.0,
        vanilla=85.0,
    ),
    simple(
        "seed",
        "full/seed/gold.json",
        "full/seed/predictions.llava-v1.5-13b.jsonl",
        accuracy=100 * 1003 / 1500,
    ),
    simple("seed", "samples/seed/gold.sample.json", "samples/seed/predictions.sample.jsonl", accuracy=72.0),
    # Published: MM-Vet 7B 31.1 and 13B 36.3 over three runs.
    mm_vet("7b_gpt-4-grade-3runs", score=31.10091743119266, n=218),
    mm_vet("13b_gpt-4-grade-3runs", score=36.31498470948012),
    mm_vet("7b_gpt-4-grade-1runs", score=31.19266055045872),
    mm_vet("13b_gpt-4-grade-1runs", score=36.14678899082569),
    Case(
        "mm-vet",
        ("samples/mm-vet/mm-vet.sample.json",),
        "samples/mm-vet/results.llava-v1.5-7b.sample.json",
        "samples/mm-vet/grades.3runs.sample.json",
        {"score": 19.88888888888889, "n": 30},
    ),
    Case(
        "llava-bench",
        (),
        "",
        "full/llava-bench/llava-v1.5-13b-eval1.jsonl",
        {"score": 100 * 6.3 / 8.65, "n": 60},
    ),
    Case("llava-bench", (), "", "full/llava-bench/llava-v1.5-13b-eval2.jsonl", {"score": 100 * 377.5 / 519}),
    Case("llava-bench", (), "", "full/llava-bench/llava-v1.5-7b-eval3.jsonl", {"score": 100 * 345 / 520}),
    Case(
        "llava-bench", (), "", "samples/llava-bench/reviews.llava-v1.5-7b-eval1.sample.jsonl", {"score": 75.0}
    ),
    # Published: MME 13B 1531.8 and 295.4.
    simple(
        "mme",
        "",
        "full/mme/results_llava-v1.5-13b",
        perception=1531.7783234505923,
        cognition=295.3571428571429,
        n=2370,
    ),
    simple("mme", "", "full/mme/results_LaVIN_small", perception=955.0, cognition=235.0, invalid=4),
    simple("mme", "", "samples/mme", perception=250.0, cognition=0.0),
    judged("msvd", VIDEO.format("MSVD"), accuracy=100 * 88 / 141, score=466 / 150, yes=88, no=53),
    judged("msrvtt", VIDEO.format("MSRVTT"), accuracy=100 * 81 / 142, score=446 / 150, yes=81, no=61),
    judged("tgif", VIDEO.format("TGIF"), accuracy=100 * 84 / 138, score=437 / 146, n=146, missing=4),
    judged(
        "activitynet", VIDEO.format("Activitynet"), accuracy=100 * 84 / 135, score=436 / 150, yes=84, no=51
    ),
    simple(
        "activitynet-exact",
        "full/activitynet_qa_exact/val_a.subset.json",
        "full/activitynet_qa_exact/pred.json",
        accuracy=100 * 584 / 1500,
        free_as_printed=78.16265060240964,
        n=1500,
    ),
    five("correctness", "1_correctness/", 2.51, 100),
    five("detail", "2_detail/", 2.73, 100),
    five("context", "3_context/", 2.72, 100),
    five("temporal", "4_temporal/", 2.7, 60),
    five("consistency", "5_consistency/", 157 / 60, 60),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.benchmark}-{case.replies or case.answers}")
def test_figures_are_the_official_ones(shared: Path, case: Case) -> None:
    folder = shared / "benchmarks"
    paths = [folder / name for name in case.gold]
    answers = folder / case.answers if case.answers else None
    replies = folder / case.replies if case.replies else None
    figures = score(case.benchmark, paths, answers, replies)
    assert {key: figures[key] for key in case.wanted} == pytest.approx(case.wanted, abs=1e-9)
    for key in ("n", "invalid", "missing", "extra", "duplicates", "malformed", figures["headline"]):
        assert isinstance(figures[key], int | float)
    assert "per_question" not in figures
    assert as_json(figures)
    assert re.search(r"^n: \d+$", as_text(figures), re.MULTILINE)
    # Gold in another order is the same gold, and single scores make up the whole.
    whole = score(case.benchmark, paths[::-1], answers, replies, per_question=True)
    assert {key: whole[key] for key in figures} == figures
    check_singles(case.benchmark, whole)


def check_singles(benchmark: str, whole: dict[str, Any]) -> None:
    singles = whole["per_question"]
    assert len(singles) == whole["n"]
    values = [value for value in singles.values() if value is not None]
    average = sum(values) / len(values)
    if benchmark == "mme":
        assert len(values) == sum(task["n"] for task in whole["by_task"].values())
    elif benchmark == "llava-bench":
        assert 100 * sum(values) / sum(whole["per_question_reference"].values()) == pytest.approx(
            whole["score"]
        )
    elif benchmark in ("mm-vet",) or benchmark.startswith("video-chatgpt"):
        assert average == pytest.approx(whole["score"])
    else:
        assert average == pytest.approx(whole["accuracy"])


def test_mme_tasks(shared: Path) -> None:
    tasks = score("mme", [], shared / "benchmarks/full/mme/results_llava-v1.5-13b")["tasks"]
    assert tasks["existence"] == 185.0
    assert tasks["count"] == 155.0
    assert tasks["celebrity"] == pytest.approx(152.94117647058823)
    assert tasks["commonsense_reasoning"] == pytest.approx(127.85714285714286)
    assert len(tasks) == 14


def test_gqa_groups(shared: Path) -> None:
    folder = shared / "benchmarks/full/gqa"
    gold = [folder / "testdev_balanced_questions.subset.json"]
    figures = score("gqa", gold, folder / "merge.llava-v1.5-13b.jsonl")
    assert figures["by_structural"] == pytest.approx(
        {
            "choose": 100 * 50 / 54,
            "compare": 100 * 2 / 3,
            "logical": 100 * 66 / 87,
            "query": 100 * 255 / 512,
            "verify": 100 * 34 / 44,
        }
    )
    assert figures["by_semantic"]["global"] == pytest.approx(100 * 21 / 39)
    assert figures["distribution"] == pytest.approx(0.3000843391570643)
    assert sum(figures["by_steps"].values()) > 0


def test_pope_splits(shared: Path) -> None:
    folder = shared / "benchmarks/full/pope/genuine"
    figures = score("pope", [folder], folder / "answers.jsonl")  # the folder holds answers and questions too
    own = figures["by_category"]["adversarial"]
    # 223 of 300 found, 26 of 300 made up.
    assert own == pytest.approx(
        {
            "n": 600,
            "accuracy": 100 * 497 / 600,
            "precision": 100 * 223 / 249,
            "recall": 100 * 223 / 300,
            "f1": 100 * 2 * 223 / (249 + 300),
            "yes_ratio": 100 * 249 / 600,
        }
    )
    assert figures["adversarial"] == own


def test_mm_vet_capabilities(shared: Path) -> None:
    folder = shared / "benchmarks/full/mm-vet"
    replies = folder / "llava-v1.5-7b_gpt-4-grade-3runs.json"
    figures = score("mm-vet", [folder / "mm-vet.json"], folder / "answers.llava-v1.5-7b.jsonl", replies)
    # The official script prints one decimal.
    rounded = {name: round(value, 1) for name, value in figures["by_capability"].items()}
    assert rounded == {"rec": 36.8, "ocr": 21.1, "know": 17.3, "gen": 19.9, "spat": 24.9, "math": 7.7}
    assert [round(total, 1) for total in figures["runs"]] == [31.2, 30.8, 31.2]
    assert round(figures["std"], 1) == 0.2
    assert figures["judge"]["name"] == "gpt-4"


def test_llava_bench_categories(shared: Path) -> None:
    reviews = shared / "benchmarks/full/llava-bench/llava-v1.5-7b-eval3.jsonl"
    groups = score("llava-bench", [], None, reviews)["by_category"]
    rounded = {name: round(value, 1) for name, value in groups.items()}
    assert rounded == {"llava_bench_complex": 79.6, "llava_bench_conv": 59.0, "llava_bench_detail": 50.8}


def test_activitynet_types(shared: Path) -> None:
    folder = shared / "benchmarks/full/activitynet_qa_exact"
    figures = score("activitynet-exact", [folder / "val_a.subset.json"], folder / "pred.json")
    assert figures["by_type"]["motion"] == pytest.approx(100 * 29 / 150)
    assert figures["by_type"]["yes/no"] == pytest.approx(100 * 254 / 314)
    assert figures["free"] == pytest.approx(100 * 519 / 1050)
