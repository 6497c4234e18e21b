"""Questions a second: our batched inference against one question at a time, which is how the original evaluates.

    python bench/inference.py                        # the tiny model and SmolLM2-135M's geometry, on this machine
    python bench/inference.py --shape 7b --questions 512 --alone 32        # the paper's, on a GPU

Weights are random, so answers never end early: both ways make `--new` tokens. One at a time, a question's medium
is decoded and encoded for it, and the batch is 1; batched is `predict` with all that it does (decoding, windows,
the log). The two are timed in turn, and one JSON object a line is printed; `same` is the share of the first
`--alone` questions with the same answer both ways (bfloat16 rounds otherwise in other batches).
"""

from __future__ import annotations

import argparse
import io
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image

from videollava.data.text.prompts import TEMPLATES
from videollava.data.text.vocabulary import train_tokenizer
from videollava.evaluate.answers import AnswerLog
from videollava.evaluate.generate import generate
from videollava.evaluate.media import Reader, encode_windows
from videollava.evaluate.predict import Settings, predict
from videollava.evaluate.prompting import prompt_sample
from videollava.evaluate.questions import Item
from videollava.model.attention import choose_attention
from videollava.model.config import VideoLlavaConfig, language_config, model_config
from videollava.model.video_llava import ATTENTION, VideoLlavaForConditionalGeneration
from videollava.params import Language, Model, parse_params, profile_text

SMOL = Language(
    width=576, layers=30, heads=9, mlp=1536, positions=8192
)  # SmolLM2-135M; three key-value heads
SIDE = {"tiny": 64, "135m": 64, "7b": 480}  # of the drawn media, in pixels
WORDS = (
    "color",
    "shape",
    "side",
    "kind of thing",
    "big red circle",
    "square",
    "way it moves",
    "first thing seen",
)


