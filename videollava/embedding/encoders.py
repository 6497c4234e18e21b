"""Encoders of several modalities and the text tower they share: files and texts to vectors of one space.

from videollava import embed, load_encoders, similarity
encoders = load_encoders("LanguageBind/LanguageBind_Image", "LanguageBind/LanguageBind_Audio_FT")
similarity(embed(encoders, texts=["a lion climbing a tree"]), embed(encoders, files=["1.jpg", "1.wav"]))
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from videollava.data.media.admission.opening import Source
from videollava.data.media.pixels import stack
from videollava.data.media.read import load_pixels
from videollava.data.media.stored import StoredFrames
from videollava.embedding.kinds import KINDS, kind_of, kind_said
from videollava.errors import InputError
from videollava.model.device import choose_device
from videollava.model.encoders import LanguageBind, LanguageBindTextModel, LanguageBindVisionModel
from videollava.model.formats.encoder import load_encoder
from videollava.model.formats.folders import CONFIGS
from videollava.origin import REGISTERED, find_encoders

__all__ = ["Encoders", "Vectors", "embed", "kinds_in", "load_encoders", "similarity", "text_tower"]

Vectors = NDArray[np.float32]
FRAMES = 8  # of a clip, where an encoder of pictures is taken for clips
BATCH = 32


@dataclass(frozen=True)
class Tower:
    """The encoder of one modality. name: what it was asked for by; hash: SHA-256 of its weights in float32."""

    name: str
    hash: str
    vision: LanguageBindVisionModel
    projection: nn.Linear


@dataclass
class Encoders:
    """Encoders by modality, and the text tower that all of them are bound to.

    space: SHA-256 of the text tower's weights in float32: vectors of two models can be compared where it is equal.
    scale: by what the model itself multiplies similarities before its softmax.
    """

    towers: dict[str, Tower]
    text: LanguageBindTextModel
    text_projection: nn.Linear
    tokenizer: Any
    space: str
    dim: int
    scale: float
    device: str = "cpu"
    text_name: str = ""

    def tower(self, kind: str) -> Tower:
        """The encoder of a modality. InputError where there is none, naming those that are there."""
        if kind not in self.towers:
            raise InputError(
                f"no encoder of {kind}: there are {', '.join(self.towers)}; name a folder of that modality too, or "
                f"{kind}=FOLDER to take one of pictures for it"
            )
        return self.towers[kind]

    def read(self, source: Source | StoredFrames, kind: str, where: str = "") -> Tensor:
        """One file, or its bytes, as the pixels its encoder takes, (C, H, W) or (T, C, H, W).

        InputError where it cannot be read; where: what bytes are called in it.
        """
        config = self.tower(kind).vision.config
        frames = config.num_frames if config.num_frames > 1 else FRAMES
        return load_pixels(kind, source, config.size[0], frames, where=where, spectrogram=config.size)

    @torch.inference_mode()
    def encode(self, kind: str, pixels: Tensor) -> Vectors:
        """Pixels of one modality, (B, C, H, W) or (B, T, C, H, W) -> normalised (B, D)."""
        tower = self.tower(kind)
        pooled = tower.vision(pixels.to(self.device), pooled_alone=True).pooler_output
        return _normalised(tower.projection(pooled))

    @torch.inference_mode()
    def encode_texts(self, texts: Sequence[str]) -> Vectors:
        """Texts -> normalised (B, D); longer ones than the tower's positions are cut, as in the original."""
        if self.tokenizer is None:
            raise InputError(
                f"{self.text_name}: holds no tokenizer, so texts cannot be read: put its tokenizer files beside "
                "config.json (CLIP's vocab.json and merges.txt), or name a folder that has them"
            )
        if any(not text.strip() for text in texts):
            raise InputError("a text is empty: leave it out")
        ids = self.tokenizer(
            list(texts),
            padding=True,
            padding_side="right",
            truncation=True,
            max_length=self.text.config.max_position_embeddings,
            return_tensors="pt",
        ).to(self.device)
        pooled = self.text(ids["input_ids"], ids["attention_mask"], pooled_alone=True).pooler_output
        return _normalised(self.text_projection(pooled))


