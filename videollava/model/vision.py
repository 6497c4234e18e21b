"""LanguageBind's vision encoder: one class for image, video, depth, thermal and audio.

Layers, MLP and spatial attention are transformers' CLIP. What LanguageBind adds is here: temporal attention
before each layer's spatial attention, patch dropout, and a position grid that need not be square (audio).
Parameter names are the original's (arXiv 2310.01852), so its files need little renaming.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import initialization as init
from transformers.configuration_utils import PreTrainedConfig
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.clip.configuration_clip import CLIPVisionConfig
from transformers.models.clip.modeling_clip import (
    CLIPMLP,
    CLIPAttention,
    CLIPEncoderLayer,
    CLIPPreTrainedModel,
    eager_attention_forward,
)

from videollava import params
from videollava.data.media.pixels import normalise
from videollava.data.modalities import MediumKind
from videollava.errors import InputError
from videollava.model.last import read_one

__all__ = [
    "LanguageBindPreTrainedModel",
    "LanguageBindVisionConfig",
    "LanguageBindVisionModel",
    "resize_positions",
    "set_frames",
    "start_from_image",
    "tower_config",
]

log = logging.getLogger(__name__)


class LanguageBindVisionConfig(CLIPVisionConfig):
    """Shape of a vision encoder.

    `image_size` is a side, or (height, width); `num_frames` 1 for all but video.
    """

    model_type = "languagebind_vision"
    base_config_key = "vision_config"

    hidden_act: str = "gelu"
    modality: str = "image"
    temporal_attention: bool = False
    num_frames: int = 1
    patch_dropout: float = 0.0

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of a frame, in pixels."""
        size = self.image_size
        return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))

    @property
    def grid(self) -> tuple[int, int]:
        """Patches down and across."""
        height, width = self.size
        return height // self.patch_size, width // self.patch_size

    @property
    def patches(self) -> int:
        """Patches of one frame, the class token not counted."""
        return self.grid[0] * self.grid[1]


def tower_config(model: params.Model, modality: MediumKind) -> LanguageBindVisionConfig:
    """The vision encoder of `modality` that `params.model` describes."""
    video = modality == "video"
    return LanguageBindVisionConfig(
        modality=modality,
        hidden_size=model.vision.width,
        intermediate_size=model.vision.mlp,
        num_hidden_layers=model.vision.layers,
        num_attention_heads=model.vision.heads,
        image_size=model.audio_size if modality == "audio" else model.image_size,
        patch_size=model.patch_size,
        projection_dim=model.embed_dim,
        num_frames=model.frames if video else 1,
        temporal_attention=video and model.temporal_attention,
    )


def resize_positions(weight: Tensor, grid: tuple[int, int], new: tuple[int, int]) -> Tensor:
    """Position embeddings (1 + h*w, dim) of `grid` interpolated to the `new` grid; the class token's is kept.

    Bicubic with antialiasing, as LanguageBind makes its audio grid (8 x 74) from CLIP's square one.
    """
    if weight.shape[0] != 1 + grid[0] * grid[1]:
        raise InputError(
            f"position embedding has {weight.shape[0]} rows, a grid of {grid} needs {1 + grid[0] * grid[1]}"
        )
    if grid == new:
        return weight
    patches = weight[1:].float().T.reshape(1, -1, *grid)
    patches = F.interpolate(patches, size=new, mode="bicubic", antialias=True, align_corners=False)
    return torch.cat([weight[:1], patches.flatten(2)[0].T.to(weight.dtype)])


class PatchEmbeddings(nn.Module):
    """Pixels (N, C, H, W) -> (N, 1 + h*w, dim): class token first, position embeddings added.

    Pixels of whole numbers are as data/pixels.py has them, and are normalised here; floats are taken as they are.
    """

    def __init__(self, config: LanguageBindVisionConfig) -> None:
        super().__init__()
        self.config = config
        patch = config.patch_size
        self.class_embedding = nn.Parameter(torch.zeros(config.hidden_size))
        self.patch_embedding = nn.Conv2d(
            config.num_channels, config.hidden_size, patch, stride=patch, bias=False
        )
        self.position_embedding = nn.Embedding(config.patches + 1, config.hidden_size)

    def forward(self, pixels_NCHW: Tensor) -> Tensor:
        if tuple(pixels_NCHW.shape[-2:]) != self.config.size:
            raise InputError(
                f"{self.config.modality} of {tuple(pixels_NCHW.shape[-2:])} pixels given to an encoder of "
                f"{self.config.size}: resize it, or interpolate the positions with resize_positions()"
            )
        pixels_NCHW = normalise(pixels_NCHW).to(self.patch_embedding.weight.dtype)
        patches = self.patch_embedding(pixels_NCHW).flatten(2).transpose(1, 2)
        marks = self.class_embedding.to(patches.dtype).expand(len(patches), 1, -1)
        # Called, not read: ZeRO-3 gathers a module's weights when it is called.
        places = torch.arange(patches.shape[1] + 1, device=patches.device)
        return torch.cat([marks, patches], dim=1) + self.position_embedding(places)


