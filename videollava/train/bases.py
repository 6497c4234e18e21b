"""The language model to start from: taken from a folder, hub id or GGUF file, or (tiny) learned here on text.

In: data/prepared (tokenizer, and the text of the training splits). Out: models/bases/language, a transformers folder.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from videollava.data.batches import Batch, Layout, Packs
from videollava.data.packing import Lengths, plan_epoch
from videollava.data.prompts import Encoded, encode
from videollava.data.records import Turn
from videollava.data.shards import load_split
from videollava.model.attention import packed_kwargs
from videollava.model.video_llava import language_config
from videollava.params import Params, Train
from videollava.tracking import input_key
from videollava.train.accelerate import make_accelerator
from videollava.train.loop import Job, train

__all__ = ["run"]

SPLITS = (("pretrain", "plain"), ("finetune", "v1"))


def run(params: Params, workspace: Path) -> None:
    """Write models/bases/language."""
    target = workspace / "models/bases/language"
    shutil.rmtree(target, ignore_errors=True)
    if params.bases.language == "train":
        model, tokenizer = _learn(params, workspace)
    else:
        from videollava.model.formats.language import load_language_model

        model, tokenizer = load_language_model(params.bases.language)
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)


def _learn(params: Params, workspace: Path) -> tuple[Any, Any]:
    """A small Llama that has read every training conversation, media left out."""
    from transformers import AutoTokenizer, LlamaForCausalLM

    base, prepared = params.bases, workspace / "data/prepared"
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
    settings = Train(
        learning_rate=base.learning_rate,
        precision=base.precision,
        tokens_per_pack=base.batch_tokens,
        checkpoint_steps=100,
        workers=0,
    )
    packs = [
        _text_packs(prepared, split, template, tokenizer, params, epoch)
        for epoch in range(base.epochs)
        for split, template in SPLITS
    ]
    job = Job(
        name="bases",
        model=model,
        groups=[{"params": list(model.parameters()), "lr": base.learning_rate}],
        forward=_forward,
        packs=packs,
        settings=settings,
        checkpoints=workspace / "checkpoints" / f"bases-{input_key(workspace, 'bases')[:16]}",
        seed=params.seed,
        accelerator=make_accelerator(settings),
        betas=(0.9, 0.98),
    )
    train(job)
    return model, tokenizer


class TextPacks(Packs):
    """Conversations in words alone: a caption stands where the medium was, so there is something to answer from.

    A caption is told in another's words: what stage 1 then asks for is words in the medium's place.
    """

    captions: dict[int, str]

    def _sample(self, row: int) -> tuple[Encoded, list[tuple[str, Any]]]:
        media = self.records["media"][row].as_py()
        kinds = [self.shards.kind(number) for number in media]
        turns = [Turn(role, text) for role, text in json.loads(self.records["conversations"][row].as_py())]
        where = f"split {self.split}, row {row}"
        if self.layout.template == "plain":
            return self._in_words(encode(turns, kinds, self.tokenizer, "plain", where=where), media), []
        told = [Turn(turn.role, self._tell(turn.text, kinds, media)) for turn in turns]
        return encode(told, (), self.tokenizer, self.layout.template, where=where), []

    def _in_words(self, encoded: Encoded, media: list[int]) -> Encoded:
        ids: list[int] = []
        labels: list[int] = []
        rest = iter(media)
        for token, label in zip(encoded.input_ids, encoded.labels, strict=True):
            told = [token]
            if token < 0:
                told = self.tokenizer(self.captions.get(next(rest), ""), add_special_tokens=False)[
                    "input_ids"
                ]
            ids += told
            labels += [label] * len(told)
        return Encoded(ids, labels)

    def _tell(self, text: str, kinds: list[str], media: list[int]) -> str:
        for kind, number in zip(kinds, media, strict=True):
            text = text.replace(f"<{kind}>", self.captions.get(number, ""), 1)
        return text.strip()


def _captions(prepared: Path) -> dict[int, str]:
    """A caption of each medium that the alignment data describe, by its number."""
    table = load_split(prepared, "align")
    rows = zip(table["media"].to_pylist(), table["conversations"].to_pylist(), strict=True)
    return {media[0]: json.loads(talk)[-1][1] for media, talk in rows}


def _text_packs(
    prepared: Path, split: str, template: str, tokenizer: Any, params: Params, epoch: int
) -> TextPacks:
    table = load_split(prepared, split)
    targets = table["target_tokens"].to_numpy().astype(np.int64)
    # A caption takes a few tokens more than the index counts.
    tokens = table["text_tokens"].to_numpy().astype(np.int64)
    lengths = Lengths(tokens, tokens if template == "plain" else targets, tokens.astype(np.float64))
    budget = params.bases.batch_tokens
    batch = max(1, int(0.95 * budget / tokens.mean()))  # one pack a step
    plan = plan_epoch(lengths, batch_size=batch, ranks=1, budget=budget, seed=params.seed, epoch=epoch)
    layout = Layout.of(params.model, len(tokenizer), template=template)
    packs = TextPacks(prepared, split, tokenizer, layout, plan)
    packs.captions = _captions(prepared)
    return packs


def _forward(model: nn.Module, batch: Batch, share: Tensor | float) -> Tensor:
    places = batch.targets
    logits = model(batch.input_ids, logits_to_keep=places, **packed_kwargs(batch.lengths)).logits[0]
    return F.cross_entropy(logits.float(), batch.labels[0, places + 1], reduction="sum") / share