def load_encoders(
    *sources: str | Path | Mapping[str, str | Path],
    device: str | None = None,
    dtype: torch.dtype | None = None,
) -> Encoders:
    """The encoders of folders or hub ids (LanguageBind's of any modality, CLIP's, OpenCLIP's, ours), or of a registered
    version ("models:/NAME@champion", "models:/NAME/3").

    A folder of several (ours: models/encoders with image, video, ..), and a version, is all of them; "depth=SOURCE", or
    {"depth": SOURCE}, is that one of them, and takes a folder of pictures' encoder (CLIP, OpenCLIP) for another
    modality. All must be bound to one text space: the text towers' weights must be equal, which is checked. device: a
    GPU where there is one. dtype: of the weights; float32 on a CPU, as saved on a GPU.
    """
    device = choose_device(device)
    dtype = dtype or (torch.float32 if device == "cpu" else None)
    found: Encoders | None = None
    for source in _listed(sources):
        found = _joined(found, source, device, dtype)
    if found is None:
        raise InputError("no encoder named: give a folder or a hub id of one")
    return found


def embed(
    encoders: Encoders,
    files: Iterable[str | Path] | None = None,
    *,
    texts: Iterable[str] | None = None,
    kind: str | None = None,
    batch: int = BATCH,
) -> Vectors:
    """Files, or texts, as normalised float32 vectors (N, D), in order.

    kind: what all files are (image, video, depth, thermal, audio); by default what each one's ending says. InputError
    names a file that cannot be read.
    """
    if (files is None) == (texts is None):
        raise InputError("embed: give files, or texts")
    if isinstance(files, str | Path) or isinstance(texts, str):
        raise InputError("embed: give a list, of one if need be")
    if texts is not None:
        found = list(texts)
        parts = [encoders.encode_texts(found[at : at + batch]) for at in range(0, len(found), batch)]
        return np.concatenate(parts) if parts else np.zeros((0, encoders.dim), np.float32)
    listed = [(Path(file), kind_said(kind) if kind else kind_of(Path(file))) for file in files or ()]
    vectors = np.zeros((len(listed), encoders.dim), np.float32)
    for one in dict.fromkeys(kind for _, kind in listed):
        places = [place for place, (_, of) in enumerate(listed) if of == one]
        for at in range(0, len(places), batch):
            some = places[at : at + batch]
            pixels = stack([encoders.read(listed[place][0], one) for place in some])
            vectors[some] = encoders.encode(one, pixels)
    return vectors


def similarity(a: Vectors, b: Vectors) -> Vectors:
    """Cosines (N, M) of normalised vectors (N, D) and (M, D).

    Summed in float64: equal vectors have equal cosines wherever they stand in the table, so that ties are seen.
    """
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
        raise InputError(f"similarity: vectors of shapes {a.shape} and {b.shape} are not of one space")
    return np.asarray(a.astype(np.float64) @ b.T.astype(np.float64), np.float32)


def text_tower(pair: LanguageBind, tokenizer: Any, device: str = "cpu") -> Encoders:
    """The text tower of a pair that is at hand, and on the device, as `embed` takes it; no encoder of media."""
    return Encoders(
        {},
        pair.text_model,
        pair.text_projection,
        tokenizer,
        space="",
        dim=int(pair.config.projection_dim),
        scale=float(pair.logit_scale.detach().exp()),
        device=device,
    )


@dataclass(frozen=True)
class _Source:
    """One encoder to load. kind: the modality it is asked to be for ("": its own). name: what it was asked for by;
    place: its folder, or a hub id.
    """

    kind: str
    name: str
    place: str


def _listed(sources: Iterable[str | Path | Mapping[str, str | Path]]) -> list[_Source]:
    """Each source by itself."""
    found: list[_Source] = []
    for source in sources:
        if isinstance(source, Mapping):
            for kind, place in source.items():
                found += _within(kind_said(kind), str(place))
            continue
        kind, equals, place = str(source).partition("=")
        found += _within(kind, place) if equals and kind in KINDS else _within("", str(source))
    return found