class TemporalAttention(CLIPAttention):
    """Attention over the frames of a clip, apart for each position.

    (b, t, n, d) is viewed as (b, t, n*heads, head_dim): positions count as heads, so nothing is copied.
    """

    def forward(self, hidden_BTND: Tensor) -> Tensor:
        b, t, n, d = hidden_BTND.shape
        shape = (b, t, n * self.num_heads, self.head_dim)
        query, key, value = (
            project(hidden_BTND).view(shape).transpose(1, 2)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        attend: Callable[..., Any] = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        dropout = self.dropout if self.training else 0.0
        mixed, _ = attend(self, query, key, value, None, scaling=self.scale, dropout=dropout, is_causal=False)
        return self.out_proj(mixed.reshape(b, t, n, d))


class LanguageBindLayer(CLIPEncoderLayer):
    """CLIP's layer; with temporal attention, what comes before it is: embedding of time, norm, attention."""

    def __init__(self, config: LanguageBindVisionConfig) -> None:
        super().__init__(config)
        self.temporal = config.temporal_attention
        if self.temporal:
            self.temporal_embedding = nn.Parameter(torch.zeros(1, config.num_frames, config.hidden_size))
            self.temporal_attn = TemporalAttention(config)
            self.temporal_layer_norm1 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, hidden_states: Tensor, frames: int = 1, mark: bool = False, **kwargs: Any) -> Tensor:
        """hidden_states (clips*frames, tokens, dim); of the class token alone where `mark`, (clips*frames, 1, dim)."""
        if self.temporal:
            hidden_states = self._mix_frames(hidden_states, frames)
        if mark:
            return read_one(self, hidden_states)[:, None]
        return super().forward(hidden_states, None, **kwargs)

    def _mix_frames(self, hidden_states: Tensor, frames: int) -> Tensor:
        clips = hidden_states.unflatten(0, (-1, frames))
        if frames > 1:  # the original leaves a single frame without the embedding of time
            clips = clips + resize_frames(self.temporal_embedding, frames)[:, :, None]
        clips = clips + self.temporal_attn(self.temporal_layer_norm1(clips))
        return clips.flatten(0, 1)


def resize_frames(embedding: Tensor, frames: int) -> Tensor:
    """Temporal embeddings (1, trained frames, dim) for another number of frames, linearly interpolated."""
    if embedding.shape[1] == frames:
        return embedding
    return F.interpolate(embedding.transpose(1, 2), size=frames, mode="linear", align_corners=True).transpose(
        1, 2
    )


