"""MME: fourteen yes/no tasks, two questions a picture; task score = accuracy + accuracy of whole pictures."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from videollava.errors import InputError
from videollava.evaluate.benchmarks.choice_words import read_yes_no
from videollava.evaluate.benchmarks.image_questions import asked, llava_documents
from videollava.evaluate.benchmarks.interface import SHORT, Benchmark, Question
from videollava.evaluate.benchmarks.reading import documents, parse, records, use
from videollava.evaluate.benchmarks.tally import Marks, read_otherwise, result

__all__ = ["BENCHMARK", "questions", "says", "score"]

PERCEPTION = (
    "existence",
    "count",
    "position",
    "color",
    "posters",
    "celebrity",
    "scene",
    "landmark",
    "artwork",
    "OCR",
)
COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")
READ = 4  # characters of an answer that are looked at
YES_NO = " Please answer yes or no."


class Line(NamedTuple):
    """One question of a task with the right answer ("yes" or "no") and ours; `id` is that of LLaVA's line."""

    image: str
    question: str
    gold: str
    answer: str
    id: str = ""


def questions(files: Sequence[Path], media: Path | None = None) -> Iterator[Question]:
    """Of LLaVA's llava_mme.jsonl. Its ids are the images', two questions each: here a number is added."""
    seen: dict[str, int] = defaultdict(int)
    for row in (row for document in llava_documents(documents(files)) for row in records(document)):
        key = f"{row['question_id']}#{seen[row['question_id']]}"
        seen[row["question_id"]] += 1
        fields = {"image": row["image"], "category": row["category"]}
        yield asked(key, row["text"], row["image"], media, kind=row["category"], fields=fields)


def score(
    gold: Sequence[Path], answers: Path | None, replies: Path | None = None, per_question: bool = False
) -> dict[str, Any]:
    """`perception` and `cognition`, the sums of their tasks' scores (0-200 each), and `tasks`.

    Answers are the official folder of `<task>.txt` results, which hold the gold as well; or LLaVA's lines,
    for which the gold is the benchmark's release folder. `invalid` answers begin with neither yes nor no;
    `read_otherwise` say one of them in words that the official rule does not read so.
    """
    if answers is None:
        raise InputError(
            "no answers: give --answers, the folder of <task>.txt results or LLaVA's answers file"
        )
    if gold and answers.is_dir():
        raise InputError(f"{answers}: a folder of results holds the gold as well: leave --gold out")
    tasks, missing = (_results(answers), 0) if answers.is_dir() else _joined(gold, answers)
    figures: dict[str, Any] = {"perception": 0.0, "cognition": 0.0, "tasks": {}, "by_task": {}}
    single, invalid = {}, 0
    for task in (*PERCEPTION, *COGNITION):
        if task not in tasks:
            continue
        right = _right(tasks[task])
        own = _figures(right)
        figures["tasks"][task] = own["score"]
        figures["by_task"][task] = own
        figures["perception" if task in PERCEPTION else "cognition"] += own["score"]
        invalid += sum(says(line.answer) == "other" for line in tasks[task])
        for image, hits in right.items():
            single.update({f"{task}/{image}#{number}": 100.0 * hit for number, hit in enumerate(hits)})
    figures |= read_otherwise(
        (says(line.answer), read_yes_no(line.answer), line.gold) for own in tasks.values() for line in own
    )
    met = {"missing": missing, "extra": 0, "duplicates": 0, "malformed": 0}
    absent = [task for task in (*PERCEPTION, *COGNITION) if task not in tasks]
    if absent:
        figures["missing_tasks"] = absent
    marks: Marks = {
        line.id: (100.0 * (says(line.answer) == line.gold), line.gold)
        for task in tasks.values()
        for line in task
    }
    kept = single if per_question else None
    return result(len(single), figures, met, invalid=invalid, per_question=kept, marks=marks)


def says(answer: str) -> str:
    """Which word the first four characters hold: "yes" before "no", else "other"."""
    start = answer.lower()[:READ]
    return "yes" if "yes" in start else "no" if "no" in start else "other"


