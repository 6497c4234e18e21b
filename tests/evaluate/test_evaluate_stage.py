"""The evaluate stage from questions to metrics.json: prepared splits, benchmarks' own files, a judge, two ranks."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from evaluation_files import params, picture, write_files, write_json, write_lines
from judge_server import Act, Log, serve

from videollava.cli import main
from videollava.errors import InputError
from videollava.evaluate import benchmarks, stage
from videollava.evaluate import predict as predict_module
from videollava.evaluate.answers import AnswerLog
from videollava.evaluate.benchmarks.interface import SHORT
from videollava.evaluate.predict import Settings
from videollava.evaluate.results import read_results
from videollava.evaluate.stage import evaluate, run
from videollava.gate import Gate, Rules, decide, read_pairs

YES, NO = "{'pred': 'yes', 'score': 4}", "{'pred': 'no', 'score': 1}"
IMAGES = 6
Prepare = Callable[..., Path]


@pytest.fixture(autouse=True)
def _small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        stage, "Settings", lambda new, *more: Settings(min(new, 6), 400, *more[1:])
    )  # 128 officially


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def split(count: int, start: int = 0) -> list[tuple[str, Any, Any]]:
    """Questions about pictures `start`.. of the prepared data."""
    asked = []
    for n in range(count):
        text = f"<image>\nwhat {('color', 'shape', 'side')[n % 3]} is it?"
        asked.append((f"q{n}" * (1 + n % 2), [["human", text], ["gpt", "red"]], [start + n % IMAGES]))
    return asked


@pytest.fixture
def workspace(prepare: Prepare) -> Path:
    """Twelve pictures: six that training has, six of the test split, and one question that both have."""
    media = [("image", picture(n)) for n in range(2 * IMAGES)]
    learned = [("t", [["human", "<image>\nwhat color is it?"], ["gpt", "red"]], [0])]
    learned.append(
        ("u", [["human", "<image>\nIs there a cup, on the long wooden table in it?"], ["gpt", "no"]], [1])
    )
    return prepare(media, {"finetune": learned, "test-easy_vqa": split(15, IMAGES)})


def vqav2(folder: Path) -> None:
    asked, gold = [], []
    for n in range(6):
        asked.append(
            {"question_id": n, "image": f"v{n % 3}.png", "text": f"what color is {n}?", "category": "default"}
        )
        people = [{"answer": ("red", "blue")[k < 2], "answer_id": k} for k in range(10)]
        about = {"image_id": n % 3, "question_type": "what", "answer_type": "other"}
        gold.append({"question_id": n, **about, "multiple_choice_answer": "red", "answers": people})
    write_lines(folder / "llava.jsonl", asked)
    write_json(folder / "annotations.json", {"annotations": gold})
    write_files(folder / "test2015", {f"v{n}.png": picture(20 + n) for n in range(3)})


def pope(folder: Path, seen_in_training: bytes) -> None:
    """Eight questions about three pictures: one is missing, one is in the training data."""
    texts = [f"Is there a cup on the long wooden table in {n}?" for n in range(7)]
    texts.append("is there a cup on the long wooden table in it")
    asked, labels = [], []
    for n, text in enumerate(texts):
        image = f"c{n % 4}.png"
        asked.append({"question_id": n, "image": image, "text": text + SHORT, "category": "random"})
        labels.append({"question_id": n, "image": image, "text": text, "label": ("yes", "no")[n % 2]})
    write_lines(folder / "llava_pope_test.jsonl", asked)
    write_lines(folder / "coco/coco_pope_random.json", labels)
    pictures = {"c0.png": picture(30), "c1.png": seen_in_training, "c2.png": picture(32)}
    write_files(folder / "val2014", pictures)


def msvd(folder: Path, videos: list[Path]) -> None:
    """Five questions; the last one's video is missing."""
    names = [*(v.stem for v in videos[:2]), *(v.stem for v in videos[:2]), "gone"]
    asked = [{"video_name": v, "question_id": f"k{n}", "question": f"what {n}?"} for n, v in enumerate(names)]
    write_json(folder / "test_q.json", asked)
    write_json(
        folder / "test_a.json", [{"question_id": f"k{n}", "answer": "dog", "type": 1} for n in range(5)]
    )
    (folder / "videos").mkdir()
    for video in videos[:2]:
        (folder / "videos" / video.name).symlink_to(video)


