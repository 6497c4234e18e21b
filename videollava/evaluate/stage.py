"""The `evaluate` stage: predictions, scores against the blinded model and chance, metrics.json, the report.

In: data/index or the benchmarks' folders, models/videollava (or any model folder). Out: evaluation/ and
metrics.json. Under torchrun the ranks share the questions, and rank 0 judges and scores.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from videollava.data.versions.card import CARD, read_card
from videollava.embedding.zero_shot.sets import APART, SETS, choose_sets
from videollava.errors import InputError
from videollava.evaluate import benchmarks
from videollava.evaluate.answers import AnswerLog, Given
from videollava.evaluate.contamination import find_contamination
from videollava.evaluate.identity import sum_media
from videollava.evaluate.judge import open_judge
from videollava.evaluate.measure import COUNTED, Bench, measure
from videollava.evaluate.media import (
    Encode,
    Reader,
    blindfold,
    encode_windows,
    media_of,
    read_means,
    sum_features,
)
from videollava.evaluate.predict import Settings, predict
from videollava.evaluate.questions import QuestionSet, read_questions
from videollava.evaluate.ranks import Ranks, join_ranks
from videollava.evaluate.report import write_report
from videollava.evaluate.zero_shot.stage import ask_encoders, check_encoders
from videollava.machine import DEFAULTS, Machine, Work
from videollava.model import checkpoint
from videollava.model.attention import choose_attention
from videollava.model.precision import usable_precision
from videollava.params import Params
from videollava.tracking import input_key, log_metrics, read_lineage
from videollava.tracking.journal import current
from videollava.tracking.lineage import digest, folder_md5

__all__ = ["WITHOUT", "evaluate", "run"]

WRITTEN = (
    "answers",
    "card.json",
    "judge",
    "predictions",
    "submissions",
    "zero_shot",
    "contamination.json",
    "metrics.json",
    "report.html",
)
SHORT = 12  # digits of a hash
WITHOUT = (
    "a model alone has no text encoder to ask; --encoders names a folder of its encoders, and a registered version "
    "(models:/NAME/N) has them"
)


def run(params: Params, workspace: Path, machine: Machine = DEFAULTS) -> None:
    """Evaluate models/videollava into evaluation/ and metrics.json."""
    if params.evaluate.benchmarks and not (workspace / "models/videollava").is_dir():
        raise InputError(
            "models/videollava: not there, and evaluate.benchmarks asks it: run `videollava finetune`, or "
            "set evaluate.benchmarks: [] to ask the encoders alone (evaluate.zero_shot)"
        )
    if params.evaluate.zero_shot and not (workspace / "models/encoders").is_dir():
        raise InputError("models/encoders: not there, and evaluate.zero_shot asks it: run `videollava align`")
    key = input_key(workspace, "evaluate", parameters=False)
    target = workspace / "evaluation"
    metrics = evaluate(
        *(params, workspace, workspace / "models/videollava", target, key),
        machine=machine,
        encoders=workspace / "models/encoders",
    )
    if Ranks.of().rank:
        return
    _write_json(metrics, workspace / "metrics.json")
    if (target / "report.html").is_file():
        current().artifact(target / "report.html", "report")
        print("evaluation/report.html: figures, curves, samples", flush=True)


def evaluate(
    params: Params,
    workspace: Path,
    model_folder: Path,
    target: Path,
    key: str = "",
    *,
    machine: Machine = DEFAULTS,
    champion: Path | None = None,
    name: str = "",
    encoders: Path | None = None,
    without: str = WITHOUT,
) -> dict[str, Any]:
    """Scores of a model on `params.evaluate.benchmarks`; predictions, metrics.json and report go to `target`.

    key: of the model, data and code that the answers depend on; without one, the model is another than the
    workspace's, and named in the report (`name`, else its folder's). champion: the evaluation folder to compare with.
    encoders: the folder of those that `params.evaluate.zero_shot` asks; without one it is left out, which is printed
    and stands in the report. without: why there is none.
    What was answered before a kill, or before a judge stopped, is not asked again. On ranks other than 0 the result is
    empty.
    """
    ranks = Ranks.of()
    lineage = None if key else _lineage(workspace, model_folder, name)
    scratch = workspace / "checkpoints" / f"evaluate-{_answering(key or lineage, params)}"
    judging = params.evaluate.judge
    judge = None if judging.kind == "local" else open_judge(judging)  # a mistake in it shows at once
    if params.evaluate.zero_shot and encoders is not None:
        choices = params.evaluate
        chosen = choose_sets("evaluate.zero_shot", choices.zero_shot, choices, workspace)
        check_encoders(encoders, chosen)
    with join_ranks(ranks):
        sets = _read_sets(params, workspace, scratch, ranks)
        if not (sets or params.evaluate.zero_shot):
            print("evaluate.benchmarks names none: nothing is scored", flush=True)
        given = (
            _answer_all(sets, params, machine.work("evaluate"), workspace, model_folder, scratch, ranks)
            if sets
            else []
        )
        ranks.wait()
        if ranks.rank:
            return {}
    for written in WRITTEN:
        shutil.rmtree(target / written, ignore_errors=True)
        (target / written).unlink(missing_ok=True)
    target.mkdir(parents=True, exist_ok=True)
    judge = open_judge(judging) if judging.kind == "local" else judge
    bench = Bench(target, judge, judging, _verdicts(workspace))
    metrics = _measure(sets, [logs.read() for logs in given], bench, workspace)
    left_out = ""
    if params.evaluate.zero_shot and encoders is None:
        left_out = _left_out(params.evaluate.zero_shot, without)
    elif params.evaluate.zero_shot and encoders:
        metrics |= _ask_encoders(params, workspace, encoders, target, ranks)
    _write_json(metrics, target / "metrics.json")
    if (workspace / CARD).is_file():
        overlap = json.loads((target / "contamination.json").read_text())
        _write_json(read_card(workspace, params, overlap), target / "card.json")
    if metrics:
        write_report(workspace, params, metrics, target / "report.html", champion, lineage, left_out)
    shutil.rmtree(scratch, ignore_errors=True)
    return metrics


@dataclass(frozen=True)
class _Logs:
    """The logs of one benchmark's answers, and of the blinded model's where that was asked too."""

    seen: AnswerLog
    blind: AnswerLog | None

    def read(self) -> tuple[Given, Given | None]:
        return self.seen.read(), self.blind.read() if self.blind else None


def _read_sets(params: Params, workspace: Path, scratch: Path, ranks: Ranks) -> list[QuestionSet]:
    """All questions, before a model is loaded: a mistake in a file costs seconds. Rank 0 unpacks media first."""
    names = params.evaluate.benchmarks
    for name in params.evaluate.folders:
        if name.removesuffix(APART) not in SETS:
            benchmarks.get(name)  # a mistyped one would be no benchmark's
    read = partial(read_questions, choices=params.evaluate, workspace=workspace)
    scratch.mkdir(parents=True, exist_ok=True)
    if ranks.rank:
        ranks.wait()
    sets = [read(name, unpacked=scratch / f"media-{name}") for name in names]
    if not ranks.rank:
        ranks.wait()
    return sets


def _answer_all(
    sets: Sequence[QuestionSet],
    params: Params,
    work: Work,
    workspace: Path,
    folder: Path,
    scratch: Path,
    ranks: Ranks,
) -> list[_Logs]:
    """Ask this rank's share of all questions. The model is let go at the end: a local judge needs the room."""
    precision = usable_precision(params.evaluate.precision, ranks.device)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    loaded = checkpoint.load(folder, dtype=dtype, device=ranks.device)
    if loaded.tokenizer is None:
        raise InputError(f"{folder}: no tokenizer in it; evaluate needs a whole model")
    choose_attention(loaded.model, torch.device(ranks.device))
    askings = [_Asking.of(one, params, work, workspace, scratch, loaded, ranks) for one in sets]
    ranks.wait()  # all have read what was answered before one goes on
    for asking in askings:
        asking.ask()
    if params.evaluate.blind:
        ranks.wait()  # what lacks its medium is known, and the means are there
        for asking in askings:
            asking.ask_blinded()
    logs = [asking.logs for asking in askings]
    del loaded
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return logs


