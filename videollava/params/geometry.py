"""The recipe's section on the model: its sizes."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from videollava.params.bounds import (
    Count,
    Flag,
    Section,
)

__all__ = ["Encoder", "Language", "Model"]


class Encoder(Section):
    """A CLIP-style transformer."""

    width: Count = Field(128, description="of its hidden states")
    layers: Count = Field(4, description="of its transformer")
    heads: Count = Field(4, description="of its attention; they divide the width")
    mlp: Count = Field(512, description="width of its MLPs")

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"heads is {self.heads}, which does not divide the width {self.width}")
        return self


class Language(Section):
    """A Llama-style language model, built where `bases.language` is "train"."""

    width: Count = Field(128, description="of its hidden states")
    layers: Count = Field(4, description="of its transformer")
    heads: Count = Field(4, description="of its attention; width / heads is even")
    mlp: Count = Field(384, description="width of its gated MLPs")
    positions: Count = Field(
        4096, description="longest sequence, visual tokens included; not more than a base that is given has"
    )

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if self.width % (2 * self.heads):
            raise ValueError(
                f"heads is {self.heads}, and the width {self.width} is no even number of dimensions for each"
            )
        return self


class Model(Section):
    """The model that is built; one that is loaded brings its own geometry."""

    image_size: Count = Field(64, description="pixels of a side")
    patch_size: Count = Field(8, description="pixels of a patch's side; it divides image_size")
    frames: Count = Field(8, description="of a video")
    audio_bins: Count = Field(112, description="mel bins of a sound's spectrogram, its height")
    audio_frames: Count = Field(1036, description="of 10 ms, of a sound's spectrogram, its width")
    embed_dim: Count = Field(128, description="of the space that pictures, videos and texts share")
    temporal_attention: Flag = Field(
        True, description="attention over frames in every layer of the video encoder"
    )
    feature_layer: Annotated[int, Field(strict=True)] = Field(
        -2, description="the encoder's hidden state that the projector reads"
    )
    vision: Encoder = Field(Encoder(), description="the image and video encoders")
    text: Encoder = Field(Encoder(), description="the text encoder of `align`")
    language: Language = Field(Language(), description="the language model of `bases`")

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.image_size % self.patch_size:
            raise ValueError(
                f"patch_size is {self.patch_size}, which does not divide image_size {self.image_size}"
            )
        if min(self.audio_size) < self.patch_size:
            raise ValueError(
                f"audio_bins and audio_frames are {self.audio_bins} and {self.audio_frames}, less than a patch "
                f"(patch_size {self.patch_size})"
            )
        states = self.vision.layers + 1
        if not -states <= self.feature_layer < states:
            raise ValueError(
                f"feature_layer is {self.feature_layer}; an encoder of {self.vision.layers} layers has hidden states "
                f"{-states} to {states - 1}"
            )
        return self

    @property
    def patches(self) -> int:
        """Patches of one picture."""
        return (self.image_size // self.patch_size) ** 2

    @property
    def audio_size(self) -> tuple[int, int]:
        """Height and width of a sound's spectrogram: mel bins, frames of 10 ms."""
        return self.audio_bins, self.audio_frames

    @property
    def audio_patches(self) -> int:
        """Patches of one spectrogram."""
        return (self.audio_bins // self.patch_size) * (self.audio_frames // self.patch_size)

    @property
    def image_tokens(self) -> int:
        """Language-model tokens of one image: the class token is dropped."""
        return self.patches

    @property
    def video_tokens(self) -> int:
        """Language-model tokens of one video: every frame keeps its class token."""
        return self.frames * (self.patches + 1)
