"""The Python door: load a model, ask it about images and videos.

from videollava import load
a = load("models:/videollava@champion")        # or a folder, or models:/videollava/3
a.answer("what color is the shape?", images=["x.png"])
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from videollava.data.media import frames_to_pixels, image_to_pixels, read_frames, read_image
from videollava.errors import InputError
from videollava.evaluate.generate import Sample, Sampling, generate
from videollava.evaluate.positions import Refused, TooLong
from videollava.evaluate.predict import prompt_sample
from videollava.model import checkpoint

__all__ = ["Assistant", "load"]

MOST_MEDIA = 16  # the original's bound on media in one prompt


def load(source: str | Path, device: str | None = None, dtype: torch.dtype | None = None) -> Assistant:
    """The assistant of a registered version ("models:/NAME@ALIAS", "models:/NAME/3") or of a model folder.

    device: "cuda" where there is one by default. Raises InputError where there is no such model.
    """
    folder = Path(source)
    if str(source).startswith("models:"):
        from videollava.registry import resolve

        folder = resolve(str(source))
    where = device or ("cuda" if torch.cuda.is_available() else "cpu")
    loaded = checkpoint.load(folder, dtype=dtype, device=where)
    return Assistant(loaded.model, loaded.tokenizer)


class Assistant:
    """A loaded model that answers questions about media given as paths or bytes."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.model, self.tokenizer = model.eval(), tokenizer

    def answer(
        self,
        question: str,
        images: Sequence[str | Path | bytes] = (),
        videos: Sequence[str | Path | bytes] = (),
        max_new_tokens: int = 128,
        temperature: float = 0.0,
    ) -> str:
        """One answer. Media come before the question, images first, unless it places `<image>`, `<video>` itself."""
        sample = {"question": question, "images": images, "videos": videos}
        return self.answer_batch([sample], max_new_tokens, temperature)[0]

    def answer_batch(
        self, samples: Sequence[Mapping[str, Any]], max_new_tokens: int = 128, temperature: float = 0.0
    ) -> list[str]:
        """Answers, in order, to `{"question", "images"?, "videos"?}` mixed as they come.

        Raises Refused where a prompt is too long for the model: the others are answered, and are in the error.
        """
        prepared, refusals = {}, {}
        for number, sample in enumerate(samples):
            try:
                prepared[number] = self._sample(sample, number)
            except TooLong as error:
                refusals[number] = str(error)
        sampling = Sampling(temperature=temperature)
        found = generate(
            self.model, self.tokenizer, list(prepared.values()), max_new_tokens, sampling=sampling
        )
        if refusals:
            answers: list[str | None] = [None] * len(samples)
            for number, answer in zip(prepared, found, strict=True):
                answers[number] = answer
            raise Refused(refusals, answers)
        return found

    def _sample(self, sample: Mapping[str, Any], number: int) -> Sample:
        unknown = set(sample) - {"question", "images", "videos"}
        if unknown or not isinstance(sample.get("question"), str):
            raise InputError(
                f"sample {number}: give question, images, videos; found {', '.join(sorted(map(str, sample)))}"
            )
        images = [self._image(item) for item in sample.get("images") or ()]
        videos = [self._video(item) for item in sample.get("videos") or ()]
        if len(images) + len(videos) > MOST_MEDIA:
            raise InputError(
                f"sample {number}: {len(images) + len(videos)} media, at most {MOST_MEDIA} fit a prompt"
            )
        return prompt_sample(
            self.model, self.tokenizer, sample["question"], images, videos, f"sample {number}"
        )

    def _image(self, source: str | Path | bytes) -> Tensor:
        return image_to_pixels(
            read_image(_source(source)), int(self.model.config.vision_config.image_size), "pad"
        )

    def _video(self, source: str | Path | bytes) -> Tensor:
        config = self.model.config.video_config
        return frames_to_pixels(read_frames(_source(source), int(config.num_frames)), int(config.image_size))


def _source(source: str | Path | bytes) -> Path | bytes:
    return source if isinstance(source, bytes) else Path(source)