@dataclass(frozen=True)
class _Asking:
    """One benchmark's questions on the way to the model: its logs, and what they held at the start."""

    one: QuestionSet
    logs: _Logs
    given: tuple[Given, Given | None]
    means: Path
    reader: Reader
    loaders: int
    loaded: Any
    settings: Settings

    @classmethod
    def of(
        cls,
        one: QuestionSet,
        params: Params,
        work: Work,
        workspace: Path,
        scratch: Path,
        loaded: Any,
        ranks: Ranks,
    ) -> _Asking:
        """Of this rank."""
        choices = params.evaluate
        reader = Reader.of(loaded.model.config, workspace, one.benchmark.aspect)
        if not one.of_files and any(kind == "video" for kind, _ in media_of(one.items)):
            reader.check_frames()
        new = one.benchmark.max_new_tokens if one.of_files else choices.max_new_tokens
        settings = Settings(new, work.tokens_per_batch, ranks)
        folder = scratch / f"{one.name}-{one.key(reader.mark)}"
        blind = AnswerLog(folder / "blind", ranks.rank) if choices.blind else None
        logs = _Logs(AnswerLog(folder / "seen", ranks.rank), blind)
        return cls(one, logs, logs.read(), folder / "means", reader, work.loaders, loaded, settings)

    def ask(self) -> None:
        """This rank's share; and its share of the means that blind."""
        model = self.loaded.model
        encode = partial(encode_windows, model, self.reader, self.loaders)
        self._predict(encode, self.logs.seen, name=self.one.name, given=self.given[0])
        if self.logs.blind:
            media, ranks = media_of(self.one.items), self.settings.ranks
            sum_features(model, self.reader, self.loaders, media, self.means, ranks)

    def ask_blinded(self) -> None:
        """Once more, each medium as the mean of its kind."""
        assert self.logs.blind
        encode = blindfold(read_means(self.loaded.model, self.means))
        told = {"given": self.given[1], "unseen": self.logs.seen.read().problems}
        self._predict(encode, self.logs.blind, name=f"{self.one.name}.blind", **told)

    def _predict(self, encode: Encode, log: AnswerLog, **told: Any) -> None:
        predict(self.loaded.model, self.loaded.tokenizer, self.one.items, encode, log, self.settings, **told)