def _within(kind: str, source: str) -> list[_Source]:
    """The encoder of a source, those of a folder of several, or the one of them of the modality that is asked for."""
    if source.startswith(REGISTERED):
        origin = find_encoders(source, Path())
        _warn_of_code(origin.revision)
        inner = {
            of: _Source(kind, origin.revision, str(place)) for of, place in _inside(origin.folder).items()
        }
    else:
        there = _inside(Path(source).expanduser())
        inner = {of: _Source(kind, str(place), str(place)) for of, place in there.items()}
    if kind and inner:
        if kind not in inner:
            raise InputError(f"{source}: holds no encoder of {kind}, but of {', '.join(inner)}")
        return [inner[kind]]
    return list(inner.values()) or [_Source(kind, source, source)]


def _warn_of_code(version: str) -> None:
    from videollava.registry import find_code

    if find_code(version, Path()).folder is not None:
        warnings.warn(
            f"{version} was made by other code than this, which reads media for its encoders now; `videollava evaluate "
            f"--model {version}` asks them by its own",
            stacklevel=4,
        )


def kinds_in(folder: Path) -> list[str]:
    """The modalities of a folder of several encoders; none where it is one encoder's own, which only loading tells.

    InputError where it holds no encoder.
    """
    found = list(_inside(folder))
    if not found and not _is_one(folder):
        what = "holds no encoder" if folder.is_dir() else "no folder"
        raise InputError(
            f"{folder}: {what}; name one with encoders in image, video, .. (as models/encoders), or an encoder's own"
        )
    return found


def _is_one(folder: Path) -> bool:
    return any((folder / name).is_file() for name in CONFIGS)


def _inside(folder: Path) -> dict[str, Path]:
    """The encoders in a folder that is none itself, by their modality."""
    if _is_one(folder):
        return {}
    return {kind: folder / kind for kind in KINDS if (folder / kind / "config.json").is_file()}


def _joined(found: Encoders | None, asked: _Source, device: str, dtype: torch.dtype | None) -> Encoders:
    """What there is, with one more encoder. InputError where it is bound to another text space."""
    pair, tokenizer = load_encoder(asked.place, asked.kind, device, dtype)
    source, kind = asked.name, asked.kind or pair.config.vision_config.modality
    towers = {} if found is None else found.towers
    if kind in towers:
        raise InputError(
            f"{source}: a second encoder of {kind}, beside {towers[kind].name}: name one of them"
        )
    weights = hash_weights({"vision": pair.vision_model, "projection": pair.visual_projection})
    tower = Tower(source, weights, pair.vision_model, pair.visual_projection)
    space = hash_weights({"text": pair.text_model, "projection": pair.text_projection})
    if found is None:
        return Encoders(
            {kind: tower},
            pair.text_model,
            pair.text_projection,
            tokenizer,
            space,
            int(pair.config.projection_dim),
            float(pair.logit_scale.detach().exp()),
            device,
            source,
        )
    if space != found.space:
        raise InputError(
            f"{source}: bound to another text space than {found.text_name} ({_difference(found, pair)}): vectors of "
            "the two cannot be compared; name encoders that were trained against one frozen text tower"
        )
    found.towers[kind] = tower
    found.tokenizer = found.tokenizer or tokenizer
    return found


def _difference(found: Encoders, pair: LanguageBind) -> str:
    """How two text towers differ, in a few words."""
    ours = {**found.text.state_dict(), "projection": found.text_projection.weight.detach()}
    theirs = {**pair.text_model.state_dict(), "projection": pair.text_projection.weight.detach()}
    if {name: tensor.shape for name, tensor in ours.items()} != {n: t.shape for n, t in theirs.items()}:
        return "its text tower is of another shape"
    gaps = [float((ours[name].float() - theirs[name].float()).abs().max()) for name in ours]
    return f"{sum(gap > 0 for gap in gaps)} of {len(gaps)} text weights differ, by up to {max(gaps):.2g}"


def hash_weights(parts: Mapping[str, nn.Module]) -> str:
    """SHA-256 over names, shapes and float32 values of the weights: equal whatever format they were saved in."""
    digest = hashlib.sha256()
    for part, module in sorted(parts.items()):
        for name, tensor in sorted(module.state_dict().items()):
            values = tensor.detach().to("cpu", torch.float32).contiguous()
            digest.update(f"{part}.{name}{tuple(values.shape)}".encode())
            digest.update(values.numpy().data)
    return digest.hexdigest()


def _normalised(vectors: Tensor) -> Vectors:
    return F.normalize(vectors.float(), dim=-1).cpu().numpy()
