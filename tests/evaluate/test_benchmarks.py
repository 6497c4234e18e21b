"""The interface: ids, questions as the original asks them, asks of a judge, submissions, paper tables."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from videollava.errors import InputError
from videollava.evaluate import benchmarks
from videollava.evaluate.benchmarks import mmbench, papers
from videollava.evaluate.benchmarks.interface import LETTER, SHORT
from videollava.evaluate.judge_prompts import CONSISTENCY, GRADE, PAIR
from videollava.evaluate.score import submission

IDS = """vqav2 gqa vizwiz scienceqa textvqa pope mmbench llava-bench mm-vet mme seed
msvd msrvtt tgif activitynet activitynet-exact video-chatgpt-correctness video-chatgpt-detail
video-chatgpt-context video-chatgpt-temporal video-chatgpt-consistency video-choice easy_vqa toy_video_qa"""


def prompts(path: Path) -> list[str]:
    return [json.loads(line)["prompt"] for line in path.read_text().splitlines()]


def test_registry() -> None:
    assert set(benchmarks.names()) == set(IDS.split())
    for name in benchmarks.names():
        one = benchmarks.get(name)
        assert one.id == name
        assert one.title
        assert one.headline
    with pytest.raises(InputError, match=r"did you mean 'vqav2'"):
        benchmarks.get("vqa2")


def test_each_video_set_names_its_judge_asks() -> None:
    judged = {name for name in benchmarks.names() if benchmarks.get(name).asks}
    five = {name for name in benchmarks.names() if name.startswith("video-chatgpt-")}
    assert judged == {"llava-bench", "mm-vet", "msvd", "msrvtt", "tgif", "activitynet"} | five


def test_paper_tables() -> None:
    assert papers.reference("vqav2") == (74.7,)
    assert papers.reference("msvd") == (70.7, 3.9)
    assert papers.reference("mm-vet") == (32.0,)
    assert papers.reference("easy_vqa") is None
    assert papers.figures("activitynet")["VideoChat"] == (None, 2.2)
    assert "LLaMA-Adapter" not in papers.figures("tgif")
    assert len(papers.figures("gqa")) == 10


@pytest.mark.parametrize(
    ("name", "questions", "answers"),
    [
        ("gqa", "llava_gqa_testdev_balanced.subset.jsonl", "merge.llava-v1.5-13b.jsonl"),
        ("textvqa", "llava_textvqa_val_v051_ocr.subset.jsonl", "predictions.llava-v1.5-13b.jsonl"),
        ("pope", "llava_pope_test.jsonl", "answers.jsonl"),
        ("vizwiz", "llava_test.sample.jsonl", "answers.llava-v1.5-13b.jsonl"),
        ("scienceqa", "llava_test_CQM-A.sample.json", "answers.llava_1.5_13b.jsonl"),
        ("mme", "llava_mme.sample.jsonl", "answers.llava-v1.5-7b.sample.jsonl"),
    ],
)
def test_prompts_are_those_of_the_genuine_answers(
    shared: Path, name: str, questions: str, answers: str
) -> None:
    folder = shared / "benchmarks/samples" / name
    asked = list(benchmarks.get(name).questions([folder / questions], Path("media")))
    genuine = prompts(folder / answers)
    if name in ("vizwiz", "scienceqa", "mme"):  # samples of questions and of answers overlap in part
        assert {question.fields["prompt"] for question in asked} & set(genuine)
    else:
        assert [question.fields["prompt"] for question in asked] == genuine
    assert len({question.id for question in asked}) == len(asked)
    for question in asked:
        assert question.prompt.removeprefix("<image>\n") == str(question.fields["prompt"]).removeprefix(
            "<image>\n"
        )
        assert question.prompt.count("<image>") == len(question.media)
        assert all(path.startswith("media/") for path in question.media)


def test_questions_of_the_official_gold_are_the_same(shared: Path) -> None:
    folder = shared / "benchmarks/samples/gqa"
    one = benchmarks.get("gqa")
    official = {q.id: q for q in one.questions([folder / "testdev_balanced_questions.subset.json"])}
    ours = {q.id: q for q in one.questions([folder / "llava_gqa_testdev_balanced.subset.jsonl"])}
    assert {key: (q.prompt, q.media) for key, q in official.items()} == {
        key: (q.prompt, q.media) for key, q in ours.items()
    }


def test_vqa_and_vizwiz_official_questions(shared: Path) -> None:
    folder = shared / "benchmarks/samples"
    question = next(benchmarks.get("vqav2").questions([folder / "vqav2_format/questions.json"]))
    assert question.prompt.startswith("<image>\n")
    assert question.prompt.endswith(SHORT)
    question = next(benchmarks.get("vizwiz").questions([folder / "vizwiz/val.sample.json"]))
    assert question.id == question.media[0]
    assert question.prompt.endswith(
        "\nWhen the provided information is insufficient, respond with 'Unanswerable'." + SHORT
    )


def test_coco_names(tmp_path: Path) -> None:
    row = {"question_id": 9, "image_id": 42, "question": "Why?"}
    path = tmp_path / "q.json"
    path.write_text(json.dumps({"data_subtype": "test2015", "questions": [row]}))
    question = next(benchmarks.get("vqav2").questions([path], tmp_path))
    assert question.media == (str(tmp_path / "COCO_test2015_000000000042.jpg"),)
    assert question.prompt == "<image>\nWhy?" + SHORT


def test_textvqa_with_ocr_tokens(shared: Path, tmp_path: Path) -> None:
    folder = shared / "benchmarks/samples/textvqa"
    gold = folder / "TextVQA_0.5.1_val.subset.json"
    first = json.loads(gold.read_text())["data"][0]
    ocr = tmp_path / "ocr.json"
    ocr.write_text(json.dumps({"data": [{"image_id": first["image_id"], "ocr_tokens": ["A", "B"]}]}))
    question = next(benchmarks.get("textvqa").questions([ocr, gold]))
    assert question.prompt == (
        f"<image>\n{first['question'].capitalize()}\nReference OCR token: A, B" + SHORT
    )
    assert question.fields["image_id"] == first["image_id"]


def test_mmbench_prompts_and_images(shared: Path, tmp_path: Path) -> None:
    folder = shared / "benchmarks/samples/mmbench"
    table = folder / "mmbench_samples_with_images.tsv"
    asked = list(benchmarks.get("mmbench").questions([table], tmp_path))
    assert mmbench.unpack_images([table], tmp_path) == len(asked) == 20
    for question in asked:
        assert Path(question.media[0]).read_bytes()[:2] == b"\xff\xd8"
        assert question.prompt.endswith(LETTER)
        assert question.kind
    first = asked[0]
    assert '\nD. fruits = ["apple", "banana", "cherry"]' in first.prompt
    genuine = [json.loads(line) for line in (folder / "answers_with_prompts.jsonl").read_text().splitlines()]
    plain = folder / "mmbench_dev_20230712.subset.noimage.tsv"
    ours = {q.id: q for q in benchmarks.get("mmbench").questions([plain])}
    shown = [row for row in genuine if str(row["question_id"]) in ours]
    assert shown
    for row in shown:  # this table has no hints, which come first
        question = ours[str(row["question_id"])]
        assert row["prompt"].endswith(question.prompt.removeprefix("<image>\n").removesuffix(LETTER))
        assert question.fields["options"] == row["options"]


def test_scienceqa_asks_text_questions_too(shared: Path) -> None:
    path = shared / "benchmarks/full/scienceqa/llava_test_CQM-A.subset.json"
    asked = list(benchmarks.get("scienceqa").questions([path]))
    assert {question.kind for question in asked} == {"image", "text"}
    for question in asked:
        assert question.prompt.startswith("<image>\n") == (question.kind == "image") == bool(question.media)
        assert question.prompt.endswith(LETTER)


def test_video_questions(shared: Path, tmp_path: Path) -> None:
    folder = shared / "benchmarks/samples/video_qa/Activitynet_Zero_Shot_QA"
    files = [folder / "test_a.json", folder / "test_q.json"]
    first = json.loads(files[1].read_text())[0]
    (tmp_path / f"v_{first['video_name']}.mkv").touch()
    asked = list(benchmarks.get("activitynet").questions(files, tmp_path))
    assert asked[0].prompt == f"<video>\n{first['question']}"
    assert asked[0].media == (str(tmp_path / f"v_{first['video_name']}.mkv"),)
    assert asked[1].media[0].endswith(".mp4")
    assert asked[0].fields["id"] == asked[0].id
    answers = {row["question_id"]: row["answer"] for row in json.loads(files[0].read_text())}
    assert all(question.fields["answer"] == answers[question.id] for question in asked)


def test_video_chatgpt_questions_and_asks(shared: Path, tmp_path: Path) -> None:
    folder = shared / "benchmarks/samples/video_chatgpt5"
    rows = json.loads((folder / "consistency_qa.sample.json").read_text())
    one = benchmarks.get("video-chatgpt-consistency")
    asked = list(one.questions([folder / "consistency_qa.sample.json"]))
    assert [question.id for question in asked[:2]] == [
        f"{rows[0]['video_name']}_0",
        f"{rows[0]['video_name']}_0#2",
    ]
    assert [question.prompt for question in asked[:2]] == [
        f"<video>\n{rows[0]['Q1']}",
        f"<video>\n{rows[0]['Q2']}",
    ]
    lines = [{"question_id": question.id, "text": f"said {question.id}"} for question in asked]
    answers = tmp_path / "a.jsonl"
    answers.write_text("\n".join(map(json.dumps, lines)))
    assert one.asks is not None
    first = one.asks([folder / "consistency_qa.sample.json"], answers)[0]
    told = first.messages()[1]["content"]
    assert first.prompt is CONSISTENCY
    for part in (rows[0]["Q1"], rows[0]["Q2"], f"said {asked[0].id}\n", f"said {asked[1].id}\n"):
        assert part in told  # the original sends the first question twice


def test_mm_vet_asks(shared: Path) -> None:
    folder = shared / "benchmarks/full/mm-vet"
    asks = benchmarks.get("mm-vet").asks
    assert asks is not None
    listed = asks([folder / "mm-vet.json"], folder / "answers.llava-v1.5-7b.jsonl")
    assert len(listed) == 218
    assert listed[0].prompt is GRADE
    assert "What is x in the equation? | -1 <AND> -5 | In the equation" in listed[0].messages()[1]["content"]


def test_llava_bench_asks(tmp_path: Path) -> None:
    def write(name: str, *rows: dict[str, Any]) -> Path:
        path = tmp_path / name
        path.write_text("\n".join(map(json.dumps, rows)))
        return path

    gold = [
        write("context.jsonl", {"id": 0, "image": "1.jpg", "caption": ["A dog.", "A cat."]}),
        write("gpt4.jsonl", {"question_id": 0, "text": "reference", "answer_id": "x"}),
        write("q.jsonl", {"question_id": 0, "image": "1.jpg", "text": "What?", "category": "conv"}),
    ]
    answers = write("a.jsonl", {"question_id": 0, "prompt": "What?", "text": "ours", "answer_id": "y"})
    asks = benchmarks.get("llava-bench").asks
    assert asks is not None
    (ask,) = asks(gold, answers)
    assert ask.prompt is PAIR
    for part in ("A dog.\nA cat.", "What?", "Assistant 1:\nreference", "Assistant 2:\nours"):
        assert part in ask.messages()[1]["content"]
    replies = write("r.json", {"0": ["I would rather not.", "8 7\nwell"]})
    figures = benchmarks.get("llava-bench").score(gold, answers, replies)
    assert figures["by_category"] == {"llava_bench_conv": 87.5}


def test_tiny_questions_are_elsewhere() -> None:
    with pytest.raises(InputError, match="data/index"):
        benchmarks.get("easy_vqa").questions([Path("x")])


def test_vqav2_upload(shared: Path, tmp_path: Path) -> None:
    folder = shared / "benchmarks/full/vqav2/submission"
    out = tmp_path / "deep" / "upload.json"
    asked = folder / "llava_vqav2_mscoco_test2015.jsonl"
    told = submission("vqav2", [asked], folder / "merge.jsonl", out)
    rows = json.loads(out.read_text())
    ids = [json.loads(line)["question_id"] for line in asked.read_text().splitlines()]
    assert [row["question_id"] for row in rows] == ids
    by_id = {row["question_id"]: row["answer"] for row in rows}
    assert (by_id[420000], by_id[420001], by_id[420002], by_id[420003]) == ("yes", "yes", "no", "dog")
    lines = folder.joinpath("merge.jsonl").read_text().splitlines()
    answered = {json.loads(line)["question_id"] for line in lines if line.endswith("}")}
    unanswered = set(ids) - answered
    assert told == {"written": len(ids), "missing": len(unanswered), "broken": 1}
    assert all(by_id[key] == "" for key in unanswered)


def test_vizwiz_upload(shared: Path, tmp_path: Path) -> None:
    folder = shared / "benchmarks/full/vizwiz/submission"
    asked, said = folder / "llava_test.subset.jsonl", folder / "answers.llava-v1.5-13b.jsonl"
    told = submission("vizwiz", [asked], said, tmp_path / "u.json")
    rows = json.loads((tmp_path / "u.json").read_text())
    assert told["written"] == len(rows) == len(asked.read_text().splitlines())
    assert rows[0] == {"image": "VizWiz_test_00000017.jpg", "answer": "16"}
    short = tmp_path / "short.jsonl"
    short.write_text("\n".join(said.read_text().splitlines()[1:]))
    with pytest.raises(InputError, match=r"no answer to 1 of"):
        submission("vizwiz", [asked], short, tmp_path / "u.json")


def test_vizwiz_upload_is_the_genuine_one(shared: Path, tmp_path: Path) -> None:
    folder = shared / "benchmarks/samples/vizwiz"
    genuine = {
        row["image"]: row["answer"] for row in json.loads((folder / "answers_upload.sample.json").read_text())
    }
    submission(
        "vizwiz",
        [folder / "llava_test.sample.jsonl"],
        folder / "answers.llava-v1.5-13b.jsonl",
        tmp_path / "u.json",
    )
    ours = {row["image"]: row["answer"] for row in json.loads((tmp_path / "u.json").read_text())}
    assert ours == genuine


def test_mmbench_upload(shared: Path, tmp_path: Path) -> None:
    openpyxl = pytest.importorskip("openpyxl")
    table = shared / "benchmarks/samples/mmbench/mmbench_samples_with_images.tsv"
    asked = list(benchmarks.get("mmbench").questions([table]))
    answers = tmp_path / "a.jsonl"
    lines = [
        {"question_id": int(q.id), "text": "=SUM(A1)\x07" if n == 0 else "B"}
        for n, q in enumerate(asked[:-1])
    ]
    answers.write_text("\n".join(map(json.dumps, lines)))
    told = submission("mmbench", [table], answers, tmp_path / "u.xlsx")
    assert told == {"written": 20, "missing": 1, "broken": 0}
    sheet = openpyxl.load_workbook(tmp_path / "u.xlsx").active
    rows = list(sheet.iter_rows(values_only=True))
    assert rows[0] == ("index", "question", "A", "B", "C", "D", "prediction", "answer", "split")
    assert rows[1][6] == "=SUM(A1)"
    assert sheet.cell(2, 7).data_type == "s"
    assert rows[1][0] == int(asked[0].id)
    assert rows[2][6] == "B"
    assert rows[20][6] is None
    with pytest.raises(InputError, match="no server"):
        submission("gqa", [table], answers, tmp_path / "u.json")
