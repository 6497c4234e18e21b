"""What the encoders begin as: laid out anew, or taken from published ones; the language encoder too."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from videollava.data.modalities import MediumKind
from videollava.errors import InputError
from videollava.model.encoders import (
    LanguageBind,
    LanguageBindConfig,
    LanguageBindVisionModel,
    pair_config,
    resize_positions,
)
from videollava.origin import Pins
from videollava.params import Params

__all__ = [
    "APART",
    "LEARNED",
    "POSITIONS",
    "SEPARATE",
    "begin_apart",
    "begin_image",
    "begin_other",
    "begin_video",
    "check_lora",
    "take_language",
]

LEARNED = "learned"  # align.language: none is taken
SEPARATE = "separate"  # align.spaces: video has a language encoder of its own
APART = 1_000_003  # added to the seed of that one
POSITIONS = 77  # of the language encoder that is learned here
PLACES = "embeddings.position_embedding.weight"
UNSAID = ("hidden_act", "layer_norm_eps")  # of a vision encoder: CLIP's activation is not OpenCLIP's
SIGMOID_START = math.log(10.0), -10.0  # SigLIP's: at first nothing is right, as nearly nothing is


class Own(NamedTuple):
    """A vision encoder to begin as; pair: the one that it is of, None where it has no text encoder."""

    vision_model: LanguageBindVisionModel
    pair: LanguageBind | None = None


def check_lora(params: Params) -> None:
    if params.align.lora_r and not params.bases.image_encoder:
        raise InputError(
            f"params.yaml: align.lora_r is {params.align.lora_r}, which adapts an encoder that has learned: name one "
            "in bases.image_encoder, or set align.lora_r: 0"
        )


def take_language(source: str, pins: Pins) -> tuple[LanguageBind, Any]:
    """The pair whose language encoder is taken, and its tokenizer."""
    from videollava.model.formats.encoder import load_encoder

    given, tokenizer = load_encoder(pins.locate(source))
    if tokenizer is None:
        raise InputError(
            f"params.yaml: align.language is {source}, which has no tokenizer: put its files there"
        )
    return given.float(), tokenizer


def begin_image(params: Params, tokenizer: Any, source: str, given: LanguageBind | None) -> LanguageBind:
    """given: the pair whose language encoder is taken."""
    own = _load(source) if source else None
    pair = LanguageBind(_config(params, "image", tokenizer, given, own and own.vision_model))
    if given is not None:
        pair.text_model.load_state_dict(given.text_model.state_dict())
        pair.text_projection.load_state_dict(given.text_projection.state_dict())
    if own is not None:
        _put(pair, own, f"bases.image_encoder: {source}")
    else:
        _lay_out_positions(
            pair.vision_model.embeddings.position_embedding.weight, pair.config.vision_config.grid
        )
    return pair


def begin_apart(params: Params, tokenizer: Any, source: str) -> LanguageBind:
    """The pair of pictures as it began, but its language encoder drawn from another seed."""
    torch.manual_seed(params.seed)
    pair = begin_image(params, tokenizer, source, None)
    torch.manual_seed(params.seed + APART)
    other = begin_image(params, tokenizer, source, None)
    pair.text_model.load_state_dict(other.text_model.state_dict())
    pair.text_projection.load_state_dict(other.text_projection.state_dict())
    return pair


def begin_video(params: Params, tokenizer: Any, image: LanguageBind, source: str = "") -> LanguageBind:
    """The image encoder again, with temporal attention that at first adds nothing, or the encoder at `source`; the text
    encoder frozen.
    """
    pair, lacking = _begin(params, "video", tokenizer, image, source, "bases.video_encoder")
    layers: Any = pair.vision_model.encoder.layers
    for layer in layers if lacking else ():
        nn.init.zeros_(layer.temporal_attn.out_proj.weight)
        nn.init.zeros_(layer.temporal_attn.out_proj.bias)
        _lay_out_frames(layer.temporal_embedding)
    return pair


def begin_other(
    params: Params, kind: MediumKind, tokenizer: Any, image: LanguageBind, source: str
) -> LanguageBind:
    """The encoder of depth, thermal pictures or sounds: the image encoder again, on a grid of its own (as LanguageBind
    begins each), or the one at `source`; the text encoder frozen.
    """
    return _begin(params, kind, tokenizer, image, source, f"align.towers.{kind}.encoder")[0]


def _begin(
    params: Params, kind: MediumKind, tokenizer: Any, image: LanguageBind, source: str, key: str
) -> tuple[LanguageBind, bool]:
    """A pair whose vision encoder is the one at `source`, else of `image`, and the rest of `image`; whether the encoder
    lacked its temporal attention.
    """
    own = _load(source) if source else Own(image.vision_model, image)
    pair = LanguageBind(_config(params, kind, tokenizer, image, own.vision_model))
    rest = {
        name: weight for name, weight in image.state_dict().items() if not name.startswith("vision_model.")
    }
    missing, _ = pair.load_state_dict(rest, strict=False)
    assert all(name.startswith("vision_model.") for name in missing)
    lacking = _put(pair, own, f"{key}: {source or 'the encoder of pictures'}")
    pair.text_model.requires_grad_(False)
    pair.text_projection.requires_grad_(False)
    return pair, lacking


def _load(source: str) -> Own:
    from videollava.model import checkpoint
    from videollava.model.formats.encoder import load_tower

    found = checkpoint.load(source).model
    if isinstance(found, LanguageBind):
        found = found.float()
        return Own(found.vision_model, found)
    return Own(load_tower(source).float())


def _put(pair: LanguageBind, own: Own, named: str) -> bool:
    """The weights of `own` as the pair's vision encoder, on the pair's grid, with its projection where that leads into
    the pair's text space; whether they lack temporal attention.
    """
    state = dict(own.vision_model.state_dict())
    state[PLACES] = resize_positions(
        state[PLACES], own.vision_model.config.grid, pair.config.vision_config.grid
    )
    try:
        missing, unexpected = pair.vision_model.load_state_dict(state, strict=False)
    except RuntimeError as error:
        told = str(error).splitlines()[-1].strip()
        raise InputError(f"params.yaml: {named} is not as `model` describes encoders: {told}") from error
    if others := [*unexpected, *(name for name in missing if "temporal" not in name)]:
        told = f"{'it has' if unexpected else 'it lacks'} {others[0]} (and {len(others) - 1} more)"
        raise InputError(f"params.yaml: {named} is not as `model` describes encoders: {told}")
    if own.pair is not None and _same_texts(own.pair, pair):
        pair.visual_projection.load_state_dict(own.pair.visual_projection.state_dict())
    return bool(missing)


def _same_texts(one: LanguageBind, other: LanguageBind) -> bool:
    for part in ("text_model", "text_projection"):
        ours, theirs = (getattr(pair, part).state_dict() for pair in (one, other))
        if ours.keys() != theirs.keys() or not all(torch.equal(ours[name], theirs[name]) for name in ours):
            return False
    return True


def _config(
    params: Params,
    kind: MediumKind,
    tokenizer: Any,
    given: LanguageBind | None = None,
    own: LanguageBindVisionModel | None = None,
) -> LanguageBindConfig:
    """What `model` describes, but the text encoder of `given`; and what it does not describe as `own` has it."""
    config = pair_config(params.model, kind, len(tokenizer), POSITIONS)
    if given is not None:
        config.text_config = given.config.text_config
        config.projection_dim = config.vision_config.projection_dim = given.config.projection_dim
    if own is not None:
        for name in UNSAID:
            setattr(config.vision_config, name, getattr(own.config, name))
    if params.align.loss == "sigmoid":
        config.logit_scale_init_value, config.logit_bias_init_value = SIGMOID_START
    return config


@torch.no_grad()
def _lay_out_positions(weight: Tensor, grid: tuple[int, int], size: float = 1.2) -> None:
    """Start positions as sines of row and column, not as noise: a small encoder finds shapes in half the steps.

    As large as the patches they are added to: fainter, they are found late.
    """
    quarter = weight.shape[1] // 4
    rates = 2.0 / 10000 ** (torch.arange(quarter) / quarter)
    rows, columns = torch.meshgrid(*(torch.arange(n).float() for n in grid), indexing="ij")
    phases = [axis.reshape(-1, 1) * rates for axis in (rows, columns)]
    weight[1:, : 4 * quarter] = size * torch.cat(
        [f(phase) for phase in phases for f in (torch.sin, torch.cos)], dim=1
    )


@torch.no_grad()
def _lay_out_frames(embedding: Tensor, size: float = 0.2) -> None:
    """Start the embeddings of time (1, frames, dim) as sines of the frame's number, so that frames have an order."""
    half = embedding.shape[2] // 2
    phases = torch.arange(embedding.shape[1])[:, None] / 100 ** (torch.arange(half) / half)
    embedding[0, :, : 2 * half] = size * torch.cat([phases.sin(), phases.cos()], dim=1)
