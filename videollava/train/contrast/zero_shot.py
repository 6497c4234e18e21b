"""Zero-shot sets asked while a vision encoder learns (`align.zero_shot`), whenever held-out retrieval is.

Rank 0 reads them before anything learns, and draws which of their media are asked. Texts are encoded once, as the text
encoder is frozen; media are shared out to the ranks and kept decoded where they are few. Nothing is learned from it.
The figures are those of `videollava zero-shot` for the encoder as it is at that step, over the same media, computed in
what training computes in.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import Dataset

from videollava.data.load.batches import Layout, blank_pixels, decode, load_batches
from videollava.data.load.packing import Plan
from videollava.data.load.shards import Shards
from videollava.data.media.pixels import stack
from videollava.data.modalities import MediumKind
from videollava.embedding.classification import class_figures, class_vectors
from videollava.embedding.encoders import Encoders, Vectors, embed, similarity
from videollava.embedding.kinds import kind_of, kind_said
from videollava.embedding.retrieval import rank_all, retrieval_figures
from videollava.embedding.templates import templates_for
from videollava.embedding.zero_shot.layouts import Labelled
from videollava.embedding.zero_shot.pairs import read_pairs
from videollava.embedding.zero_shot.sets import PAIRS, Chosen, choose_sets, name_apart, read_items
from videollava.errors import InputError
from videollava.params import Params
from videollava.train.contrast.gallery import encode_gallery, plan_gallery
from videollava.train.engine import Engine
from videollava.train.validation import Question

__all__ = ["Asked", "ask_sets", "read_asked"]

KEPT = 512 << 20  # bytes of a set's decoded media that a rank keeps
HEADLINES = {"top1": "top-1", "map": "mAP", "text_to_media_r1": "R@1"}
Say = Callable[[str], None]


@dataclass(frozen=True)
class Asked:
    """Media of one kind. name: as in an evaluation (esc-50.zero_shot, toy_pairs.audio); media: files, or numbers of
    data/index; said: of each its captions, or where there are `classes` the numbers of its own.
    """

    name: str
    kind: MediumKind
    media: Sequence[Path | int]
    said: Sequence[Sequence[Any]]
    classes: Sequence[str] = ()
    multi: bool = False

    @property
    def headline(self) -> str:
        """Which of its figures stands for it."""
        return ("map" if self.multi else "top1") if self.classes else "text_to_media_r1"

    @property
    def chance(self) -> dict[str, float]:
        """What guessing gives, in percent; of mAP nothing."""
        return {} if self.multi else {"chance": 100 / len(self.classes or self.media)}

    def take(self, numbers: Sequence[int]) -> Asked:
        """These of its media."""
        return replace(self, media=[self.media[n] for n in numbers], said=[self.said[n] for n in numbers])


def read_asked(params: Params, workspace: Path, kinds: Collection[str], say: Say = print) -> list[Asked]:
    """The sets that align.zero_shot names, of modalities that learn here, each with the media that are asked of it.

    InputError where there is no such set, or its files are not there or laid out otherwise.
    """
    names, most = params.align.zero_shot, params.align.zero_shot_media
    found = []
    for one in choose_sets("align.zero_shot", names, params.evaluate, workspace):
        for whole in _of_pairs(one) if one.set.task == PAIRS else [_of_files(one, say)]:
            if whole.kind not in kinds:
                say(f"align: {whole.name}: no encoder of {whole.kind} learns here: it is not asked")
                continue
            drawn = _draw(whole, most, params.seed)
            of = f" of {len(whole.media):,}, drawn by seed {params.seed}" if drawn is not whole else ""
            say(f"align: {whole.name}: {len(drawn.media):,} media{of}")
            found.append(drawn)
    return found


def _of_pairs(one: Chosen) -> Iterator[Asked]:
    for name, media in read_pairs(one.folder, one.set.name).media.items():
        kind, captions = kind_said(name), [[caption] for caption in media]
        yield Asked(f"{one.set.name}.{kind}", kind, list(media.values()), captions)


def _of_files(one: Chosen, say: Say) -> Asked:
    items = read_items(one)
    if items.absent:
        say(f"align: {one.set.name}: {len(items.absent)} media lack: left out, so figures are of fewer")
    name, kind = name_apart(one.set.name), kind_said(one.set.kind or kind_of(items.media[0]))
    if isinstance(items, Labelled):
        return Asked(name, kind, items.media, items.labels, items.classes, items.multi)
    return Asked(name, kind, items.media, items.captions)


def _draw(whole: Asked, most: int, seed: int) -> Asked:
    count = len(whole.media)
    if not most or count <= most:
        return whole
    chosen = np.random.default_rng([seed, *whole.name.encode()]).choice(count, most, replace=False)
    return whole.take(np.sort(chosen).tolist())


def ask_sets(
    sets: Sequence[Asked],
    encoders: Encoders,
    layout: Layout,
    prepared: Path,
    engine: Engine,
    batch: int,
    workers: int,
    name: str,
) -> Question:
    """The question how the sets come out. encoders: the text tower that is bound to. name: of the part that learns.

    Beside each set's figures there is their mean, by the part's name (audio_zero_shot), which is what is drawn.
    """
    galleries = [
        _Gallery(one, _texts_of(one, encoders), _share(one, layout, prepared, engine, batch), workers)
        for one in sets
    ]
    apart = "" if all(one.kind == name for one in sets) else f"{name}."

    def ask(model: nn.Module) -> dict[str, float]:
        found = [gallery.ask(model, engine) for gallery in galleries]
        told = zip(sets, found, strict=True)
        figures = {f"{apart}{one.name}.{key}": value for one, ours in told for key, value in ours.items()}
        heads = [ours[one.headline] for one, ours in zip(sets, found, strict=True) if ours]
        return figures | ({f"{name}_zero_shot": float(np.mean(heads))} if heads else {})

    return Question(
        ask, {f"{apart}{one.name}.{one.headline}": f"{one.name} {HEADLINES[one.headline]}" for one in sets}
    )


def _texts_of(asked: Asked, encoders: Encoders) -> Vectors:
    """A vector a class, or a caption in the order of the media."""
    if asked.classes:
        return class_vectors(encoders, asked.classes, templates_for(asked.kind))
    return embed(encoders, texts=itertools.chain.from_iterable(asked.said))


def _share(asked: Asked, layout: Layout, prepared: Path, engine: Engine, batch: int) -> _Media:
    count = len(asked.media)
    return _Media(asked, plan_gallery(count, engine.ranks, batch, most=count), layout, prepared)


@dataclass
class _Batch:
    """pixels of media of one kind; present (B,): one that cannot be read keeps its place. dropped: why."""

    pixels: Tensor
    present: Tensor
    dropped: list[str]


class _Media(Dataset[_Batch]):
    """Item p is batch p of the plan."""

    def __init__(self, asked: Asked, plan: Plan, layout: Layout, prepared: Path) -> None:
        self.asked, self.plan, self.layout = asked, plan, layout
        self.shards = Shards(prepared) if any(isinstance(one, int) for one in asked.media) else None

    def __getitem__(self, number: int) -> _Batch:
        found: list[Tensor | None] = []
        dropped = []
        for row in self.plan.pack(number).tolist():
            medium = self.asked.media[row]
            try:
                source = self.shards.read(medium) if self.shards else medium
                found.append(decode(source, self.asked.kind, self.layout))
            except InputError as error:
                dropped.append(str(error))
                found.append(None)
        blank = blank_pixels(self.asked.kind, self.layout)
        pixels = stack([blank if one is None else one for one in found])
        return _Batch(pixels, torch.tensor([one is not None for one in found]), dropped)


@dataclass
class _Gallery:
    """A set as it is asked again and again. kept: its decoded media, None before they are read or if they are many."""

    asked: Asked
    texts: Vectors
    media: _Media
    workers: int
    kept: list[_Batch] | None = None
    read: bool = False

    def ask(self, model: nn.Module, engine: Engine) -> dict[str, float]:
        """The figures; on ranks other than 0 nothing. Where fewer than two media can be read there are none."""
        vectors, present = encode_gallery(self._batches(engine), self.media.plan, engine, model)
        there = np.flatnonzero(present.numpy())
        if not engine.first or len(there) < 2:
            return {}
        return _figures(self.asked, self.texts, vectors.numpy(), there)

    def _batches(self, engine: Engine) -> Iterator[_Batch]:
        if self.kept is not None:
            yield from self.kept
            return
        plan = self.media.plan
        numbers = [number for step in range(len(plan)) for number in plan.packs_of(step, engine.rank)]
        kept, held = [], 0
        given: Any = load_batches(self.media, numbers, self.workers)  # type: ignore[arg-type]
        for batch in given:
            for reason in () if self.read else batch.dropped:
                print(f"{self.asked.name}: left out: {reason}", flush=True)
            held += batch.pixels.nbytes
            if held <= KEPT:
                kept.append(batch)
            else:
                kept.clear()
            yield batch
        self.read, self.kept = True, kept if held <= KEPT else None


def _figures(asked: Asked, texts: Vectors, vectors: Vectors, there: NDArray[np.int64]) -> dict[str, float]:
    """Of the media that are `there`. vectors: of all (N, D)."""
    left, seen = asked.take(there.tolist()), vectors[there]
    if asked.classes:
        return class_figures(similarity(seen, texts), left.said, asked.multi) | left.chance
    owned = np.isin(_owners(asked), there)
    return retrieval_figures(rank_all(texts[owned], seen, _owners(left).tolist())) | left.chance


def _owners(asked: Asked) -> NDArray[np.int64]:
    """Of each caption the number of its medium."""
    return np.repeat(np.arange(len(asked.media)), [len(said) for said in asked.said])
