"""What training starts from: a whole Video-LLaVA, or a language model taken from elsewhere or learned here on text.

In: data/index (tokenizer, and the text of the training splits). Out: models/bases/language, a transformers folder;
models/given, the encoders and the projector of `bases.model` (nothing but origin.json where there is none).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset

from videollava.data.load.batches import Batch, lay_in_row
from videollava.data.load.packing import Lengths, Plan, plan_epoch
from videollava.data.prepare.tables import load_split
from videollava.data.records.marks import find_marks, replace_marks, replace_words
from videollava.data.records.record import Turn
from videollava.data.text.bounds import TooLongError
from videollava.data.text.prompts import IGNORED, TEMPLATES, Encoded, cut, encode
from videollava.data.text.segments import Segments, segments_of
from videollava.machine import DEFAULTS, Machine
from videollava.model.attention import packed_kwargs
from videollava.model.formats.language import load_language_model
from videollava.model.lean import keep_less
from videollava.model.video_llava import language_config
from videollava.origin import Pins
from videollava.params import Params, Train
from videollava.tracking import input_key
from videollava.train.cost import Prices, language_prices, palm_prices, step_flops
from videollava.train.engine import make_engine, peak_flops, usable
from videollava.train.given import take_apart
from videollava.train.loop import Job, train
from videollava.train.saving.opening import open_place
from videollava.train.saving.spent import clear_unless_awaited

__all__ = ["parts_of", "run", "texts_of"]

QUESTIONS = 5  # of one conversation, at most


def run(params: Params, workspace: Path, machine: Machine = DEFAULTS) -> None:
    """Write models/bases and models/given."""
    base, models, pins = params.bases, workspace / "models", Pins(workspace, "bases")
    for folder in ("bases", "given"):
        shutil.rmtree(models / folder, ignore_errors=True)
        (models / folder).mkdir(parents=True)
    taken = pins.find(base.model) if base.model else None
    if taken is not None:
        take_apart(taken, params, workspace / "data/index/tokenizer", models)
    elif base.language == "train":
        _save(models / "bases/language", *_learn(params, workspace, machine))
    else:
        _save(models / "bases/language", *load_language_model(pins.locate(base.language)))
    # Of the language model alone nothing is told in `given`: what depends on that does not depend on it.
    _write_origin({} if taken is None else taken.record(), models / "given")
    pins.write()
    place = open_place(_checkpoints(params, workspace), machine.work("bases").checkpoint_place)
    clear_unless_awaited(place)


def _checkpoints(params: Params, workspace: Path) -> Path:
    return workspace / "checkpoints" / f"bases-{input_key(workspace, 'bases', used=params)[:16]}"


def _save(folder: Path, model: Any, tokenizer: Any) -> None:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _write_origin(record: dict[str, str], folder: Path) -> None:
    (folder / "origin.json").write_text(json.dumps(record, indent=2, sort_keys=True) + "\n")


def _learn(params: Params, workspace: Path, machine: Machine) -> tuple[Any, Any]:
    """A small Llama that has read every training conversation, its media told in words."""
    from transformers import AutoTokenizer, LlamaForCausalLM

    base, prepared = params.bases, workspace / "data/index"
    tokenizer = AutoTokenizer.from_pretrained(prepared / "tokenizer")
    torch.manual_seed(params.seed)
    ids = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    config = language_config(
        params.model.language, len(tokenizer), **{k: v for k, v in ids.items() if v is not None}
    )
    # The usual 0.02 suits thousands of dimensions. At 128, attention starts so even that an epoch went by without the
    # model looking anything up (bench/RESULTS.md); and tokens must stay what they are among what the layers add.
    config.initializer_range = config.hidden_size**-0.5
    model = LlamaForCausalLM._from_config(config, attn_implementation="varlen")
    nn.init.normal_(model.model.embed_tokens.weight, std=0.5)
    keep_less(model.model)
    settings = usable(Train(learning_rate=base.learning_rate, precision=base.precision))
    work = machine.work("bases").replace(strategy="replicated", workers=0)  # texts are encoded already
    texts = texts_of(prepared, tokenizer, params.model.language.positions)
    packs = [TextPacks(texts, _plan(texts, params, epoch)) for epoch in range(base.epochs)]
    engine = make_engine(settings, work)
    job = Job(
        name="bases",
        model=model,
        groups=[{"params": list(model.parameters()), "lr": base.learning_rate}],
        forward=_forward,
        packs=packs,
        settings=settings,
        work=work,
        checkpoints=_checkpoints(params, workspace),
        seed=params.seed,
        engine=engine,
        betas=(0.9, 0.98),
        flops=[step_flops(one.plan, *_costs(texts, config)) for one in packs],  # one rank
        peak_flops=peak_flops(engine.device),
    )
    train(job)
    return model, tokenizer


class TextPacks(Dataset[Batch]):
    """Item p is pack p of the plan, of texts that are encoded once for all epochs."""

    def __init__(self, texts: Sequence[Encoded], plan: Plan) -> None:
        self.texts, self.plan = texts, plan

    def __getitem__(self, number: int) -> Batch:
        return lay_in_row(number, [self.texts[i] for i in self.plan.pack(number).tolist()])


def _plan(texts: Sequence[Encoded], params: Params, epoch: int) -> Plan:
    tokens = np.array([len(text.input_ids) for text in texts])
    targets = np.array([text.target_tokens for text in texts])
    batch = max(1, round(params.bases.batch_tokens / tokens.mean()))
    lengths = Lengths(tokens, targets, tokens.astype(np.float64))
    # A step of a small model is one pack, however its texts fall out.
    return plan_epoch(
        lengths, batch_size=batch, ranks=1, budget=int(tokens.sum()), seed=params.seed, epoch=epoch
    )


def _costs(texts: Sequence[Encoded], config: Any) -> list[NDArray[np.float64]]:
    """FLOPs of each text by both conventions of cost.py."""
    counts = np.array([[len(text.input_ids), text.target_tokens, 0, 0] for text in texts]).T
    return [Prices(*prices(config)).cost(*counts) for prices in (language_prices, palm_prices)]


def texts_of(prepared: Path, tokenizer: Any, positions: int | None = None) -> list[Encoded]:
    """What both stages will say, in words alone: a caption stands where the medium was.

    So there is something to answer from. A caption is told in another's words: what stage 1 then asks for is words
    in the medium's place. positions: of the model; longer texts are cut.
    """
    captions, segments = _captions(prepared), segments_of(tokenizer)
    texts = []
    for split in ("pretrain", "finetune"):
        table = load_split(prepared, split)
        rows = zip(*(table[name].to_pylist() for name in ("id", "conversations", "media")), strict=True)
        for name, talk, media in rows:
            turns = [Turn(role, text) for role, text in json.loads(talk)]
            told, where = [captions.get(number, "") for number in media], f"split {split}, record {name}"
            if split == "pretrain":
                texts.append(_caption(turns, told, segments))
            else:
                encoded = [encode(part, (), tokenizer, where=where) for part in parts_of(turns, told)]
                texts += [_without_system(part, segments) for part in encoded]
    return _fitting(texts, positions)


def _fitting(texts: Sequence[Encoded], positions: int | None) -> list[Encoded]:
    """Texts cut at the model's positions; those that keep no answer are left out, and both are told."""
    if positions is None:
        return list(texts)
    fitting, lost = [], 0
    for text in texts:
        try:
            fitting.append(cut(text, positions))
        except TooLongError:
            lost += 1
    shorter = sum(len(text.input_ids) > positions for text in texts) - lost
    if shorter or lost:
        print(
            f"bases: {shorter} texts were cut at {positions} positions, {lost} kept no answer and are left out"
        )
    return fitting


