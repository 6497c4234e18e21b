"""The `evaluate` stage: predictions, scores against the blinded model and chance, metrics.json, the report.

In: data/prepared, models/videollava (or any model folder). Out: evaluation/ and metrics.json.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from videollava.data.batches import Layout
from videollava.evaluate import benchmarks
from videollava.evaluate.normalise import exact
from videollava.evaluate.predict import Item, encode_media, mean_features, predict, read_items
from videollava.evaluate.report import write_report
from videollava.model import checkpoint
from videollava.params import Params
from videollava.tracking import input_key, log_metrics
from videollava.tracking.journal import current
from videollava.tracking.lineage import digest, folder_md5
from videollava.train.assemble import choose_attention

__all__ = ["evaluate", "run"]


def run(params: Params, workspace: Path) -> None:
    """Evaluate models/videollava into evaluation/ and metrics.json."""
    key = input_key(workspace, "evaluate")[:16]
    metrics = evaluate(params, workspace, workspace / "models/videollava", workspace / "evaluation", key)
    (workspace / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
    current().artifact(workspace / "evaluation/report.html", "report")


def evaluate(
    params: Params, workspace: Path, model_folder: Path, target: Path, key: str = ""
) -> dict[str, Any]:
    """Scores of a model on `params.evaluate.benchmarks`; predictions and report go to `target`."""
    key = key or digest([folder_md5(model_folder), params.evaluate.benchmarks])[:16]
    scratch = workspace / "checkpoints" / f"evaluate-{key}"
    sparing = params.evaluate.precision == "bf16"
    device = "cuda" if torch.cuda.is_available() else "cpu"
    loaded = checkpoint.load(model_folder, dtype=torch.bfloat16 if sparing else torch.float32, device=device)
    choose_attention(loaded.model, torch.device(device))
    shutil.rmtree(target, ignore_errors=True)
    (target / "predictions").mkdir(parents=True)
    metrics: dict[str, Any] = {}
    for name in params.evaluate.benchmarks:
        metrics[name] = _measure(name, params, workspace, loaded, scratch, target / "predictions")
        log_metrics(0, **{f"{name}.{key}": v for key, v in metrics[name].items() if isinstance(v, float)})
        print(_line(name, metrics[name]), flush=True)
    write_report(workspace, params, metrics, target / "report.html")
    shutil.rmtree(scratch, ignore_errors=True)
    return metrics


def _measure(
    name: str, params: Params, workspace: Path, loaded: Any, scratch: Path, predictions: Path
) -> dict[str, Any]:
    choices, prepared = params.evaluate, workspace / "data/prepared"
    items = read_items(prepared, name)
    layout = Layout.of(
        params.model,
        loaded.model.config.text_config.vocab_size,
        template="v1",
        image_aspect=benchmarks.get(name).aspect,
    )
    features = encode_media(loaded.model, prepared, items, layout, choices.workers)
    options = {"max_new_tokens": choices.max_new_tokens, "batch_tokens": choices.batch_tokens}
    answers = predict(loaded.model, loaded.tokenizer, items, features, scratch / f"{name}.jsonl", **options)
    scores = _score(name, items, answers, predictions / f"{name}.jsonl")
    metrics: dict[str, Any] = {"accuracy": scores["accuracy"], "chance": _chance(items), "n": len(items)}
    if choices.blind:
        means = mean_features(features)
        blind = predict(
            loaded.model, loaded.tokenizer, items, means, scratch / f"{name}.blind.jsonl", **options
        )
        metrics["blind_accuracy"] = _score(name, items, blind, predictions / f"{name}.blind.jsonl")[
            "accuracy"
        ]
    return metrics | {"by_kind": scores["by_kind"]}


def _score(name: str, items: Sequence[Item], answers: dict[str, str], target: Path) -> dict[str, Any]:
    with open(target, "w") as file:
        for item in items:
            said = answers[item.id]
            row = {
                "question_id": item.id,
                "kind": item.kind,
                "question": item.question,
                "answer": item.answer,
            }
            correct = exact(said) == exact(item.answer)
            file.write(json.dumps(row | {"prediction": said, "correct": correct, "media": item.media}) + "\n")
    return benchmarks.get(name).score([], target)


def _chance(items: Sequence[Item]) -> float:
    """Percent right of who knows the kind of each question and always gives that kind's commonest answer."""
    kinds: dict[str, Counter[str]] = {}
    for item in items:
        kinds.setdefault(item.kind, Counter())[exact(item.answer)] += 1
    return 100.0 * sum(max(counts.values()) for counts in kinds.values()) / max(1, len(items))


def _line(name: str, metrics: dict[str, Any]) -> str:
    parts = [f"{name}: {metrics['accuracy']:.2f}"]
    if "blind_accuracy" in metrics:
        parts.append(f"blinded {metrics['blind_accuracy']:.2f}")
    kinds = ", ".join(f"{kind} {_percent(value):.1f}" for kind, value in metrics["by_kind"].items())
    return f"{'  '.join(parts)}  chance {metrics['chance']:.2f}  ({kinds})"


def _percent(value: Any) -> float:
    return float(value["accuracy"] if isinstance(value, dict) else value)