def _measure(
    sets: Sequence[QuestionSet], given: Sequence[tuple[Given, Given | None]], bench: Bench, workspace: Path
) -> dict[str, Any]:
    sums = sum_media(sets, workspace)
    contamination = find_contamination(sets, sums, workspace)
    _write_json(contamination, bench.target / "contamination.json")
    metrics: dict[str, Any] = {}
    for one, (seen, blind) in zip(sets, given, strict=True):
        found = measure(one, seen, blind, bench, sums)
        if found is None:
            continue
        if one.of_files and one.name in contamination:
            counted = contamination[one.name].items()
            found["contamination"] = {name: count for name, count in counted if name != "examples"}
        metrics[one.name] = found
        figures = {key: v for key, v in found.items() if isinstance(v, float) or key in COUNTED}
        log_metrics(0, **{f"{one.name}.{key}": v for key, v in figures.items()})
        print(_line(one.name, found), flush=True)
        for line in _lacks(seen):
            print(f"{one.name}: {line}", flush=True)
    return metrics


def _ask_encoders(
    params: Params, workspace: Path, folder: Path, target: Path, ranks: Ranks
) -> dict[str, dict[str, Any]]:
    found = ask_encoders(params, workspace, folder, target, ranks.device)
    for name, figures in found.items():
        log_metrics(0, **{f"{name}.{key}": v for key, v in figures.items() if isinstance(v, float)})
    return found


def _left_out(names: Sequence[str], why: str) -> str:
    """Said where it is seen now, and for the page, where it is seen later."""
    said = f"evaluate.zero_shot: left out ({', '.join(names)}): {why}"
    print(said, flush=True)
    return said


def _lacks(seen: Given) -> Iterator[str]:
    """What was not answered, or not to the end, and why."""
    if seen.lacking:
        first = next(iter(seen.lacking.values()))
        yield f"{len(seen.lacking):,} questions lack their medium and count as wrong; the first: {first}"
    if seen.unasked:
        first = seen.problems[min(seen.unasked)]
        yield f"{len(seen.unasked):,} questions were not answered and count as wrong; the first: {first}"
    if seen.cut:
        yield f"{len(seen.cut):,} answers end where the model's positions do; the first: {min(seen.cut)!r}"


def _line(name: str, metrics: Mapping[str, Any]) -> str:
    headline = metrics.get("headline", "accuracy")
    parts = [f"{name}: {headline + ' ' if 'headline' in metrics else ''}{_figure(metrics[headline])}"]
    if f"blind_{headline}" in metrics:
        parts.append(f"blinded {_figure(metrics[f'blind_{headline}'])}")
    if "chance" in metrics:
        parts.append(f"chance {_figure(metrics['chance'])}")
    if "judge" in metrics:
        reader = f", {metrics['judge_reader']} reader" if "judge_reader" in metrics else ""
        parts.append(f"judged by {metrics['judge']}{reader}")
    counted = {
        "invalid": "unread",
        "read_otherwise": "read otherwise than worded",
        "lost_to_form": "lost to form",
    }
    parts += [f"{metrics[key]:,} {words}" for key, words in counted.items() if metrics.get(key)]
    kinds = ", ".join(f"{kind} {value:.1f}" for kind, value in metrics.get("by_kind", {}).items())
    return "  ".join(parts) + (f"  ({kinds})" if kinds else "")


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _answering(inputs: Any, params: Params) -> str:
    """Of what answers depend on, and nothing else: a judge set otherwise does not ask the model again."""
    choices = params.evaluate
    made = [params.model, choices.precision, choices.max_new_tokens]
    return digest([inputs, made])[:16]


def _lineage(workspace: Path, model_folder: Path, name: str) -> dict[str, str]:
    """What a report says of a model that this workspace did not train."""
    commit = read_lineage(workspace).commit[:SHORT]
    return {
        "code": commit or "not recorded",
        "model": name or model_folder.name,
        "weights": folder_md5(model_folder)[:SHORT],
    }


def _verdicts(workspace: Path) -> Path:
    """Kept over evaluations: a judge is paid once for an answer."""
    return workspace / "checkpoints/judge/verdicts.jsonl"


def _write_json(value: Mapping[str, Any], target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.with_name(target.name + ".tmp")
    aside.write_text(json.dumps(value, indent=2) + "\n")
    os.replace(aside, target)
