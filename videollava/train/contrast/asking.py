"""What is asked while a vision encoder learns: retrieval over held-out pairs, and zero-shot sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from videollava.data.load.batches import Layout
from videollava.data.load.pairs import Pairs, rows_of
from videollava.data.modalities import MediumKind
from videollava.data.prepare.tables import split_names, valid_part
from videollava.embedding.encoders import text_tower
from videollava.model.encoders import LanguageBind
from videollava.params import Align, Params
from videollava.train.contrast.gallery import plan_gallery
from videollava.train.contrast.parts import Part
from videollava.train.contrast.retrieval import MOST, ask_retrieval
from videollava.train.contrast.zero_shot import ask_sets, read_asked
from videollava.train.engine import Engine
from videollava.train.validation import Question, Validation

__all__ = ["Reading", "held_out_split", "plan_validation", "with_asked"]


@dataclass(frozen=True)
class Reading:
    """How what is asked is read. texts: of every caption of data/index its vector; positions: the longest one's tokens;
    workers: processes that decode.
    """

    prepared: Path
    tokenizer: Any
    layout: Layout
    texts: Mapping[str, Tensor]
    positions: int
    workers: int


def held_out_split(prepared: Path, kind: MediumKind, align: Align) -> str:
    """The split of held-out pairs, where it has any of the kind and the recipe asks for them; else \"\"."""
    split = valid_part("align")
    there = align.validations and split in split_names(prepared) and rows_of(prepared, kind, split)
    return split if there else ""


def with_asked(parts: Sequence[Part], params: Params, workspace: Path) -> list[Part]:
    """The parts with the zero-shot sets of their modality, read before anything learns. Called on rank 0."""
    sets = read_asked(params, workspace, {part.kind for part in parts if part.epochs})
    return [replace(part, asked=tuple(one for one in sets if one.kind == part.kind)) for part in parts]


def plan_validation(
    part: Part, name: str, held_out: str, pair: LanguageBind, reading: Reading, align: Align, engine: Engine
) -> Validation | None:
    """What a part is asked, None where there is nothing. pair: with its text encoder as it stays, on the device; name:
    of the part in figures; held_out: a split, or \"\".
    """
    batch = part.settings.batch_size
    questions: list[Question] = []
    if held_out:
        pairs = _held_out_pairs(part, held_out, reading, align.keep_pixels, engine)
        questions.append(ask_retrieval(pairs, engine, reading.workers, name))
    if sets := engine.agree(part.asked) if align.zero_shot else ():
        encoders = text_tower(pair, reading.tokenizer, str(engine.device))
        given = (encoders, reading.layout, reading.prepared, engine, batch, reading.workers, name)
        questions.append(ask_sets(sets, *given))
    return Validation(None, align.validations, questions=questions) if questions else None


def _held_out_pairs(part: Part, held_out: str, reading: Reading, keep: bool, engine: Engine) -> Pairs:
    count = len(rows_of(reading.prepared, part.kind, held_out))
    return Pairs(
        *(reading.prepared, part.kind, reading.tokenizer, reading.layout),
        plan_gallery(count, engine.ranks, part.settings.batch_size, MOST),
        texts=reading.texts,
        positions=reading.positions,
        pixels={} if keep else None,
        split=held_out,
    )
