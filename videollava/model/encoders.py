"""LanguageBind: a vision encoder of any modality and the text encoder whose space it is bound to.

Original: arXiv 2310.01852. The vision encoder is in vision.py; the text encoder is transformers' CLIP with
the pooling that its tokenizer needs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import initialization as init
from transformers.configuration_utils import PreTrainedConfig
from transformers.modeling_outputs import BaseModelOutputWithPooling, ModelOutput
from transformers.models.clip.configuration_clip import CLIPTextConfig
from transformers.models.clip.modeling_clip import CLIPTextModel

from videollava import params
from videollava.data.modalities import MediumKind
from videollava.model.last import LastTextLayer
from videollava.model.vision import (
    LanguageBindPreTrainedModel,
    LanguageBindVisionConfig,
    LanguageBindVisionModel,
    resize_positions,
    start_from_image,
    tower_config,
)

__all__ = [
    "LanguageBind",
    "LanguageBindConfig",
    "LanguageBindOutput",
    "LanguageBindTextConfig",
    "LanguageBindTextModel",
    "LanguageBindVisionConfig",
    "LanguageBindVisionModel",
    "pair_config",
    "resize_positions",
    "start_from_image",
    "text_config",
    "tower_config",
]


class LanguageBindTextConfig(CLIPTextConfig):
    """Shape of the text encoder. `pooling` names the token whose state stands for the text.

    highest: the highest id (the original: CLIP's end mark is the last id of its vocabulary);
    last: the last token of `attention_mask`, right for any tokenizer.
    """

    model_type = "languagebind_text"
    base_config_key = "text_config"

    hidden_act: str = "gelu"
    pooling: Literal["highest", "last"] = "last"


class LanguageBindConfig(PreTrainedConfig):
    """A vision and a text encoder projected into one space of `projection_dim`.

    logit_bias_init_value: where the bias starts that the sigmoid loss learns; None: the pair has none (softmax).
    """

    model_type = "languagebind"
    sub_configs = {"vision_config": LanguageBindVisionConfig, "text_config": LanguageBindTextConfig}  # noqa: RUF012

    vision_config: Any = None  # LanguageBindVisionConfig, or its fields
    text_config: Any = None  # LanguageBindTextConfig, or its fields
    projection_dim: int = 512
    logit_scale_init_value: float = 2.6592
    logit_bias_init_value: float | None = None
    initializer_factor: float = 1.0
    format_version: int = 1

    def __post_init__(self, **kwargs: Any) -> None:
        self.vision_config = subconfig(LanguageBindVisionConfig, self.vision_config)
        self.text_config = subconfig(LanguageBindTextConfig, self.text_config)
        super().__post_init__(**kwargs)


def subconfig(kind: type[Any], given: Any) -> Any:
    """`given` as a config of `kind`: a mapping is read, None takes the defaults, a config is kept."""
    if isinstance(given, PreTrainedConfig):
        return given
    return kind(**(given or {}))


def text_config(model: params.Model, vocab_size: int, positions: int = 77) -> LanguageBindTextConfig:
    """The text encoder that `params.model` describes, for a tokenizer of `vocab_size` ids."""
    return LanguageBindTextConfig(
        vocab_size=vocab_size,
        hidden_size=model.text.width,
        intermediate_size=model.text.mlp,
        num_hidden_layers=model.text.layers,
        num_attention_heads=model.text.heads,
        max_position_embeddings=positions,
        projection_dim=model.embed_dim,
    )


def pair_config(
    model: params.Model, modality: MediumKind, vocab_size: int, positions: int = 77
) -> LanguageBindConfig:
    """Vision and text encoder of `params.model` for contrastive training."""
    return LanguageBindConfig(
        vision_config=tower_config(model, modality),
        text_config=text_config(model, vocab_size, positions),
        projection_dim=model.embed_dim,
    )


class LanguageBindTextModel(LanguageBindPreTrainedModel, CLIPTextModel):
    """Text encoder: input_ids, attention_mask (B, L) -> last_hidden_state (B, L, d), pooler_output (B, d).

    `pooled_alone`: nothing but pooler_output, for which the last layer works on one token of each text.
    """

    config: LanguageBindTextConfig
    config_class = LanguageBindTextConfig
    input_modalities = ("text",)
    _input_embed_layer = "token_embedding"

    def __init__(self, config: LanguageBindTextConfig) -> None:
        CLIPTextModel.__init__(self, config)
        self.encoder.layers[-1].__class__ = LastTextLayer

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        pooled_alone: bool = False,
        **kwargs: Any,
    ) -> BaseModelOutputWithPooling:
        last, rows = (
            self._last(input_ids, attention_mask),
            torch.arange(len(input_ids), device=input_ids.device),
        )
        seen = None if attention_mask is None else self._seen(attention_mask)
        if not pooled_alone:
            out = CLIPTextModel.forward(self, input_ids, seen, **kwargs)
            out.pooler_output = out.last_hidden_state[rows, last]
            return out
        if seen is None:
            seen = self._seen(torch.ones_like(input_ids))
        hidden = self.embeddings(input_ids=input_ids)
        *layers, end = self.encoder.layers
        for layer in layers:
            hidden = layer(hidden, seen, is_causal=True, **kwargs)
        pooled = end(hidden, seen[rows, :, last][:, :, None], places=last, **kwargs)[:, 0]
        return BaseModelOutputWithPooling(pooler_output=self.final_layer_norm(pooled))

    def _last(self, input_ids: Tensor, mask_BL: Tensor | None) -> Tensor:
        """Of each text, the place of the token that stands for it."""
        if self.config.pooling == "highest":
            return input_ids.argmax(dim=-1)
        if mask_BL is None:
            return torch.full_like(input_ids[:, 0], input_ids.shape[1] - 1)
        steps = torch.arange(1, input_ids.shape[1] + 1, device=input_ids.device)
        return (mask_BL * steps).argmax(dim=-1)

    def _seen(self, mask_BL: Tensor) -> Tensor:
        """What each token sees, (B, 1, L, L): itself and what comes before, without padding.

        Made here: transformers would read the mask back from the device to see whether there is any padding.
        """
        length = mask_BL.shape[1]
        before = torch.ones(length, length, dtype=torch.bool, device=mask_BL.device).tril()
        seen = before & mask_BL[:, None, None].bool()
        if self.config._attn_implementation != "eager":
            return seen
        hidden = torch.finfo(self.dtype).min
        return torch.zeros_like(seen, dtype=self.dtype).masked_fill(~seen, hidden)


@dataclass
class LanguageBindOutput(ModelOutput):
    """Embeddings are normalised; logits_per_image = exp(logit_scale) * image_embeds @ text_embeds.T, with
    the bias added where there is one.
    """

    logits_per_image: Tensor | None = None
    image_embeds: Tensor | None = None
    text_embeds: Tensor | None = None
    vision_output: BaseModelOutputWithPooling | None = None
    text_output: BaseModelOutputWithPooling | None = None


class LanguageBind(LanguageBindPreTrainedModel):
    """A vision encoder bound to the text encoder's space: contrastive training and zero-shot use."""

    config: LanguageBindConfig
    config_class = LanguageBindConfig

    def __init__(self, config: LanguageBindConfig) -> None:
        super().__init__(config)
        self.vision_model = LanguageBindVisionModel(config.vision_config)
        self.text_model = LanguageBindTextModel(config.text_config)
        self.visual_projection = nn.Linear(
            self.vision_model.config.hidden_size, config.projection_dim, bias=False
        )
        self.text_projection = nn.Linear(
            self.text_model.config.hidden_size, config.projection_dim, bias=False
        )
        self.logit_scale = nn.Parameter(torch.tensor(float(config.logit_scale_init_value)))
        bias = config.logit_bias_init_value
        self.logit_bias = None if bias is None else nn.Parameter(torch.tensor(float(bias)))
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        factor = self.config.initializer_factor
        if isinstance(module, LanguageBind):
            init.normal_(
                module.visual_projection.weight, std=module.visual_projection.in_features**-0.5 * factor
            )
            init.normal_(module.text_projection.weight, std=module.text_projection.in_features**-0.5 * factor)
            init.constant_(module.logit_scale, module.config.logit_scale_init_value)
            if module.logit_bias is not None:
                init.constant_(module.logit_bias, module.config.logit_bias_init_value)

    def encode_vision(self, pixel_values: Tensor) -> Tensor:
        """pixel_values (B, C, H, W) or (B, T, C, H, W) -> normalised embeddings (B, projection_dim)."""
        return F.normalize(
            self.visual_projection(self.vision_model(pixel_values, pooled_alone=True).pooler_output), dim=-1
        )

    def encode_text(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """input_ids (B, L) -> normalised embeddings (B, projection_dim)."""
        return F.normalize(
            self.text_projection(self.text_model(input_ids, attention_mask, pooled_alone=True).pooler_output),
            dim=-1,
        )

    def forward(
        self,
        pixel_values: Tensor | None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        **kwargs: Any,
    ) -> LanguageBindOutput:
        """Media, texts, or both; without one of them its embeddings and the logits are None.

        Other arguments are the vision encoder's. Without states, both encoders give pooler_output alone.
        """
        if input_ids is None:
            vision = self.vision_model(pixel_values, pooled_alone=True, **kwargs)
            image_embeds = F.normalize(self.visual_projection(vision.pooler_output), dim=-1)
            return LanguageBindOutput(image_embeds=image_embeds, vision_output=vision)
        text = self.text_model(input_ids, attention_mask, pooled_alone=True)
        text_embeds = F.normalize(self.text_projection(text.pooler_output), dim=-1)
        if pixel_values is None:
            return LanguageBindOutput(text_embeds=text_embeds, text_output=text)
        vision = self.vision_model(pixel_values, pooled_alone=True, **kwargs)
        image_embeds = F.normalize(self.visual_projection(vision.pooler_output), dim=-1)
        logits = self.logit_scale.exp() * image_embeds @ text_embeds.T
        if self.logit_bias is not None:
            logits = logits + self.logit_bias
        return LanguageBindOutput(logits, image_embeds, text_embeds, vision, text)