def lenient(body: dict[str, Any], before: int) -> Act:
    """Yes to the first question, once it has said nothing of use; no to the others."""
    asked = body["messages"][-1]["content"]
    if "what 0?" in asked:
        return Act("Hm." if before == 0 else YES)
    return Act(NO)


def judged_by(log: Log, **options: Any) -> dict[str, Any]:
    return {
        "kind": "endpoint",
        "base_url": log.url,
        "model": "fake",
        "concurrency": 2,
        "timeout": 20,
        **options,
    }


def test_a_prepared_split(workspace: Path, model_folder: Path, capsys: Any) -> None:
    """The shape that the gate and DVC know; questions answered, blinded too; nothing left behind."""
    with pytest.raises(
        InputError, match=r"models/videollava: not there.*`videollava finetune`.*encoders alone"
    ):
        run(params(benchmarks=["easy_vqa"]), workspace)
    shutil.copytree(model_folder, workspace / "models/videollava")
    (workspace / "dvc.yaml").write_text("stages: {evaluate: {cmd: x, params: [evaluate], deps: []}}")
    run(params(benchmarks=["easy_vqa"]), workspace)
    metrics = json.loads((workspace / "metrics.json").read_text())
    assert list(metrics["easy_vqa"]) == ["accuracy", "chance", "n", "questions", "blind_accuracy", "by_kind"]
    assert (metrics["easy_vqa"]["n"], metrics["easy_vqa"]["chance"]) == (15, 100.0)
    out = workspace / "evaluation"
    assert json.loads((out / "metrics.json").read_text()) == metrics
    found = rows(out / "predictions/easy_vqa.jsonl")
    assert [row["question_id"] for row in found] == [f"q{n}" * (1 + n % 2) for n in range(15)]
    told = {"question_id", "kind", "question", "answer", "prediction", "correct", "media", "media_sums"}
    assert set(found[0]) == told
    assert found[0]["media"] == [IMAGES]
    assert len(found[0]["media_sums"][0]) == 16
    results = read_results(out)["easy_vqa"]
    assert results.score.value == metrics["easy_vqa"]["accuracy"]
    assert len(results.blind) == 15
    page = (out / "report.html").read_text()
    assert "same text, same medium" in page
    leaks = json.loads((out / "contamination.json").read_text())["easy_vqa"]
    assert (leaks["media"], leaks["of_media"], leaks["questions"], leaks["both"]) == (0, IMAGES, 5, 0)
    assert not list((workspace / "checkpoints").glob("evaluate-*"))
    said = capsys.readouterr().out
    assert "easy_vqa: " in said
    assert said.endswith("evaluation/report.html: figures, curves, samples\n")


