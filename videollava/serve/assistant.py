"""The Python door: load a model, ask it about images and videos.

from videollava import load
a = load("models:/videollava@champion")        # or a folder, or models:/videollava/3
a.answer("what color is the shape?", images=["x.png"])
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from videollava.data.media.admission.addresses import Limits
from videollava.data.media.admission.given import Given, Policy, listed, open_image, open_video
from videollava.data.media.read import frames_to_pixels, image_to_pixels
from videollava.errors import InputError
from videollava.evaluate.batches import Sample
from videollava.evaluate.generate import Sampling, generate
from videollava.evaluate.positions import Refused, TooLong
from videollava.evaluate.prompting import prompt_sample
from videollava.model import checkpoint
from videollava.model.checkpoint import Quantization
from videollava.model.device import choose_device

__all__ = ["Assistant", "load"]

MOST_MEDIA = 16  # the original's bound on media in one prompt


def load(
    source: str | Path,
    device: str | None = None,
    dtype: torch.dtype | None = None,
    private_addresses: bool | None = None,
    media_roots: Sequence[str | Path] | None = None,
    quantize: Quantization | None = None,
) -> Assistant:
    """The assistant of a registered version ("models:/NAME@ALIAS", "models:/NAME/3") or of a model folder.

    device: "cuda" where there is one by default. private_addresses: whether media are fetched from one's own
    networks too (default: what VIDEOLLAVA_PRIVATE_ADDRESSES says, else no). media_roots: the only folders whose
    files a question may name (default: any file), for those who answer other people's questions. quantize: "4bit" or
    "8bit" holds the language model so (bitsandbytes), and all else in `dtype`.

    Raises InputError where there is no such model.
    """
    folder = Path(source).expanduser()
    if str(source).startswith("models:"):
        import warnings

        from videollava.registry import find_code, resolve

        folder = resolve(str(source))
        if find_code(str(source), Path(".")).folder is not None:
            warnings.warn(
                f"{source} was made by other code than this; `videollava ask` and mlflow.pyfunc.load_model answer by "
                "its own",
                stacklevel=2,
            )
    where = choose_device(device)
    loaded = checkpoint.load(folder, dtype=dtype, device=where, quantize=quantize)
    limits = Limits.from_environment()
    if private_addresses is not None:
        limits = replace(limits, private=private_addresses)
    roots = None if media_roots is None else tuple(map(Path, media_roots))
    return Assistant(loaded.model, loaded.tokenizer, Policy(limits, roots))


class Assistant:
    """A loaded model that answers questions about images and videos.

    A medium is a path, an http(s) or data address, bytes, an open file, a Pillow picture, an array or tensor (an image
    (H, W, 3) or (3, H, W), a video (T, H, W, 3) or (T, 3, H, W)); a video may also be a list of pictures, its frames.
    One medium needs no list. What is none of these is an InputError that says so.
    """

    def __init__(self, model: Any, tokenizer: Any, policy: Policy | None = None) -> None:
        self.model, self.tokenizer = model.eval(), tokenizer
        self.policy = policy or Policy()

    def answer(
        self,
        question: str,
        images: Given = (),
        videos: Given = (),
        max_new_tokens: int = 128,
        temperature: float = 0.0,
    ) -> str:
        """One answer. Media come before the question, images first, unless it places `<image>`, `<video>` itself."""
        sample = {"question": question, "images": images, "videos": videos}
        return self.answer_batch([sample], max_new_tokens, temperature)[0]

    def answer_batch(
        self, samples: Iterable[Mapping[str, Any]], max_new_tokens: int = 128, temperature: float = 0.0
    ) -> list[str]:
        """Answers, in order, to `{"question", "images"?, "videos"?}` mixed as they come.

        max_new_tokens: tokens of an answer, 1 or more. temperature: 0 for the likeliest ones, else of the draw.
        Raises Refused where a prompt is too long for the model: the others are answered, and are in the error.
        """
        sampling = Sampling(temperature=temperature)
        if not isinstance(samples, Iterable) or isinstance(samples, str | bytes | Mapping):
            raise InputError(
                f"samples: give a list of question, images, videos; found {type(samples).__name__}"
            )
        samples, prepared, refusals = list(samples), {}, {}
        for number, sample in enumerate(samples):
            try:
                prepared[number] = self._sample(sample, number)
            except TooLong as error:
                refusals[number] = str(error)
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
        where = f"sample {number}"
        if not isinstance(sample, Mapping):
            raise InputError(f"{where}: give question, images, videos; found {type(sample).__name__}")
        unknown = set(sample) - {"question", "images", "videos"}
        if unknown or not isinstance(sample.get("question"), str):
            raise InputError(
                f"{where}: give question, images, videos; found {', '.join(sorted(map(str, sample)))}"
            )
        given = {
            kind: listed(sample.get(f"{kind}s"), kind, f"{where}, {kind}s") for kind in ("image", "video")
        }
        count = sum(map(len, given.values()))
        if count > MOST_MEDIA:
            raise InputError(f"{where}: {count} media, at most {MOST_MEDIA} fit a prompt")
        images = [self._image(item, f"{where}, image {at}") for at, item in enumerate(given["image"], 1)]
        videos = [self._video(item, f"{where}, video {at}") for at, item in enumerate(given["video"], 1)]
        return prompt_sample(
            self.model, self.tokenizer, sample["question"], images, videos, f"sample {number}"
        )

    def _image(self, given: Given, where: str) -> Tensor:
        size = int(self.model.config.vision_config.image_size)
        return image_to_pixels(open_image(given, self.policy, where), size, "pad")

    def _video(self, given: Given, where: str) -> Tensor:
        config = self.model.config.video_config
        frames = open_video(given, int(config.num_frames), self.policy, where)
        return frames_to_pixels(frames, int(config.image_size))