def build(shape: str, folder: Path, device: str, dtype: torch.dtype) -> tuple[Any, Any]:
    """A model of this shape with random weights, and a tokenizer."""
    from transformers import AutoTokenizer

    v1 = TEMPLATES["v1"]  # as prepare's tokenizer, this one has learned the template's words
    texts = [f"{v1.system} {v1.user} what {word} is number it? {v1.assistant} yes no" for word in WORDS]
    train_tokenizer(texts, 512, folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    profile = parse_params(yaml.safe_load(profile_text("paper-7b" if shape == "7b" else "tiny"))).model
    vocabulary = {"tiny": 512, "135m": 49_152, "7b": 32_000}[shape]
    text = language_config(
        SMOL if shape == "135m" else profile.language,
        vocabulary,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    config = model_config(profile, text)
    if shape == "135m":
        text.num_key_value_heads, text.tie_word_embeddings = 3, True
        config = VideoLlavaConfig(**{**config.to_dict(), "tie_word_embeddings": True})
    torch.manual_seed(0)
    with torch.device(device):
        model = VideoLlavaForConditionalGeneration._from_config(
            config, attn_implementation=ATTENTION, dtype=dtype
        )
    choose_attention(model, torch.device(device))
    with torch.no_grad():
        model.lm_head.weight[2] = 0.0  # the end of an answer is never the likeliest token
    return model.eval(), tokenizer


def draw(folder: Path, kind: str, count: int, side: int, shape: Model) -> list[str]:
    """Names of `count` media of noise, real PNG or H.264 files."""
    random = np.random.default_rng(0)
    names = []
    for number in range(count):
        names.append(f"{number}.{'png' if kind == 'image' else 'mp4'}")
        if kind == "image":
            file = io.BytesIO()
            Image.fromarray(random.integers(0, 255, (side, side, 3), np.uint8)).save(file, "PNG")
            data = file.getvalue()
        else:
            from videollava.data.toy.drawing import encode

            data = encode(random.integers(0, 255, (3 * shape.frames, side, side, 3), np.uint8), 8)
        (folder / names[-1]).write_bytes(data)
    return names


def questions(kind: str, names: Sequence[str], count: int, per_medium: int) -> list[Item]:
    """`count` questions, `per_medium` about each medium, none the same."""
    return [
        Item(
            str(n),
            "",
            f"<{kind}>\nwhat {WORDS[n % len(WORDS)]} is number {n}?",
            "",
            (names[n // per_medium],),
        )
        for n in range(count)
    ]


def ask_alone(model: Any, tokenizer: Any, reader: Reader, items: Sequence[Item], new: int) -> list[str]:
    """One question at a time, its medium decoded and encoded for it."""
    answers = []
    for item in items:
        (medium,) = item.seen
        pixels = reader(medium)
        assert not isinstance(pixels, str), pixels
        given = [torch.from_numpy(pixels)]
        media = (given, []) if medium[0] == "image" else ([], given)
        sample = prompt_sample(model, tokenizer, item.question, *media)
        answers += generate(model, tokenizer, [sample], new)
    return answers


def ask_all(
    model: Any, tokenizer: Any, reader: Reader, items: Sequence[Item], new: int, tokens: int
) -> list[str]:
    """As `videollava evaluate` asks them."""
    with tempfile.TemporaryDirectory() as folder:
        log = AnswerLog(Path(folder))
        encode = partial(encode_windows, model, reader, 2)
        predict(model, tokenizer, items, encode, log, Settings(new, tokens))
        texts = log.read().texts
    return [texts[item.id] for item in items]


def timed(call: Callable[[], list[str]]) -> tuple[list[str], float]:
    """Answers, and how many a second."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    began = time.perf_counter()
    answers = call()
    return answers, len(answers) / (time.perf_counter() - began)


def compare(shape: str, kind: str, per_medium: int, options: argparse.Namespace) -> dict[str, Any]:
    """Both ways on the same questions."""
    device = "cuda" if torch.cuda.is_available() and not options.cpu else "cpu"
    dtype = {"bf16": torch.bfloat16, "fp32": torch.float32}[options.dtype]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model, tokenizer = build(shape, folder / "tokenizer", device, dtype)
        reader = Reader.of(model.config, folder, "pad")
        profile = Model(frames=reader.frames)
        names = draw(folder, kind, -(-options.questions // per_medium), SIDE[shape], profile)
        items = questions(kind, names, options.questions, per_medium)
        one = partial(ask_alone, model, tokenizer, reader, new=options.new)
        every = partial(ask_all, model, tokenizer, reader, new=options.new, tokens=options.batch_tokens)
        one(items[:2])  # warm
        every(items[:2])
        alone, batched = [], []
        for _ in range(options.rounds):
            said, rate = timed(partial(one, items[: options.alone]))
            alone.append(rate)
            answers, rate = timed(partial(every, items))
            batched.append(rate)
        prompt = prompt_sample(model, tokenizer, items[0].question, *_media(kind))
    same = sum(a == b for a, b in zip(said, answers, strict=False)) / len(said)
    rates = {"alone_per_s": max(alone), "batched_per_s": max(batched), "times": max(batched) / max(alone)}
    return {
        "bench": "inference",
        "shape": shape,
        "parameters": sum(p.numel() for p in model.parameters()),
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "dtype": options.dtype,
        "kind": kind,
        "per_medium": per_medium,
        "questions": options.questions,
        "alone": len(said),
        "prompt_tokens": len(prompt.prompt_ids),
        "new_tokens": options.new,
        **{key: round(value, 3) for key, value in rates.items()},
        "same": round(same, 3),
    }


def _media(kind: str) -> tuple[list[Any], list[Any]]:
    nothing = [torch.empty(0, 0)]
    return (nothing, []) if kind == "image" else ([], nothing)


def main() -> None:
    """Print one line a setting."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", nargs="+", choices=tuple(SIDE), default=["tiny", "135m"])
    parser.add_argument("--kind", nargs="+", choices=("image", "video"), default=["image", "video"])
    parser.add_argument(
        "--per-medium", nargs="+", type=int, default=[10, 1], help="questions about each medium"
    )
    parser.add_argument("--questions", type=int, default=160)
    parser.add_argument("--alone", type=int, default=16, help="how many of them are asked one by one")
    parser.add_argument("--new", type=int, default=8, help="tokens of each answer")
    parser.add_argument("--batch-tokens", type=int, default=16384)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--dtype", choices=("bf16", "fp32"), default="bf16")
    parser.add_argument("--cpu", action="store_true")
    options = parser.parse_args()
    for shape in options.shape:
        for kind in options.kind:
            for per_medium in options.per_medium:
                print(json.dumps(compare(shape, kind, per_medium, options)), flush=True)


if __name__ == "__main__":
    main()
