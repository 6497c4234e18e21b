"""Answers in batches: text, images, videos and mixes of them in one call, each as if it were alone.

Prompts are sorted by length and batched under a token budget, padded on the left. What several prompts share
up to their last medium (the system text and the image they all ask about) is computed once and its cache
handed to each. Rows that have ended leave the batch.
"""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor

from videollava.data.text import prompts
from videollava.errors import InputError
from videollava.evaluate.batches import Batch, Sample, lay, outline, plan
from videollava.evaluate.positions import check_length
from videollava.model.positions import positions_of

__all__ = ["Sampling", "generate", "generate_each", "generate_together", "is_cut", "stream"]

ENCODED_AT_ONCE = 64  # frames through an encoder in one call
COLDEST = 1e-6  # temperature below which the likeliest token is taken


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def _is_whole(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


@dataclass(frozen=True)
class Sampling:
    """How the next token is drawn: temperature 0 takes the likeliest, top_k 0 bounds nothing.

    Draws depend on seed and the sample's place in the list alone, not on how samples fell into batches. InputError
    where a number is none of its kind.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        if not _is_number(self.temperature) or self.temperature < 0:
            raise InputError(
                f"temperature {self.temperature!r}: give 0 (the likeliest token) or a number above it"
            )
        if not _is_number(self.top_p) or not 0 < self.top_p <= 1:
            raise InputError(f"top_p {self.top_p!r}: give a share above 0, at most 1 (all tokens)")
        if not _is_whole(self.top_k) or self.top_k < 0:
            raise InputError(f"top_k {self.top_k!r}: give a whole number of tokens, or 0 for all")


GREEDY = Sampling()


def generate(
    model: Any,
    tokenizer: Any,
    samples: Sequence[Sample],
    max_new_tokens: int = 128,
    *,
    sampling: Sampling = GREEDY,
    batch_tokens: int = 16384,
    template: str = "v1",
) -> list[str]:
    """The answer to each sample, in order.

    Batch_tokens: prompt and answer tokens held at once, padding included. TooLong where a prompt leaves no room in
    the model's positions; an answer that reaches their end stops there, with a warning.
    """
    answers = [""] * len(samples)
    for number, ids in generate_each(
        model,
        tokenizer,
        samples,
        max_new_tokens,
        sampling=sampling,
        batch_tokens=batch_tokens,
        template=template,
    ):
        answers[number] = prompts.decode(ids, tokenizer, template)
        if is_cut(model, tokenizer, samples[number], ids, max_new_tokens):
            _warn(model, number, len(ids))
    return answers


def is_cut(model: Any, tokenizer: Any, sample: Sample, ids: Sequence[int], max_new_tokens: int) -> bool:
    """Whether an answer stopped because the model's positions ended, and for no other reason."""
    ended = bool(ids) and ids[-1] in _end_ids(model, tokenizer)
    return (
        not ended
        and len(ids) < max_new_tokens
        and len(sample.prompt_ids) + len(ids) == positions_of(model.config)
    )


def _warn(model: Any, number: int, tokens: int) -> None:
    most = positions_of(model.config)
    warnings.warn(
        f"sample {number}: its answer stops after {tokens:,} tokens, at the end of the model's {most:,} positions",
        stacklevel=3,
    )


@torch.inference_mode()
def generate_each(
    model: Any,
    tokenizer: Any,
    samples: Sequence[Sample],
    max_new_tokens: int = 128,
    *,
    sampling: Sampling = GREEDY,
    batch_tokens: int = 16384,
    template: str = "v1",
) -> Iterator[tuple[int, list[int]]]:
    """(place in the list, ids of the answer) of each sample as its batch ends; longest prompts first."""
    decoder = Decoder(model, tokenizer, samples, max_new_tokens, sampling, template)
    for rows in plan(decoder.outlines, batch_tokens, max_new_tokens):
        yield from decoder.answer(rows).items()


@torch.inference_mode()
def generate_together(
    model: Any, tokenizer: Any, samples: Sequence[Sample], max_new_tokens: int
) -> list[list[int]]:
    """Ids of the likeliest answer to each sample, all in one batch that somebody else has planned."""
    decoder = Decoder(model, tokenizer, samples, max_new_tokens, GREEDY, "v1")
    return list(decoder.answer(range(len(samples))).values())


@torch.inference_mode()
def stream(
    model: Any,
    tokenizer: Any,
    sample: Sample,
    max_new_tokens: int = 128,
    *,
    sampling: Sampling = GREEDY,
    template: str = "v1",
) -> Iterator[str]:
    """Pieces of one answer as they come; joined they are what `generate` returns."""
    decoder = Decoder(model, tokenizer, [sample], max_new_tokens, sampling, template)
    batch = lay([0], decoder.outlines)
    ids: list[int] = []
    said = ""
    for ((_, token),) in decoder.run(batch):
        ids.append(token)
        text = prompts.decode(ids, tokenizer, template)
        # Half a character decodes to the replacement mark, and what ends a text may yet be stripped.
        if text.startswith(said) and len(text) > len(said) and not text.endswith("\ufffd"):
            yield text[len(said) :]
            said = text
    text = prompts.decode(ids, tokenizer, template)
    if len(text) > len(said):
        yield text[len(said) :]
    if is_cut(model, tokenizer, sample, ids, max_new_tokens):
        _warn(model, 0, len(ids))


class Decoder:
    """A model at work on a list of samples: features of media still to be used, and how tokens are drawn."""

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        samples: Sequence[Sample],
        max_new_tokens: int,
        sampling: Sampling,
        template: str,
    ) -> None:
        self.model = model.get_base_model() if hasattr(model, "get_base_model") else model
        self.samples = samples
        self.tokenizer = tokenizer
        self.sampling = sampling
        self.max_new_tokens = max_new_tokens
        self.template = template
        self.device = next(self.model.parameters()).device
        config = self.model.config
        self.placeholders = (config.image_token_id, config.video_token_id)
        self.ends = _end_ids(self.model, tokenizer)
        self.closing = "" if template == "v1" else prompts.stop(tokenizer, template)
        self.uses = Counter(id(m) for sample in samples for m in (*sample.images, *sample.videos))
        self.features: dict[int, Tensor] = {}
        self.positions = positions_of(config)
        _check(samples)
        self.outlines = [outline(sample, self.placeholders) for sample in samples]
        if not _is_whole(max_new_tokens) or max_new_tokens < 1:
            raise InputError(f"max_new_tokens {max_new_tokens!r}: give a whole number from 1 on")
        for number, sample in enumerate(samples):
            visual = sum(token in self.placeholders for token in sample.prompt_ids)
            check_length(len(sample.prompt_ids), config, visual, f"sample {number}")

    def answer(self, rows: Sequence[int]) -> dict[int, list[int]]:
        """Ids of the answers of one batch, by row."""
        answers: dict[int, list[int]] = {row: [] for row in rows}
        for step in self.run(lay(rows, self.outlines)):
            for row, token in step:
                answers[row].append(token)
        return answers

    def run(self, batch: Batch) -> Iterator[list[tuple[int, int]]]:
        """Step by step, (sample, token) of every row still going."""
        logits, state = self._prefill(batch)
        rows = list(batch.rows)
        going = dict.fromkeys(rows, True)
        said: dict[int, list[int]] = {row: [] for row in rows}
        # An answer holds no media, so that nothing has to be looked for in it.
        nowhere = torch.empty(0, dtype=torch.long, device=self.device)
        draws = {row: torch.Generator().manual_seed(self.sampling.seed * 1_000_003 + row) for row in rows}
        for step in range(self.max_new_tokens):
            tokens = self._pick(logits, [draws[row] for row in rows])
            events = [(row, token) for row, token in zip(rows, tokens.tolist(), strict=True) if going[row]]
            for row, token in events:
                said[row].append(token)
                going[row] = not self._ended(said[row]) and not self._full(row, said[row])
            yield events
            left = [place for place, row in enumerate(rows) if going[row]]
            if not left or step + 1 == self.max_new_tokens:
                return
            if len(left) <= 0.75 * len(rows):
                rows = [rows[place] for place in left]
                index = torch.tensor(left, device=self.device)
                tokens = tokens[index]
                state.select(index)
            logits = self._forward(tokens[:, None], state, image_places=nowhere, video_places=nowhere)

    def _ended(self, said: list[int]) -> bool:
        if said[-1] in self.ends:
            return True
        return bool(self.closing) and self.closing in self.tokenizer.decode(said).lstrip()

    def _full(self, row: int, said: Sequence[int]) -> bool:
        return 0 < self.positions <= len(self.samples[row].prompt_ids) + len(said)

    def _pick(self, logits: Tensor, draws: Sequence[torch.Generator]) -> Tensor:
        how = self.sampling
        if how.temperature < COLDEST:  # beyond it scores leave float32
            return logits.argmax(dim=-1)
        scores = _warp(logits.float() / how.temperature, how)
        noise = torch.stack([torch.empty(scores.shape[-1]).exponential_(generator=g) for g in draws])
        return (scores.softmax(dim=-1) / noise.to(scores.device, non_blocking=True)).argmax(dim=-1)

    def _prefill(self, batch: Batch) -> tuple[Tensor, State]:
        state = State()
        if batch.prefixes:
            ids, mask = self._pad([self.samples[n].prompt_ids[: batch.cut[n]] for n in batch.prefixes])
            state.extend(mask)
            out = self.model.model(
                input_ids=ids,
                attention_mask=state.mask,
                position_ids=state.positions(ids.shape[1]),
                use_cache=True,
                read=1,  # nobody reads any, but for what the cache keeps
                **self._media(batch.prefixes),
            )
            state.cache = out.past_key_values
            if len(batch.rows) > len(batch.prefixes):
                state.select(torch.tensor(batch.which, device=self.device))
        ids, mask = self._pad([self.samples[n].prompt_ids[batch.cut[n] :] for n in batch.rows])
        media = {} if batch.prefixes else self._media(batch.rows)
        self._forget(batch)
        return self._forward(ids, state, mask, **media), state

    def _forward(self, ids: Tensor, state: State, mask: Tensor | None = None, **media: Tensor) -> Tensor:
        """Logits after the last of `ids`; the cache grows by them."""
        state.extend(torch.ones_like(ids) if mask is None else mask)
        out = self.model(
            input_ids=ids,
            attention_mask=state.mask,
            position_ids=state.positions(ids.shape[1]),
            past_key_values=state.cache,
            use_cache=True,
            logits_to_keep=1,
            **media,
        )
        state.cache = out.past_key_values
        logits: Tensor = out.logits[:, -1]
        return logits

    def _pad(self, sequences: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Ids and mask, padded on the left."""
        width = max(map(len, sequences))
        ids = torch.tensor([[0] * (width - len(s)) + list(s) for s in sequences], device=self.device)
        mask = torch.tensor([[0] * (width - len(s)) + [1] * len(s) for s in sequences], device=self.device)
        return ids, mask

    def _media(self, rows: Sequence[int]) -> dict[str, Tensor]:
        """Encoder features of these rows' media, in order."""
        found: dict[str, Tensor] = {}
        for kind in ("images", "videos"):
            media = [medium for row in rows for medium in getattr(self.samples[row], kind)]
            self._encode(kind, media)
            if media:
                found[f"{kind[:-1]}_features"] = torch.cat([self.features[id(m)] for m in media])[None]
        return found

    def _encode(self, kind: str, media: Sequence[Tensor]) -> None:
        new = list({id(m): m for m in media if id(m) not in self.features}.values())
        self.features.update({id(m): m.to(self.device) for m in new if m.ndim == 2})
        encode = getattr(self.model, f"encode_{kind}")
        by_shape: dict[Any, list[Tensor]] = {}
        for medium in new:
            if medium.ndim > 2:
                by_shape.setdefault((tuple(medium.shape), medium.dtype), []).append(medium)
        for (shape, _), group in by_shape.items():
            at_once = ENCODED_AT_ONCE if len(shape) == 3 else max(1, ENCODED_AT_ONCE // shape[0])
            for start in range(0, len(group), at_once):
                part = group[start : start + at_once]
                features = encode(torch.stack(part).to(self.device))
                self.features.update({id(m): f for m, f in zip(part, features, strict=True)})

    def _forget(self, batch: Batch) -> None:
        for row in batch.rows:
            for medium in (*self.samples[row].images, *self.samples[row].videos):
                self.uses[id(medium)] -= 1
                if self.uses[id(medium)] == 0:
                    self.features.pop(id(medium), None)


@dataclass
class State:
    """What a batch has behind it: cached keys and values, and which of their places are padding."""

    cache: Any = None
    mask: Tensor | None = None

    def extend(self, mask: Tensor) -> None:
        self.mask = mask if self.mask is None else torch.cat([self.mask, mask], dim=1)

    def positions(self, last: int) -> Tensor:
        """Positions of the last tokens, padding not counted."""
        assert self.mask is not None
        return (self.mask.cumsum(1) - 1).clamp(min=0)[:, -last:]

    def select(self, index: Tensor) -> None:
        """Keep, or repeat, rows."""
        assert self.mask is not None
        self.cache.batch_select_indices(index)
        self.mask = self.mask[index]


def _warp(scores: Tensor, how: Sampling) -> Tensor:
    from transformers.generation.logits_process import TopKLogitsWarper, TopPLogitsWarper

    if how.top_k > 0:
        scores = TopKLogitsWarper(min(how.top_k, scores.shape[-1]))(None, scores)
    if how.top_p < 1.0:
        scores = TopPLogitsWarper(how.top_p)(None, scores)
    return scores


def _end_ids(model: Any, tokenizer: Any) -> frozenset[int]:
    given = getattr(model.generation_config, "eos_token_id", None)
    ends = given if isinstance(given, list) else [given]
    return frozenset(int(e) for e in (*ends, getattr(tokenizer, "eos_token_id", None)) if e is not None)


def _check(samples: Sequence[Sample]) -> None:
    for number, sample in enumerate(samples):
        if len(sample.prompt_ids) == 0:
            raise InputError(f"sample {number}: its prompt is empty")
        for kind, pixels in (("images", 3), ("videos", 4)):
            for medium in getattr(sample, kind):
                if medium.ndim not in (2, pixels):
                    raise InputError(
                        f"sample {number}: {kind} hold tensors of {pixels} dimensions (pixels) or 2 "
                        f"(features), "
                        f"not {medium.ndim}"
                    )
