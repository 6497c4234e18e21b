"""Config of a whole Video-LLaVA: two vision encoders, the projector, the language model."""

from __future__ import annotations

from typing import Any

from transformers import AutoConfig
from transformers.configuration_utils import PreTrainedConfig
from transformers.models.llama.configuration_llama import LlamaConfig
from transformers.models.video_llava import configuration_video_llava as hf_config

from videollava import params
from videollava.model.attention import VARLEN
from videollava.model.encoders import LanguageBindVisionConfig, subconfig, tower_config

__all__ = ["ATTENTION", "FORMAT_VERSION", "VideoLlavaConfig", "language_config", "model_config"]

FORMAT_VERSION = 1
ATTENTION = {"": "sdpa", "text_config": VARLEN, "vision_config": "sdpa", "video_config": "sdpa"}


class VideoLlavaConfig(hf_config.VideoLlavaConfig):
    """`vision_config`: the image encoder; `video_config`: the video encoder; `text_config`: the language
    model.

    image_token_index, video_token_index: the placeholders; 0 takes vocab_size and vocab_size + 1, ids outside
    the embedding table, so the language model's own table and head stay as they are. `projector_type` is the
    original's: mlp2x_gelu (the paper), linear, mlpNx_gelu or identity. `towers`: the encoders there are.
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

    def __post_init__(self, **kwargs: Any) -> None:
        self.vision_config = subconfig(LanguageBindVisionConfig, self.vision_config)
        self.video_config = subconfig(LanguageBindVisionConfig, self.video_config)
        if not isinstance(self.text_config, PreTrainedConfig):
            given = dict(self.text_config or {})
            self.text_config = AutoConfig.for_model(given.pop("model_type", "llama"), **given)
        self.image_token_index = self.image_token_index or self.text_config.vocab_size
        self.video_token_index = self.video_token_index or self.text_config.vocab_size + 1
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