def test_benchmarks_of_files(workspace: Path, model_folder: Path, capsys: Any) -> None:
    """Official scores of the answers, rows a question with parts, an upload, missing and leaked media told."""
    vqav2(workspace / "bench/vqav2")
    pope(workspace / "bench/pope", picture(1))
    chosen = params(benchmarks=["vqav2", "pope"], folders={"vqav2": "bench/vqav2", "pope": "bench/pope"})
    out = workspace / "out"
    metrics = evaluate(chosen, workspace, model_folder, out)
    assert json.loads((out / "metrics.json").read_text()) == metrics
    official = benchmarks.get("vqav2").score(
        [workspace / "bench/vqav2/annotations.json"], out / "answers/vqav2.jsonl"
    )
    assert metrics["vqav2"]["accuracy"] == official["accuracy"]
    assert metrics["vqav2"]["headline"] == "accuracy"
    assert metrics["vqav2"]["by_answer_type"] == official["by_answer_type"]
    assert "blind_accuracy" in metrics["vqav2"]
    upload = json.loads((out / "submissions/vqav2.json").read_text())
    assert [row["question_id"] for row in upload] == list(range(6))
    found = rows(out / "predictions/pope.jsonl")
    assert [row["question_id"] for row in found] == [str(n) for n in range(8)]
    lacking = [row for row in found if "problem" in row]
    assert [row["question_id"] for row in lacking] == ["3", "7"]
    assert not any(row["correct"] for row in lacking)
    assert {row["answer"] for row in found} == {"yes", "no"}
    assert found[0]["media"] == ["bench/pope/val2014/c0.png"]
    one = metrics["pope"]
    assert (one["n"], one["missing"], one["missing_media"]) == (8, 2, 2)
    assert one["accuracy"] == read_results(out)["pope"].score.value
    assert "blind_mean_f1" in one
    leaks = one["contamination"]
    assert (leaks["media"], leaks["of_media"], leaks["both"]) == (1, 4, 0)
    assert (leaks["questions"], leaks["near"]) == (1, 0)
    told = capsys.readouterr().out
    assert (
        "pope: 2 questions lack their medium and count as wrong; the first: bench/pope/val2014/c3.png" in told
    )
    page = (out / "report.html").read_text()
    assert "2 questions whose medium is missing count as wrong" in page
    assert "weights" in page  # a model that this workspace did not train is named