def _captions(prepared: Path) -> dict[int, str]:
    """A caption of each medium that the alignment data describe, by its number."""
    table = load_split(prepared, "align")
    rows = zip(table["media"].to_pylist(), table["conversations"].to_pylist(), strict=True)
    return {media[0]: json.loads(talk)[-1][1] for media, talk in rows}


def _caption(turns: Sequence[Turn], told: Sequence[str], segments: Segments) -> Encoded:
    """The plain template with other words in the place of its media."""
    ids = [*_opening(segments), *segments.alone(" ".join(told))]
    answer = segments.alone(turns[-1].text + TEMPLATES["plain"].stop)
    return Encoded(ids + answer, [IGNORED] * len(ids) + answer)


def parts_of(turns: Sequence[Turn], told: Sequence[str]) -> Iterator[list[Turn]]:
    """A conversation in words, cut after every few questions, each part with the captions it begins with.

    Cut, because what has been answered before tells much of the next answer; a first question has to be answered
    from the caption alone.
    """
    turns, rest = list(turns[1:] if turns[0].role == "gpt" else turns), iter(told)
    opening = " ".join(told[: len(find_marks(turns[0].text))])
    words = [_in_words(turn, rest) if told else turn for turn in turns]
    for start in range(0, len(words), 2 * QUESTIONS):
        first, *others = words[start : start + 2 * QUESTIONS]
        yield [Turn("human", f"{opening}\n{first.text}".strip()) if start else first, *others]


def _in_words(turn: Turn, told: Iterator[str]) -> Turn:
    if turn.role == "gpt":
        return Turn("gpt", replace_words(turn.text))
    return Turn("human", replace_marks(turn.text, told).strip())


def _without_system(encoded: Encoded, segments: Segments) -> Encoded:
    """The same without the template's first sentences: a quarter of the tokens, and nothing to learn from.

    Unchanged where the tokenizer joins their end to what follows.
    """
    opening = _opening(segments)
    system = [*opening, *segments.alone(TEMPLATES["v1"].system)]
    ids, labels = encoded.input_ids, encoded.labels
    if ids[: len(system)] != system:
        return encoded
    return Encoded(opening + ids[len(system) :], [IGNORED] * len(opening) + labels[len(system) :])


def _opening(segments: Segments) -> list[int]:
    return [] if segments.bos is None else [segments.bos]


def _forward(model: nn.Module, batch: Batch, share: Tensor | float) -> Tensor:
    device = next(model.parameters()).device
    ids, labels, kept = (
        given.to(device, non_blocking=True) for given in (batch.input_ids, batch.labels, batch.targets)
    )
    packed = packed_kwargs(batch.lengths, device, batch.position_ids, batch.ends)
    logits = model(ids, logits_to_keep=kept, **packed).logits[0]
    return F.cross_entropy(logits.float(), labels[0, kept + 1], reduction="sum") / share