class LayerStack(nn.Module):
    """The layers, held under the original's name `encoder.layers`."""

    def __init__(self, config: LanguageBindVisionConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(LanguageBindLayer(config) for _ in range(config.num_hidden_layers))


class LanguageBindPreTrainedModel(CLIPPreTrainedModel):
    """Initial weights, where none are loaded.

    Queries, keys, values and patches of vision start at 1/sqrt(inputs), which keeps what they are given at its size. At
    transformers' 0.02 and a width of 128 every patch looks at all others alike, and an encoder learns to look late
    (docs/tiny-recipe.md). The rest is transformers' own.
    """

    config: Any
    config_class = PreTrainedConfig
    base_model_prefix = ""
    _no_split_modules = (
        "LanguageBindLayer",
        "PatchEmbeddings",
        "CLIPTextEmbeddings",
        "CLIPEncoderLayer",
        "LastTextLayer",
    )

    def _initialize_weights(self, module: nn.Module, is_custom_code: bool = False) -> None:
        # As of its own models: of others' it passes over every module that only holds modules, such as attention.
        super()._initialize_weights(module)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        factor = self.config.initializer_factor
        if not isinstance(module, (CLIPAttention, CLIPMLP)):  # CLIP's rules for these were never in use here
            super()._init_weights(module)
        if isinstance(module, PatchEmbeddings):
            patch = module.patch_embedding.weight
            init.normal_(module.class_embedding, std=module.config.hidden_size**-0.5 * factor)
            init.normal_(patch, std=patch[0].numel() ** -0.5 * factor)
            init.normal_(module.position_embedding.weight, std=module.config.initializer_range * factor)
        elif isinstance(module, CLIPAttention) and isinstance(module.config, LanguageBindVisionConfig):
            for projection in (module.q_proj, module.k_proj, module.v_proj):
                init.normal_(projection.weight, std=module.embed_dim**-0.5 * factor)
        elif isinstance(module, LanguageBindLayer) and module.temporal:
            init.normal_(module.temporal_embedding, std=module.embed_dim**-0.5 * factor)


class LanguageBindVisionModel(LanguageBindPreTrainedModel):
    """Vision encoder for every modality.

    forward(pixel_values (B, C, H, W) or (B, T, C, H, W), output_hidden_states, feature_layer) gives
    last_hidden_state (B*T, 1 + patches, dim), pooler_output (B, dim; the mean over frames of the normed class
    token) and hidden_states: the input of every layer and the last output, (B, 1 + patches, dim) for
    pictures, (B, T, 1 + patches, dim) for clips. With `feature_layer` (an index into hidden_states, -2 in
    Video-LLaVA) only the layers below it run, last_hidden_state is that state, and there is no pooler_output.
    `pooled_alone`, without states: pooler_output and nothing else, for which the last layer works on the class
    token alone.
    """

    config: LanguageBindVisionConfig
    config_class = LanguageBindVisionConfig
    main_input_name = "pixel_values"
    input_modalities = ("image", "video")
    _input_embed_layer = "patch_embedding"

    def __init__(self, config: LanguageBindVisionConfig) -> None:
        super().__init__(config)
        self.embeddings = PatchEmbeddings(config)
        self.pre_layrnorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.encoder = LayerStack(config)
        self.post_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.noticed: set[int] = set()
        self.post_init()

    def forward(
        self,
        pixel_values: Tensor,
        output_hidden_states: bool = False,
        feature_layer: int | None = None,
        kept: Tensor | None = None,
        pooled_alone: bool = False,
        **kwargs: Any,
    ) -> BaseModelOutputWithPooling:
        pooled_alone = pooled_alone and not output_hidden_states
        clips = pixel_values.ndim == 5
        batch, frames = pixel_values.shape[:2] if clips else (len(pixel_values), 1)
        self._notice(frames)
        hidden = self.embeddings(pixel_values.flatten(0, 1) if clips else pixel_values)
        hidden = self.pre_layrnorm(_keep_patches(hidden, frames, kept))
        depth = self._depth(feature_layer)
        states = [hidden]
        for number, layer in enumerate(itertools.islice(self.encoder.layers, depth), 1):
            hidden = layer(hidden, frames=frames, mark=pooled_alone and number == depth, **kwargs)
            states.append(hidden)
        pooled = None
        if feature_layer is None:
            pooled = self.post_layernorm(hidden[:, 0]).unflatten(0, (batch, frames)).mean(1)
        if clips:
            states = [state.unflatten(0, (batch, frames)) for state in states]
        return BaseModelOutputWithPooling(
            last_hidden_state=None if pooled_alone else hidden,
            pooler_output=pooled,
            hidden_states=tuple(states) if output_hidden_states else None,
        )

    def _depth(self, feature_layer: int | None) -> int:
        layers = len(self.encoder.layers)
        if feature_layer is None:
            return layers
        depth = feature_layer if feature_layer >= 0 else layers + 1 + feature_layer
        if not 0 <= depth <= layers:
            raise InputError(
                f"feature_layer {feature_layer}: this encoder has {layers} layers; use "
                f"-{layers + 1}..{layers}"
            )
        return depth

    def _notice(self, frames: int) -> None:
        if self.config.temporal_attention and frames not in (1, self.config.num_frames, *self.noticed):
            self.noticed.add(frames)
            log.warning(
                "%d frames given to an encoder trained on %d: its temporal embeddings are interpolated, and "
                "it "
                "needs retuning before its features can be trusted",
                frames,
                self.config.num_frames,
            )


def _keep_patches(hidden: Tensor, frames: int, kept: Tensor | None) -> Tensor:
    """The class token and these patches (clips or pictures, patches kept), in all frames of a clip the same."""
    if kept is None:
        return hidden
    places = F.pad(kept.repeat_interleave(frames, dim=0) + 1, (1, 0))
    return hidden.gather(1, places[..., None].expand(-1, -1, hidden.shape[-1]))


def set_frames(tower: LanguageBindVisionModel, frames: int) -> None:
    """Make `frames` the number of a video encoder, in place, its embeddings of time interpolated.

    Its features change: retune before trusting them.
    """
    if tower.config.temporal_attention and frames != tower.config.num_frames:
        log.warning(
            "the video encoder's embeddings of time are interpolated from %d frames to %d: retune it",
            tower.config.num_frames,
            frames,
        )
        for layer in tower.encoder.layers:
            if isinstance(layer, LanguageBindLayer):
                old = layer.temporal_embedding
                layer.temporal_embedding = nn.Parameter(resize_frames(old.data, frames), old.requires_grad)
    tower.config.num_frames = frames


def start_from_image(video: LanguageBindVisionModel, image: LanguageBindVisionModel) -> None:
    """Give a video encoder an image encoder's weights, in place.

    Temporal attention starts with a zero output and small embeddings of time, so at first every frame is seen
    as the image encoder sees it.
    """
    missing, unexpected = video.load_state_dict(image.state_dict(), strict=False)
    strange = [name for name in missing if "temporal" not in name] + unexpected
    if strange:
        raise InputError(f"the image encoder does not fit the video encoder: {', '.join(strange[:8])}")
    with torch.no_grad():
        for layer in video.encoder.layers:
            if isinstance(layer, LanguageBindLayer) and layer.temporal:
                layer.temporal_attn.out_proj.weight.zero_()
                layer.temporal_attn.out_proj.bias.zero_()
                layer.temporal_embedding.normal_(std=0.02)
