"""Config of a whole Video-LLaVA: two vision encoders, the projector, the language model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig
from transformers.configuration_utils import PreTrainedConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.llama.configuration_llama import LlamaConfig
from transformers.models.video_llava import configuration_video_llava as hf_config

from videollava import params
from videollava.errors import InputError
from videollava.model.attention import VARLEN
from videollava.model.encoders import LanguageBindVisionConfig, subconfig, tower_config

__all__ = [
    "ATTENTION",
    "FORMAT_VERSION",
    "VideoLlavaConfig",
    "choose",
    "language_config",
    "model_config",
    "plain_language",
    "read_language",
    "single_layer",
]

FORMAT_VERSION = 1
ATTENTION = {"": "sdpa", "text_config": VARLEN, "vision_config": "sdpa", "video_config": "sdpa"}


class VideoLlavaConfig(hf_config.VideoLlavaConfig):
    """`vision_config`: the image encoder; `video_config`: the video encoder; `text_config`: the language
    model.

    image_token_index, video_token_index: the placeholders; 0 takes vocab_size and vocab_size + 1, ids outside
    the embedding table, so the language model's own table and head stay as they are. `projector_type` is the
    original's: mlp2x_gelu (the paper), linear, mlpNx_gelu or identity. `towers`: the encoders there are.
    Said in two places, `tie_word_embeddings` is true here and in `text_config` where either says so.
    """

    model_type = "videollava"
    sub_configs = {  # noqa: RUF012
        "text_config": AutoConfig,
        "vision_config": LanguageBindVisionConfig,
        "video_config": LanguageBindVisionConfig,
    }

    vision_config: Any = None
    video_config: Any = None
    text_config: Any = None
    image_token_index: int = 0
    video_token_index: int = 0
    projector_type: str = "mlp2x_gelu"
    towers: list[str] | tuple[str, ...] = ("image", "video")
    format_version: int = FORMAT_VERSION
    tie_word_embeddings: bool = False
    vision_feature_layer: int | list[int] = -2

    def __post_init__(self, **kwargs: Any) -> None:
        self.vision_config = subconfig(LanguageBindVisionConfig, self.vision_config)
        self.video_config = subconfig(LanguageBindVisionConfig, self.video_config)
        if not isinstance(self.text_config, PreTrainedConfig):
            self.text_config = read_language(self.text_config or {})
        tied = self.tie_word_embeddings or bool(getattr(self.text_config, "tie_word_embeddings", False))
        self.tie_word_embeddings = self.text_config.tie_word_embeddings = tied
        self.vision_feature_layer = single_layer(self.vision_feature_layer)
        vocabulary = int(self.text_config.vocab_size)
        for number, kind in enumerate(("image", "video")):
            # Newer releases write the one name, older ones the other; 0 is "not given".
            given = {f"{kind}_token_index": getattr(self, f"{kind}_token_index") or None}
            given[f"{kind}_token_id"] = kwargs.pop(f"{kind}_token_id", None)
            found = choose(given, f"{kind}_token_index", f"{kind}_token_id")
            setattr(self, f"{kind}_token_index", vocabulary + number if found is None else found)
        self.image_seq_length = self.image_tokens
        self.video_seq_length = self.video_tokens()
        super().__post_init__(**kwargs)

    @property
    def image_tokens(self) -> int:
        """Language-model tokens of one image."""
        return int(self.vision_config.patches) + (self.vision_feature_select_strategy == "full")

    def video_tokens(self, frames: int | None = None) -> int:
        """Language-model tokens of one video of `frames` (by default the trained number)."""
        return (frames or int(self.video_config.num_frames)) * (int(self.video_config.patches) + 1)


def choose(given: Mapping[str, Any], *names: str) -> Any:
    """The value that stands under one of `names`; InputError where two of them say different things."""
    found = {name: given[name] for name in names if given.get(name) is not None}
    first = next(iter(found.values()), None)
    if any(value != first for value in found.values()):
        said = ", ".join(f"{name}: {value!r}" for name, value in found.items())
        raise InputError(f"config.json says one thing twice and differently ({said}): remove the wrong one")
    return first


def single_layer(layer: Any) -> int:
    """The vision layer that features come from; a list of one is that one."""
    layers = layer if isinstance(layer, list | tuple) else [layer]
    if len(layers) != 1:
        raise InputError(
            f"vision_feature_layer {list(layers)}: features joined from several layers are not supported, only "
            "of one (-2 in the paper)"
        )
    return int(layers[0])


def read_language(given: Mapping[str, Any]) -> PreTrainedConfig:
    """The language model's config from its JSON, of whatever release of transformers (Llama where it names none).

    InputError where it contradicts itself or holds what no such config may.
    """
    plain = plain_language(given)
    kind = plain.pop("model_type", "llama")
    try:
        config: PreTrainedConfig = AutoConfig.for_model(kind, **plain)
    except (ValueError, TypeError, KeyError, StrictDataclassError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"the language model's config ({kind}) cannot be read: {reason}") from error
    return config


def plain_language(given: Mapping[str, Any]) -> dict[str, Any]:
    """A language model's JSON with rotary positions in their newest form, and without a quantised load's settings.

    transformers 4 wrote rope_theta and rope_scaling (`type`, later `rope_type`), 5 writes rope_parameters; given
    both, it takes the one or the other by key.
    """
    plain = {name: value for name, value in given.items() if name != "quantization_config"}
    if _nested(plain.get("rope_parameters")):
        return plain
    old, new = plain.pop("rope_scaling", None), plain.pop("rope_parameters", None)
    theta = plain.pop("rope_theta", None)
    rope: dict[str, Any] = {}
    for part in (_rope(old), _rope(new), {} if theta is None else {"rope_theta": float(theta)}):
        for name, value in part.items():
            if rope.setdefault(name, value) != value:
                raise InputError(
                    f"a language model's config says two things of its rotary positions: {name} is "
                    f"{rope[name]!r} and {value!r} (rope_scaling, rope_parameters, rope_theta): remove the wrong one"
                )
    if rope:
        plain["rope_parameters"] = rope
    return plain


def _rope(given: Any) -> dict[str, Any]:
    """One rotary setting, its kind under `rope_type`."""
    if given is None or given is False:  # some wrote false for "none"
        return {}
    if not isinstance(given, Mapping):
        raise InputError(f"rotary positions {given!r} in a language model's config: not an object")
    rope = {name: value for name, value in given.items() if name != "type" and value is not None}
    kind = choose(given, "rope_type", "type")
    if kind not in (None, "default", *ROPE_INIT_FUNCTIONS):
        known = ", ".join(ROPE_INIT_FUNCTIONS)
        raise InputError(f"rotary positions of type {kind!r}: not known here; it may be default, {known}")
    if kind is None and rope.keys() - {"rope_theta", "partial_rotary_factor"}:
        raise InputError(
            f"rotary positions {dict(given)} in a language model's config do not say their type: add rope_type"
        )
    return rope if kind is None else {**rope, "rope_type": kind}


def _nested(rope: Any) -> bool:
    """Whether every kind of layer has settings of its own (Gemma)."""
    return bool(rope) and isinstance(rope, Mapping) and all(isinstance(v, Mapping) for v in rope.values())


def language_config(language: params.Language, vocab_size: int, **special_ids: int) -> LlamaConfig:
    """The Llama that `params.model.language` describes; special_ids: bos_, eos_ and pad_token_id."""
    return LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=language.width,
        intermediate_size=language.mlp,
        num_hidden_layers=language.layers,
        num_attention_heads=language.heads,
        num_key_value_heads=language.heads,
        max_position_embeddings=language.positions,
        **special_ids,
    )


def model_config(model: params.Model, text_config: PreTrainedConfig) -> VideoLlavaConfig:
    """The Video-LLaVA that `params.model` describes around a language model of `text_config`."""
    return VideoLlavaConfig(
        vision_config=tower_config(model, "image"),
        video_config=tower_config(model, "video"),
        text_config=text_config,
        vision_feature_layer=model.feature_layer,
    )