def test_answers_with_parts_of_a_point(
    workspace: Path, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vqav2(workspace / "bench/vqav2")
    monkeypatch.setattr(predict_module, "decode", lambda *_: "Blue.")
    chosen = params(benchmarks=["vqav2"], folders={"vqav2": "bench/vqav2"}, blind=False)
    metrics = evaluate(chosen, workspace, model_folder, workspace / "out")
    found = rows(workspace / "out/predictions/vqav2.jsonl")
    assert {round(row["score"], 6) for row in found} == {60.0}  # two of ten people said so
    assert metrics["vqav2"]["accuracy"] == pytest.approx(60.0)
    assert read_results(workspace / "out")["vqav2"].score.value == pytest.approx(60.0)
    assert found[0]["answer"] == "red"


def test_a_judge_over_http(workspace: Path, model_folder: Path, shared: Path, capsys: Any) -> None:
    """Real videos; a judge that must be asked twice; the missing video is wrong without asking; verdicts are kept."""
    msvd(workspace / "bench/msvd", sorted((shared / "media/video").glob("video_*.mp4")))
    out = workspace / "out"
    common: dict[str, Any] = {"benchmarks": ["msvd"], "folders": {"msvd": "bench/msvd"}, "blind": False}
    with serve(lenient) as log:
        metrics = evaluate(params(**common, judge=judged_by(log, price_in=1.0)), workspace, model_folder, out)
        asked = len(log.bodies)
        assert evaluate(params(**common, judge=judged_by(log)), workspace, model_folder, out) == metrics
        assert len(log.bodies) == asked == 5
    found = metrics["msvd"]
    assert (found["accuracy"], found["yes"], found["no"], found["n"]) == (20.0, 1, 4, 5)
    assert found["score"] == (4 + 3 * 1 + 0) / 5
    assert (found["judge"], found["judge_version"], len(found["judge_prompt"])) == ("fake", "fake-0613", 16)
    assert found["missing_media"] == 1
    answers = {row["question_id"]: row["correct"] for row in rows(out / "predictions/msvd.jsonl")}
    assert answers == {"k0": True, "k1": False, "k2": False, "k3": False, "k4": False}
    assert set(rows(out / "answers/msvd.jsonl")[0]) == {"question_id", "text", "id", "question", "answer"}
    told = capsys.readouterr().out
    assert "msvd: judge fake: 4 answers, 0 in the cache, 4 calls to make" in told
    assert "at most about 0.00" in told
    assert "4 in the cache, 0 calls to make" in told
    with serve(lenient) as log:
        other = evaluate(
            params(**common, judge=judged_by(log, model="b")), workspace, model_folder, workspace / "b"
        )
    pairs, unlike = read_pairs(workspace / "b", [out])
    assert not pairs
    refused = decide(other, metrics, Rules(Gate(minimum_over_blind=0.0)), pairs, unlike)
    assert "msvd: no comparison with the champion: graded in" in refused.reasons[0]
    assert "by b fake-0613" in refused.reasons[0]


def test_a_question_too_long_for_the_model_counts_as_unanswered(
    prepare: Prepare, model_folder: Path, capsys: Any
) -> None:
    """And the stage goes on; result, report and lines say so."""
    asked = [("long", [["human", "<image>\n" + "red " * 5000], ["gpt", "red"]], [0]), *split(5)]
    workspace = prepare([("image", picture(n)) for n in range(IMAGES)], {"test-easy_vqa": asked})
    metrics = evaluate(params(benchmarks=["easy_vqa"]), workspace, model_folder, workspace / "out")
    assert (metrics["easy_vqa"]["n"], metrics["easy_vqa"]["unasked"]) == (6, 1)
    assert "missing_media" not in metrics["easy_vqa"]
    found = rows(workspace / "out/predictions/easy_vqa.jsonl")
    assert "1,024 positions" in found[0]["problem"]
    assert not found[0]["correct"]
    assert all("problem" not in row for row in found[1:])
    assert (
        "easy_vqa: 1 questions were not answered and count as wrong; the first: " in capsys.readouterr().out
    )
    assert "1 questions could not be put to the model" in (workspace / "out/report.html").read_text()


def test_without_a_judge_or_gold_there_are_answers(
    workspace: Path, model_folder: Path, shared: Path, capsys: Any
) -> None:
    vqav2(workspace / "bench/vqav2")
    (workspace / "bench/vqav2/annotations.json").unlink()
    msvd(workspace / "bench/msvd", sorted((shared / "media/video").glob("video_*.mp4")))
    folders = {"vqav2": "bench/vqav2", "msvd": "bench/msvd"}
    chosen = params(benchmarks=["vqav2", "msvd"], folders=folders, blind=False)
    assert evaluate(chosen, workspace, model_folder, workspace / "out") == {}
    assert len(rows(workspace / "out/answers/msvd.jsonl")) == 5
    assert len(json.loads((workspace / "out/submissions/vqav2.json").read_text())) == 6
    assert not (workspace / "out/report.html").exists()
    told = capsys.readouterr().out
    assert "msvd: answered, not scored: it needs a judge (evaluate.judge.kind)" in told
    assert "vqav2: answered, not scored: " in told


def test_images_inside_the_table_and_a_limit(workspace: Path, model_folder: Path, shared: Path) -> None:
    pytest.importorskip("openpyxl")
    table = shared / "benchmarks/samples/mmbench/mmbench_samples_with_images.tsv"
    (workspace / "bench").mkdir()
    shutil.copy(table, workspace / "bench/table.tsv")
    common: dict[str, Any] = {"benchmarks": ["mmbench"], "folders": {"mmbench": "bench"}, "blind": False}
    metrics = evaluate(params(**common, limit=3), workspace, model_folder, workspace / "few")
    assert (metrics["mmbench"]["n"], metrics["mmbench"]["limit"]) == (3, 3)
    assert metrics["mmbench"]["accuracy"] == read_results(workspace / "few")["mmbench"].score.value
    assert not (workspace / "few/submissions").exists()
    assert "missing_media" not in metrics["mmbench"]
    whole = evaluate(params(**common), workspace, model_folder, workspace / "all")
    assert whole["mmbench"]["questions"] != metrics["mmbench"]["questions"]
    pairs, unlike = read_pairs(workspace / "few", [workspace / "all"])
    refused = decide(metrics, whole, Rules(Gate()), pairs, unlike)
    assert "mmbench: no comparison with the champion: other questions, media or gold" in refused.reasons[0]
    assert refused.unanswered == ("mmbench",)


def _rank(rank: int, port: int, size: int, chosen: Any, workspace: Path, out: Path, fatal: int = 0) -> int:
    """Evaluate as one of `size` ranks, in a process of its own; gives its id. fatal: answers after which it dies."""
    child = os.fork()
    if child:
        return child
    try:
        torch.set_num_threads(1)
        if fatal:
            _die_after(fatal)
        where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "LOCAL_RANK": str(rank)}
        os.environ.update({**where, "RANK": str(rank), "WORLD_SIZE": str(size)})
        evaluate(chosen, workspace, workspace / "models/videollava", out)
        os._exit(0)
    finally:
        os._exit(1)


