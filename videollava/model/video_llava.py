"""Video-LLaVA: LanguageBind image and video encoders, one shared projector, a language model.

Extends transformers' class, so LoRA, generation, quantisation and saving come from the library, and differs
from it in what the original has: a video encoder of its own with temporal attention. Tokens of media are
written into the ids as one placeholder per visual token (`image_token_id`, `video_token_id`): `image_tokens`
per image, `video_tokens(frames)` per video.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForImageTextToText
from transformers.activations import ACT2FN
from transformers.models.video_llava import modeling_video_llava as hf
from transformers.models.video_llava.modeling_video_llava import VideoLlavaCausalLMOutputWithPast

from videollava.errors import InputError
from videollava.model.config import (
    ATTENTION,
    FORMAT_VERSION,
    VideoLlavaConfig,
    language_config,
    model_config,
)
from videollava.model.encoders import (
    LanguageBind,
    LanguageBindConfig,
    LanguageBindTextConfig,
    LanguageBindTextModel,
    LanguageBindVisionConfig,
    LanguageBindVisionModel,
)
from videollava.model.last import read_tokens, spare_last, takes_read
from videollava.model.vision import set_frames

__all__ = [
    "ATTENTION",
    "FORMAT_VERSION",
    "IGNORED",
    "Projector",
    "VideoLlavaConfig",
    "VideoLlavaForConditionalGeneration",
    "VideoLlavaModel",
    "VideoLlavaOutput",
    "language_config",
    "model_config",
]

IGNORED = -100  # the label of a token that is not learned


@dataclass
class VideoLlavaOutput(VideoLlavaCausalLMOutputWithPast):
    """transformers' output, and the loss of each position that `logits` holds (float32, no gradient, 0 where nothing is
    learned): what the loss is the sum of.
    """

    target_losses: Tensor | None = None


class Projector(nn.Module):
    """Tower features (..., vision width) to the language model's width; the original's `mm_projector`."""

    def __init__(self, kind: str, width_in: int, width: int, activation: str = "gelu") -> None:
        super().__init__()
        self.act = ACT2FN[activation]
        self.depth = _projector_depth(kind)
        if self.depth == 0 and width_in != width:
            raise InputError(
                f"projector_type identity needs equal widths, not {width_in} and {width}: use mlp2x_gelu"
            )
        for number in range(1, self.depth + 1):
            self.add_module(f"linear_{number}", nn.Linear(width_in if number == 1 else width, width))

    def forward(self, features: Tensor) -> Tensor:
        for number in range(1, self.depth + 1):
            if number > 1:
                features = self.act(features)
            features = getattr(self, f"linear_{number}")(features)
        return features


def _projector_depth(kind: str) -> int:
    """How many linear layers the original's mm_projector_type names."""
    fixed = {"identity": 0, "linear": 1}
    if kind in fixed:
        return fixed[kind]
    count = kind.removeprefix("mlp").removesuffix("x_gelu")
    if f"mlp{count}x_gelu" != kind or not count.isdigit() or int(count) < 1:
        raise InputError(
            f"projector_type {kind!r} is not known; it may be mlp2x_gelu (any number), linear, identity"
        )
    return int(count)