def _figures(right: dict[str, list[bool]]) -> dict[str, float]:
    hits = [hit for pair in right.values() for hit in pair]
    accuracy = 100 * sum(hits) / len(hits)
    plus = 100 * sum(all(pair) for pair in right.values()) / len(right)
    return {"score": accuracy + plus, "accuracy": accuracy, "accuracy_plus": plus, "n": len(hits)}


def _right(lines: Sequence[Line]) -> dict[str, list[bool]]:
    """Hits by image. Lines are paired by their image, which on well-formed files is by place."""
    right: dict[str, list[bool]] = defaultdict(list)
    for line in lines:
        right[line.image].append(says(line.answer) == line.gold)
    return right


def _results(folder: Path) -> dict[str, list[Line]]:
    """Lines by task. A file is of the task that its name ends with, since nothing in it says."""
    tasks: dict[str, list[Line]] = {}
    for path in sorted(folder.glob("*.txt")):
        task = next(
            (t for t in (*PERCEPTION, *COGNITION) if path.stem == t or path.stem.endswith("_" + t)), None
        )
        if task is None:
            continue
        if task in tasks:
            raise InputError(f"{path}: results of {task} given twice")
        tasks[task] = [_line(path, number, text) for number, text in _lines(path)]
        _check_pairs(path, tasks[task])
    if not tasks:
        raise InputError(f"{folder}: no <task>.txt of MME in this folder ({PERCEPTION[0]}.txt, ..)")
    return tasks


def _lines(path: Path) -> list[tuple[int, str]]:
    lines = path.read_text(encoding="utf-8-sig").split("\n")
    return [(number, line.removesuffix("\r")) for number, line in enumerate(lines, 1) if line.strip()]


def _line(path: Path, number: int, text: str) -> Line:
    cells = text.split("\t", 3)
    if len(cells) != 4 or cells[2].lower() not in ("yes", "no"):
        raise InputError(
            f"{path}: line {number}: want image, question, Yes or No, and the answer, with tabs between"
        )
    return Line(cells[0], cells[1], cells[2].lower(), cells[3])


def _check_pairs(path: Path, lines: Sequence[Line]) -> None:
    pairs: dict[str, int] = defaultdict(int)
    for line in lines:
        pairs[line.image] += 1
    odd = next((image for image, number in pairs.items() if number != 2), None)
    if odd is not None:
        raise InputError(f"{path}: image {odd}: {pairs[odd]} lines where two are wanted")


def _joined(gold: Sequence[Path], answers: Path) -> tuple[dict[str, list[Line]], int]:
    """Lines by task of LLaVA's answers and the release folder; a missing answer is an empty one."""
    golds = dict(_golds(gold))
    if not golds:
        raise InputError(f"{answers}: LLaVA's answers hold no gold: give --gold, MME's release folder")
    said = {}
    for number, row in enumerate(records(parse(answers)), 1):
        if not all(isinstance(row.get(key), str) for key in ("question_id", "prompt", "text")):
            raise InputError(f"{answers}: record {number}: want question_id, prompt and text")
        task, image = row["question_id"].split("/")[0], Path(row["question_id"].split("#")[0]).stem
        said[task, image, _bare(row["prompt"])] = row["text"], row["question_id"]
    tasks: dict[str, list[Line]] = defaultdict(list)
    for key, label in golds.items():
        task, image, question = key
        tasks[task].append(Line(image, question, label, *said.get(key, ("", ""))))
    return tasks, sum(key not in said for key in golds)


def _golds(folders: Sequence[Path]) -> Iterator[tuple[tuple[str, str, str], str]]:
    for folder in folders:
        for path in sorted(folder.rglob("*.txt")):
            task = next(
                (part for part in reversed(path.parts[:-1]) if part in (*PERCEPTION, *COGNITION)), None
            )
            if task is None:
                continue
            use([path])
            for number, text in _lines(path):
                question, tab, label = text.rpartition("\t")
                if not tab or label.strip().lower() not in ("yes", "no"):
                    raise InputError(
                        f"{path}: line {number}: want a question and Yes or No, with a tab between"
                    )
                yield (task, path.stem, _bare(question)), label.strip().lower()


def _bare(question: str) -> str:
    return question.removesuffix(SHORT).strip().removesuffix(YES_NO.strip()).strip()


BENCHMARK = Benchmark(
    id="mme", title="MME", headline="perception", questions=questions, score=score, size=2_374
)