def _die_after(answers: int) -> None:
    """By SIGKILL, in the middle of a batch."""
    write, count = AnswerLog._write, iter(range(answers))

    def dying(self: AnswerLog, row: Any) -> None:
        write(self, row)
        if next(count, None) is None:
            os.kill(os.getpid(), signal.SIGKILL)

    AnswerLog._write = dying  # type: ignore[method-assign]


def _run_ranks(size: int, chosen: Any, workspace: Path, out: str, fatal: int = 0) -> list[int]:
    """Exit codes of ranks that meet over gloo; the last one dies after `fatal` answers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = [
        _rank(rank, port, size, chosen, workspace, workspace / out, fatal if rank == size - 1 else 0)
        for rank in range(size)
    ]
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def _assert_same_files(one: Path, other: Path) -> None:
    """Bit-equal: answers with and without sight, and every figure."""
    for name in ("predictions/easy_vqa.jsonl", "predictions/easy_vqa.blind.jsonl", "metrics.json"):
        assert (one / name).read_bytes() == (other / name).read_bytes()


@pytest.fixture
def broken(prepare: Prepare, model_folder: Path) -> Path:
    """A workspace with a model, and 40 questions about six pictures, one of which is none."""
    media = [("image", picture(n)) for n in range(IMAGES - 1)]
    workspace = prepare([*media, ("image", b"torn")], {"test-easy_vqa": split(40)})
    shutil.copytree(model_folder, workspace / "models/videollava")
    return workspace


def test_ranks_are_one_bit_equal_and_a_killed_one_is_resumed(broken: Path, monkeypatch: Any) -> None:
    """With an unreadable medium; the resume is by another number of ranks, and asks only what is left."""
    chosen = params(benchmarks=["easy_vqa"], precision="bf16")
    metrics = evaluate(chosen, broken, broken / "models/videollava", broken / "one")
    assert metrics["easy_vqa"]["missing_media"] == 6
    assert _run_ranks(2, chosen, broken, "two") == [0, 0]
    _assert_same_files(broken / "one", broken / "two")
    pairs, _ = read_pairs(broken / "two", [broken / "one"])
    assert decide(metrics, metrics, Rules(Gate()), pairs).rows[0].p == 1.0
    first, *others = _run_ranks(3, chosen, broken, "three", fatal=4)
    assert others == [1, -signal.SIGKILL]
    assert first == 1
    assert not (broken / "three").exists()
    logged = [
        json.loads(line)["question_id"]
        for path in broken.glob("checkpoints/evaluate-*/*/seen/*.jsonl")
        for line in path.read_text().splitlines()
    ]
    again: list[str] = []
    write = AnswerLog._write

    def noted(self: AnswerLog, row: Any) -> None:
        again.extend([row["question_id"]] if self.folder.name == "seen" else [])
        write(self, row)

    monkeypatch.setattr(AnswerLog, "_write", noted)
    evaluate(chosen, broken, broken / "models/videollava", broken / "three")
    assert 5 <= len(logged) < 40
    assert sorted([*logged, *again]) == sorted(key for key, *_ in split(40))
    _assert_same_files(broken / "one", broken / "three")


@pytest.mark.slow
def test_the_plain_command_by_ranks_writes_once_bit_equal(broken: Path) -> None:
    """`videollava evaluate` starts its own ranks: all end well, rank 0 alone scores, judges and writes."""
    (broken / "params.yaml").write_text(
        "profile: tiny\nevaluate: {benchmarks: [easy_vqa], max_new_tokens: 6}\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    for ranks in (1, 2, 3):
        (broken / "machine.yaml").write_text(f"processes: {ranks}\nstall_minutes: 5\n")
        command = [sys.executable, "-m", "videollava", "evaluate", "--model", "models/videollava", "--out"]
        done = subprocess.run(
            [*command, f"out-{ranks}"],
            cwd=broken,
            capture_output=True,
            text=True,
            timeout=300,
            env=environment,
        )
        assert done.returncode == 0, done.stderr
        told = [line for line in done.stdout.splitlines() if "easy_vqa: " in line]
        assert len(told) == 2  # the figures, and the questions without a medium
        _assert_same_files(broken / "out-1", broken / f"out-{ranks}")
    assert not list(broken.glob("checkpoints/evaluate-*"))


def test_compared_with_a_champion(
    workspace: Path, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Paired by question in the report, and for the gate."""
    chosen = params(benchmarks=["easy_vqa"], blind=False)
    monkeypatch.setattr(predict_module, "decode", lambda *_: "red")
    right = evaluate(chosen, workspace, model_folder, workspace / "champion")
    monkeypatch.setattr(predict_module, "decode", lambda *_: "blue")
    wrong = evaluate(chosen, workspace, model_folder, workspace / "out", champion=workspace / "champion")
    assert "worse than the champion" in (workspace / "out/report.html").read_text()
    pairs, unlike = read_pairs(workspace / "out", [workspace / "champion"])
    assert not unlike
    decision = decide(wrong, right, Rules(Gate()), pairs)
    assert decision.rows[0].questions == wrong["easy_vqa"]["questions"]
    assert not decision.passed
    assert decision.rows[0].p == 2 * 0.5**6  # fifteen questions about six pictures