class VideoLlavaModel(hf.VideoLlavaModel):
    """Towers, projector and language model without its head. See VideoLlavaForConditionalGeneration."""

    config: VideoLlavaConfig
    config_class = VideoLlavaConfig
    _no_split_modules = ("LastLlamaLayer",)

    def __init__(self, config: VideoLlavaConfig) -> None:
        hf.VideoLlavaPreTrainedModel.__init__(self, config)
        widths = {tower: _width(config, tower) for tower in config.towers}
        if len(set(widths.values())) != 1:
            raise InputError(
                f"one projector serves both encoders, so their widths must be equal, not {widths}"
            )
        if "image" in config.towers:
            self.image_tower = LanguageBindVisionModel._from_config(config.vision_config)
        if "video" in config.towers:
            self.video_tower = LanguageBindVisionModel._from_config(config.video_config)
        width = config.text_config.hidden_size
        act = config.projector_hidden_act
        self.multi_modal_projector = Projector(config.projector_type, next(iter(widths.values())), width, act)
        self.vocab_size = config.text_config.vocab_size
        self.language_model = AutoModel.from_config(config.text_config)
        spare_last(self.language_model)
        self.post_init()

    def train(self, mode: bool = True) -> VideoLlavaModel:
        """As of any module, but encoders that do not learn stay in evaluation mode: they drop no patches."""
        super().train(mode)
        for tower in (getattr(self, f"{kind}_tower", None) for kind in ("image", "video")):
            if tower is not None and not _learns(tower):
                tower.eval()
        return self

    def encode_images(self, pixels_NCHW: Tensor) -> Tensor:
        """(N, C, H, W) -> image encoder's features (N, image_tokens, vision width); no projector."""
        features = self._encode("image", pixels_NCHW)
        return features if self.config.vision_feature_select_strategy == "full" else features[:, 1:]

    def encode_videos(self, pixels_MTCHW: Tensor) -> Tensor:
        """(M, T, C, H, W) -> video encoder's features (M, T * (patches + 1), vision width); no projector."""
        clips, frames = pixels_MTCHW.shape[:2]
        return self._encode("video", pixels_MTCHW).unflatten(0, (clips, frames)).flatten(1, 2)

    def _encode(self, kind: Literal["image", "video"], pixels: Tensor) -> Tensor:
        tower = getattr(self, f"{kind}_tower", None)
        if tower is None:
            raise InputError(
                f"this model has no {kind} encoder (its towers: {', '.join(self.config.towers)})"
            )
        # Frozen encoders keep nothing for a backward pass.
        with torch.set_grad_enabled(torch.is_grad_enabled() and _learns(tower)):
            return tower(pixels, feature_layer=self.config.vision_feature_layer).last_hidden_state

    def project(self, image_features: Tensor | None, video_features: Tensor | None) -> tuple[Tensor, Tensor]:
        """Both kinds through ONE projector call -> (image tokens, width), (video tokens, width), flat."""
        linear = next(self.multi_modal_projector.parameters(), None)
        given = [image_features, video_features]
        flat = [f.flatten(0, -2) for f in given if f is not None]
        features = torch.cat(flat) if len(flat) > 1 else flat[0]
        if linear is not None:
            features = features.to(linear.dtype)
        tokens = self.multi_modal_projector(features)
        images = 0 if image_features is None else image_features.shape[:-1].numel()
        return tokens[:images], tokens[images:]

    def embed(
        self,
        input_ids: Tensor,
        pixel_values_images: Tensor | None = None,
        pixel_values_videos: Tensor | None = None,
        image_features: Tensor | None = None,
        video_features: Tensor | None = None,
        image_places: Tensor | None = None,
        video_places: Tensor | None = None,
        same_calls: tuple[str, ...] = (),
    ) -> Tensor:
        """Embeddings (B, T, width) of ids with every placeholder replaced by its visual token, in order.

        image_places, video_places: where the placeholders are (int64, into the flat B * T), for whoever knows: looking
        for them makes the host wait for the device.
        same_calls: of "image", "video" and "projector", the modules to call even where this batch has no use
        for them (on one blank frame, adding exactly 0). Under ZeRO-3 every rank must call the same ones.
        """
        blank: list[Tensor] = []
        if pixel_values_images is not None:
            image_features = self.encode_images(pixel_values_images)
        elif "image" in same_calls:
            blank.append(self.encode_images(self._blank("image", input_ids.device)))
        if pixel_values_videos is not None:
            video_features = self.encode_videos(pixel_values_videos)
        elif "video" in same_calls:
            blank.append(self.encode_videos(self._blank("video", input_ids.device)))
        images, videos = input_ids == self.config.image_token_id, input_ids == self.config.video_token_id
        embeds: Tensor = self.get_input_embeddings()(input_ids.masked_fill(images | videos, 0))
        if image_places is None:
            image_places = images.flatten().nonzero()[:, 0]
        if video_places is None:
            video_places = videos.flatten().nonzero()[:, 0]
        unused = [feature.flatten(0, -2)[:1] for feature in blank]
        if image_features is not None or video_features is not None:
            image_tokens, video_tokens = self.project(image_features, video_features)
            embeds = _place(embeds, image_places, image_tokens, "image")
            embeds = _place(embeds, video_places, video_tokens, "video")
        elif "projector" in same_calls:
            width = next(iter(_width(self.config, tower) for tower in self.config.towers))
            nothing = unused[0] if unused else embeds.new_zeros(1, width)
            unused.append(self.project(nothing, None)[0])
        else:
            _place(embeds, image_places, embeds[0, :0], "image")
            _place(embeds, video_places, embeds[0, :0], "video")
        for feature in unused:
            embeds = embeds + 0 * feature.sum().to(embeds.dtype)
        return embeds

    def _blank(self, kind: Literal["image", "video"], device: torch.device) -> Tensor:
        config = self.config.vision_config if kind == "image" else self.config.video_config
        tower: nn.Module = getattr(self, f"{kind}_tower")
        dtype = next(tower.parameters()).dtype
        shape = (1, config.num_channels, *config.size)
        return torch.zeros(shape if kind == "image" else (1, *shape), device=device, dtype=dtype)

    def forward(
        self,
        input_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        pixel_values_images: Tensor | None = None,
        pixel_values_videos: Tensor | None = None,
        image_features: Tensor | None = None,
        video_features: Tensor | None = None,
        image_places: Tensor | None = None,
        video_places: Tensor | None = None,
        same_calls: tuple[str, ...] = (),
        read: int | Tensor = 0,
        **kwargs: Any,
    ) -> Any:
        """As of a language model, of the tokens that are `read` alone (last.LastLlamaLayer; 0: of all)."""
        if inputs_embeds is None:
            if input_ids is None:
                raise ValueError("either input_ids or inputs_embeds is needed")
            media = (pixel_values_images, pixel_values_videos, image_features, video_features)
            inputs_embeds = self.embed(input_ids, *media, image_places, video_places, same_calls)
        states = kwargs.get("output_hidden_states", self.config.output_hidden_states)
        if states or not takes_read(self.language_model):
            out = self.language_model(inputs_embeds=inputs_embeds, **kwargs)
            out.last_hidden_state = read_tokens(out.last_hidden_state, read)
            return out
        return self.language_model(inputs_embeds=inputs_embeds, read=read, **kwargs)


