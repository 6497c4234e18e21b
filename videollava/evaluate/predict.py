"""Answers to a benchmark's questions, apart from their scoring: JSONL, written as they come, resumed by id.

In: a model, a test split of data/prepared. Out: one line a question. Each medium is encoded once however many
questions ask about it; killed and started again, what is answered stays answered.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from videollava.data.batches import Layout
from videollava.data.prompts import decode, expand, marked, prompt
from videollava.data.records import Turn
from videollava.data.shards import Shards, load_split
from videollava.evaluate.generate import Sample, generate_each
from videollava.train.features import Media

__all__ = ["Item", "encode_media", "mean_features", "predict", "prompt_sample", "read_items"]

CHUNK = {"image": 128, "video": 16}
SAY_EVERY = 10.0  # seconds


@dataclass(frozen=True)
class Item:
    """A question of a test split with its gold answer and the numbers of its media."""

    id: str
    kind: str
    question: str
    answer: str
    media: tuple[int, ...]


def read_items(prepared: Path, benchmark: str) -> list[Item]:
    """The questions of `test-<benchmark>`, in the order of the index."""
    rows = (
        load_split(prepared, f"test-{benchmark}").select(["id", "kind", "conversations", "media"]).to_pylist()
    )
    items = []
    for row in rows:
        turns = [Turn(role, text) for role, text in json.loads(row["conversations"])]
        items.append(Item(row["id"], row["kind"], turns[0].text, turns[-1].text, tuple(row["media"])))
    return items


@torch.inference_mode()
def encode_media(
    model: Any, prepared: Path, items: Sequence[Item], layout: Layout, workers: int
) -> dict[int, tuple[str, Tensor]]:
    """Kind and encoder features (tokens, dim) of every medium that the items ask about, by number."""
    shards = Shards(prepared)
    kinds = shards.media["kind"].to_pylist()
    features: dict[int, tuple[str, Tensor]] = {}
    weight = next(model.parameters())
    for kind, chunk in CHUNK.items():
        numbers = sorted({m for item in items for m in item.media if kinds[m] == kind})
        if not numbers:
            continue
        call = model.encode_images if kind == "image" else model.encode_videos
        loader = DataLoader(Media(shards, numbers, kind, layout), batch_size=chunk, num_workers=workers)
        batches = (call(pixels.to(weight.device, weight.dtype)) for pixels in loader)
        for number, row in zip(numbers, (row for batch in batches for row in batch), strict=True):
            features[number] = (kind, row)
    return features


def mean_features(features: dict[int, tuple[str, Tensor]]) -> dict[int, tuple[str, Tensor]]:
    """Every medium replaced by the mean of its kind: what a model sees that cannot look."""
    means = {}
    for kind in {kind for kind, _ in features.values()}:
        rows = [row for of, row in features.values() if of == kind]
        means[kind] = (kind, torch.stack(rows).float().mean(0).to(rows[0].dtype))
    return {number: means[kind] for number, (kind, _) in features.items()}


def predict(
    model: Any,
    tokenizer: Any,
    items: Sequence[Item],
    features: dict[int, tuple[str, Tensor]],
    target: Path,
    *,
    max_new_tokens: int,
    batch_tokens: int,
) -> dict[str, str]:
    """Answer what `target` has no answer to yet; all answers by question id."""
    answers = dict(_answered(target))
    todo = [item for item in items if item.id not in answers]
    samples = [_sample(model, tokenizer, item, features) for item in todo]
    began = said = time.monotonic()
    target.parent.mkdir(parents=True, exist_ok=True)
    _cut_torn_line(target)
    with open(target, "a") as file:
        for done, (row, ids) in enumerate(
            generate_each(model, tokenizer, samples, max_new_tokens, batch_tokens=batch_tokens), start=1
        ):
            item = todo[row]
            answers[item.id] = decode(ids, tokenizer, "v1")
            file.write(json.dumps({"question_id": item.id, "prediction": answers[item.id]}) + "\n")
            now = time.monotonic()
            if now - said > SAY_EVERY or done == len(todo):
                said = now
                file.flush()
                rate = done / max(1e-9, now - began)
                left = (len(todo) - done) / rate
                print(
                    f"{target.stem} {done}/{len(todo)}  {rate:,.0f} questions/s  {left:.0f} s left",
                    flush=True,
                )
    return answers


def prompt_sample(
    model: Any,
    tokenizer: Any,
    question: str,
    images: Sequence[Tensor],
    videos: Sequence[Tensor],
    where: str = "",
) -> Sample:
    """A question with its media (pixels or features) as the generator takes it."""
    kinds = ["image"] * len(images) + ["video"] * len(videos)
    if "<image>" in question or "<video>" in question:
        kinds = [word[:5] for word in question.split("<")[1:] if word.startswith(("image>", "video>"))]
    else:
        question = marked(question, kinds)
    config = model.config
    encoded = expand(
        prompt([Turn("human", question)], kinds, tokenizer, where=where),
        config.image_tokens,
        config.video_tokens(),
        config.image_token_id,
        config.video_token_id,
    )
    return Sample(encoded.input_ids, images, videos)


def _sample(model: Any, tokenizer: Any, item: Item, features: dict[int, tuple[str, Tensor]]) -> Sample:
    media = [features[number] for number in item.media]
    images = [row for kind, row in media if kind == "image"]
    videos = [row for kind, row in media if kind == "video"]
    return prompt_sample(model, tokenizer, item.question, images, videos, f"question {item.id}")


def _answered(target: Path) -> Iterator[tuple[str, str]]:
    if not target.is_file():
        return
    for line in target.read_bytes().splitlines(keepends=True):
        if line.endswith(b"\n"):
            row = json.loads(line)
            yield row["question_id"], row["prediction"]


def _cut_torn_line(target: Path) -> None:
    """A process killed in the middle of a line leaves half of one: it is asked again."""
    if target.is_file():
        whole = target.read_bytes()
        end = whole.rfind(b"\n") + 1
        if end < len(whole):
            with open(target, "r+b") as file:
                file.truncate(end)