def test_mistakes_come_before_the_model_is_loaded(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage.checkpoint, "load", None)
    shutil.copytree(workspace / "data", workspace / "model")
    for wrong, says in (
        (params(benchmarks=["gqa"]), r"set evaluate.folders.gqa"),
        (params(benchmarks=["easy_vq"]), "did you mean 'easy_vqa'"),
        (params(folders={"easy_vq": "x"}), "did you mean 'easy_vqa'"),
        (params(judge={"kind": "endpoint", "base_url": "localhost"}), r"evaluate.judge.base_url"),
    ):
        with pytest.raises(InputError, match=says):
            evaluate(wrong, workspace, workspace / "model", workspace / "out")
    assert evaluate(params(benchmarks=[]), workspace, workspace / "model", workspace / "out") == {}


def test_the_judge_and_an_upload_by_hand(
    workspace: Path, shared: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """`videollava judge`, `score` and `submission` on files of anyone's making."""
    monkeypatch.chdir(workspace)
    Path("params.yaml").write_text("profile: tiny")
    msvd(workspace / "bench", [Path("a.mp4"), Path("b.mp4")])
    answers = write_lines(workspace / "a.jsonl", [{"question_id": f"k{n}", "text": "dog"} for n in range(3)])
    files = ["msvd", "--gold", "bench", "--answers", str(answers)]
    assert main(["judge", *files, "--out", "judged"]) == 2
    assert "evaluate.judge.kind is none" in capsys.readouterr().err
    with serve(lenient) as log:
        judge = f"evaluate.judge={{kind: endpoint, base_url: '{log.url}', model: fake}}"
        assert main(["judge", *files, "--out", "judged", "--set", judge]) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[0].startswith("judge fake: 3 answers, 0 in the cache")
    assert told[-1] == "judged/msvd.replies.json"
    assert main(["score", *files, "--judge-replies", told[-1], "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert (figures["yes"], figures["no"], figures["judge"]["version"]) == (1, 2, "fake-0613")
    assert "marks" not in figures
    vqav2(workspace / "vqa")
    said = write_lines(workspace / "b.jsonl", [{"question_id": 2, "text": "Two dogs."}])
    asked = ["--questions", "vqa/llava.jsonl", "--answers", str(said), "--out", "up/load.json"]
    assert main(["submission", "vqav2", *asked]) == 0
    assert capsys.readouterr().out == "up/load.json: 6 written, 5 missing, 0 broken\n"
    assert json.loads(Path("up/load.json").read_text())[2] == {"question_id": 2, "answer": "2 dogs"}
    assert main(["submission", "gqa", *asked]) == 2