def _learns(module: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in module.parameters())


def _width(config: VideoLlavaConfig, tower: str) -> int:
    return int((config.vision_config if tower == "image" else config.video_config).hidden_size)


def _place(embeds_BTD: Tensor, places: Tensor, tokens: Tensor, kind: str) -> Tensor:
    """`tokens` at the `places` (int64, into the flat B * T)."""
    if len(places) != len(tokens):
        raise InputError(
            f"{len(places)} {kind} placeholders in the ids for {len(tokens)} visual tokens: expand every "
            f"{kind} to the model's token count and give its pixels or features"
        )
    if len(tokens) == 0:
        return embeds_BTD
    # Not masked_scatter: on CUDA it makes an int64 prefix sum of T x width, and waits in its backward pass.
    return embeds_BTD.flatten(0, 1).index_copy(0, places, tokens.to(embeds_BTD.dtype)).view_as(embeds_BTD)


class VideoLlavaForConditionalGeneration(hf.VideoLlavaForConditionalGeneration):
    """The whole model.

    forward takes input_ids (B, T) with expanded placeholders and the media as pixels
    (pixel_values_images (N, C, H, W), pixel_values_videos (M, T, C, H, W)) or as tower features before the
    projector (image_features (N, n, dim), video_features (M, n, dim)), in order of appearance over the batch.
    Packed rows are one row with position_ids, cu_seq_lens_q, max_length_q (attention.packed_kwargs).

    labels (B, T) are aligned with input_ids, -100 where nothing is learned; the shift is made here, so in a
    packed row the first label of each segment must be -100. The loss is the sum over targets divided by
    num_items_in_batch, or their mean. Logits: (B, T, vocab) in evaluation. In training, with labels, only
    positions that predict a target go through the head (logits (1, targets, vocab)); give them as
    `logits_to_keep` (int64 positions into the flat (B * T,) row, each before a target) to spare the search.
    """

    config: VideoLlavaConfig
    config_class = VideoLlavaConfig

    def __init__(self, config: VideoLlavaConfig) -> None:
        hf.VideoLlavaPreTrainedModel.__init__(self, config)
        self.model = VideoLlavaModel(config)
        self.lm_head = nn.Linear(config.text_config.hidden_size, config.text_config.vocab_size, bias=False)
        self.post_init()

    def encode_images(self, pixels_NCHW: Tensor) -> Tensor:
        """(N, C, H, W) -> image encoder's features (N, image_tokens, vision width); no projector."""
        return self.model.encode_images(pixels_NCHW)

    def encode_videos(self, pixels_MTCHW: Tensor) -> Tensor:
        """(M, T, C, H, W) -> video encoder's features (M, T * (patches + 1), vision width); no projector."""
        return self.model.encode_videos(pixels_MTCHW)

    def set_frames(self, frames: int) -> None:
        """Take `frames` frames of every video from now on.

        Embeddings of time are interpolated (retune them).
        """
        set_frames(self.model.video_tower, frames)
        self.config.video_config.num_frames = frames
        self.config.video_seq_length = self.config.video_tokens()

    def forward(
        self,
        input_ids: Tensor | None = None,
        pixel_values_images: Tensor | None = None,
        pixel_values_videos: Tensor | None = None,
        image_features: Tensor | None = None,
        video_features: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        num_items_in_batch: Tensor | int | None = None,
        same_calls: tuple[str, ...] = (),
        **kwargs: Any,
    ) -> VideoLlavaOutput:
        targets, read = None, logits_to_keep
        if labels is not None:
            targets = F.pad(labels[:, 1:], (0, 1), value=IGNORED).flatten()
            if isinstance(read, int):
                read = (targets != IGNORED).nonzero()[:, 0] if self.training else 0
            targets = targets[read] if isinstance(read, Tensor) else targets
        out = self.model(
            input_ids=input_ids,
            inputs_embeds=inputs_embeds,
            pixel_values_images=pixel_values_images,
            pixel_values_videos=pixel_values_videos,
            image_features=image_features,
            video_features=video_features,
            same_calls=same_calls,
            # A tensor without labels is transformers': columns of every row.
            read=read if targets is not None or isinstance(read, int) else 0,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            # A cache is of no use to a step that learns, and it would hide packing from transformers' masks.
            use_cache=labels is None if use_cache is None else use_cache,
            **kwargs,
        )
        hidden: Tensor = out.last_hidden_state
        if targets is None:
            hidden = hidden[:, read] if isinstance(read, Tensor) else hidden
            loss, losses, logits = None, None, self.lm_head(hidden)
        else:
            loss, losses, logits = self._learn(hidden, targets, num_items_in_batch)
        return VideoLlavaOutput(
            target_losses=losses,
            loss=loss,
            logits=logits,
            past_key_values=out.past_key_values,
            hidden_states=out.hidden_states,
            attentions=out.attentions,
        )

    def _learn(
        self, hidden: Tensor, targets: Tensor, items: Tensor | int | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """targets: of each token of `hidden`, flat."""
        logits = self.lm_head(hidden)
        losses = F.cross_entropy(
            logits.flatten(0, -2).float(), targets, ignore_index=IGNORED, reduction="none"
        )
        if items is None:
            items = (targets != IGNORED).sum().clamp(min=1)
        return losses.sum() / items, losses.detach(), logits

    def prepare_inputs_for_generation(self, input_ids: Tensor, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """For transformers' generate(): media enter with the first step; later ones find them cached."""
        inputs: dict[str, Any] = super().prepare_inputs_for_generation(input_ids, *args, **kwargs)
        cache = kwargs.get("past_key_values")
        if cache is not None and cache.get_seq_length() > 0:
            for name in ("pixel_values_images", "pixel_values_videos", "image_features", "video_features"):
                inputs.pop(name, None)
        return inputs


def _register() -> None:
    for config, model in (
        (LanguageBindVisionConfig, LanguageBindVisionModel),
        (LanguageBindTextConfig, LanguageBindTextModel),
        (LanguageBindConfig, LanguageBind),
        (VideoLlavaConfig, VideoLlavaForConditionalGeneration),
    ):
        AutoConfig.register(config.model_type, config, exist_ok=True)
        AutoModel.register(config, model, exist_ok=True)
    AutoModelForImageTextToText.register(VideoLlavaConfig, VideoLlavaForConditionalGeneration, exist_ok=True)
    AutoModelForCausalLM.register(VideoLlavaConfig, VideoLlavaForConditionalGeneration, exist_ok=True)


_register()
