"""The original Video-LLaVA's folders: whole models, projectors alone, LoRA folders, and exports to its
layout.

Original: github.com/PKU-YuanGroup/Video-LLaVA, `model_type: llava` with `mm_*` keys. Encoders lie in the file
or in LanguageBind folders named by mm_image_tower and mm_video_tower; the language model of a projector-only
or LoRA folder is its base.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from videollava.errors import InputError
from videollava.model.config import VideoLlavaConfig, read_language, single_layer
from videollava.model.encoders import LanguageBindVisionConfig
from videollava.model.formats import languagebind
from videollava.model.formats.files import (
    Spec,
    Weights,
    find_weights,
    has_weights,
    read_config,
    read_shard,
    write_config,
    write_shard,
)
from videollava.model.formats.hub import locate
from videollava.model.formats.tables import NOT_TIED, Tables, open_tables
from videollava.model.formats.towers import known_tower, read_tower_from
from videollava.model.video_llava import IGNORED

__all__ = ["Source", "expand_marks", "is_original", "open_source", "prepare", "rename"]

log = logging.getLogger(__name__)

MARK = -200  # the original's id of a medium; a video is one for each frame
LANGUAGE = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "vocab_size",
    "max_position_embeddings",
    "hidden_act",
    "initializer_range",
    "rms_norm_eps",
    "rope_theta",
    "rope_scaling",
    "rope_parameters",
    "tie_word_embeddings",
    "attention_bias",
    "mlp_bias",
    "attention_dropout",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "pretraining_tp",
)
SELECT = {"patch": "default", "cls_patch": "full"}
PROJECTOR_FILES = ("mm_projector.bin", "mm_projector.safetensors")
TOWER = re.compile(r"^model\.(image|video)_tower\.\1_tower\.(?:vision_model\.)?(.+)$")
PROJECTOR = re.compile(r"^model\.mm_projector\.(?:(\d+)\.)?(weight|bias)$")
EMBEDDINGS = ("model.embed_tokens.weight", "lm_head.weight")
INV_FREQ = re.compile(r"^model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq$")
Kind = Literal["image", "video"]


def is_original(config: Mapping[str, Any]) -> bool:
    """Whether config.json is one of the original Video-LLaVA's."""
    return any(config.get(f"mm_{kind}_tower") for kind in ("image", "video"))


@dataclass(frozen=True)
class Source:
    """An original checkpoint, its parts found; `shards` gives the weights under our names."""

    config: VideoLlavaConfig
    main: Weights
    tables: Tables = NOT_TIED
    towers: Mapping[Kind, Path] = field(default_factory=dict)  # encoders that lie outside `main`
    projector: Mapping[str, Tensor] = field(default_factory=dict)  # in place of what `main` holds
    tokenizer: Path | None = None
    rows: int = 0  # of the embedding table, where the original widened the base's

    def shards(self) -> Iterator[dict[str, Tensor]]:
        """The weights, a file at a time: main files, then encoders, then a projector of its own."""
        outside = {f"{kind}_tower" for kind in self.towers}
        for tensors in self.main.shards():
            kept = {n: t for n, t in tensors.items() if n.partition(".")[2].split(".")[0] not in outside}
            if self.projector:
                kept = {name: tensor for name, tensor in kept.items() if not PROJECTOR.match(name)}
            yield self.tables.arrange(to_ours({n: self._adapt(n, t) for n, t in kept.items()}, self.config))
        for kind, folder in self.towers.items():
            _, tower = read_tower_from(folder)
            yield {f"model.{kind}_tower.{name}": tensor for name, tensor in tower.items()}
        if self.projector:
            yield to_ours(self.projector, self.config)

    def _adapt(self, name: str, weight: Tensor) -> Tensor:
        if name in EMBEDDINGS and self.rows > len(weight):
            # The original gives the tokens it adds (its <pad>) the mean of the others.
            mean = weight.float().mean(0, keepdim=True).to(weight.dtype)
            weight = torch.cat([weight, mean.expand(self.rows - len(weight), -1)])
        return weight


def open_source(folder: Path, base: Path | str | None = None) -> Source:
    """Find all parts of an original folder, but for its adapter.

    base: the language model, or whole model, under a LoRA or projector-only folder; by default the one it
    names.
    """
    config = read_config(folder)
    main_folder = folder if has_weights(folder) else find_base(folder, config, base)
    main = find_weights(main_folder)
    specs = main.specs()
    towers, encoders = _find_towers(folder, config, specs)
    language = read_language({name: config[name] for name in LANGUAGE if name in config})
    below = read_config(main_folder) if (main_folder / "config.json").is_file() else {}
    language.tie_word_embeddings = language.tie_word_embeddings or bool(below.get("tie_word_embeddings"))
    _take_rows(language, specs, folder, narrower=main_folder != folder)
    ours = ours_config(config, language, encoders, _buffers(specs))
    return Source(
        config=ours,
        main=main,
        tables=open_tables(ours, main, rename),
        towers=towers,
        projector=_read_projector(folder),
        tokenizer=next(
            (f for f in (folder, main_folder) if (f / "tokenizer_config.json").is_file()), main_folder
        ),
        rows=int(language.vocab_size) if main_folder != folder else 0,
    )


def _take_rows(language: Any, specs: Mapping[str, Spec], folder: Path, narrower: bool) -> None:
    """The vocabulary that the weights have, where a config was left behind when tokens were added.

    narrower: whether the base may have fewer, the original having widened it.
    """
    rows = {specs[name][1][0] for name in EMBEDDINGS if name in specs}
    if len(rows) != 1 or rows == {language.vocab_size}:
        return
    found = rows.pop()
    if found < language.vocab_size and narrower:
        return
    log.warning(
        "%s: config.json says vocab_size %d, its weights have %d rows: the weights hold",
        folder,
        language.vocab_size,
        found,
    )
    language.vocab_size = found


def find_base(folder: Path, config: Mapping[str, Any], base: Path | str | None) -> Path:
    """The folder of the base model that a LoRA or projector-only folder needs."""
    adapter = folder / "adapter_config.json"
    named = read_config(folder, adapter.name).get("base_model_name_or_path") if adapter.is_file() else None
    name = base or named or config.get("_name_or_path")
    found = locate(str(name), folder) if name else None
    if found is None:
        kind = "a LoRA adapter" if adapter.is_file() else "a projector"
        raise InputError(
            f"{folder}: holds {kind} and no whole model; its base {name!r} is not here: give the folder of "
            f"the "
            "language model it was trained on as `base`"
        )
    return found


def _read_projector(folder: Path) -> dict[str, Tensor]:
    """mm_projector.bin's tensors, whose names come with or without what lies before `mm_projector`."""
    file = next((folder / name for name in PROJECTOR_FILES if (folder / name).is_file()), None)
    if file is None:
        return {}
    tensors = read_shard(file)
    return {
        "model." + name[name.index("mm_projector") :]: t
        for name, t in tensors.items()
        if "mm_projector" in name
    }


def holds_projector_alone(folder: Path) -> bool:
    """Whether this is what stage 1 of the original leaves: mm_projector.bin, and no whole model."""
    return any((folder / name).is_file() for name in PROJECTOR_FILES) and not has_weights(folder)


def write_projector(source: Path, folder: Path) -> None:
    """mm_projector.bin as a projector of ours: projector.safetensors and projector.json."""
    renamed = {rename(name): tensor for name, tensor in _read_projector(source).items()}
    weights = {name.removeprefix("model.multi_modal_projector."): t for name, t in renamed.items()}
    kind = "linear" if len(weights) == 2 else f"mlp{len(weights) // 2}x_gelu"
    write_shard(weights, folder / "projector.safetensors")
    write_config({"projector_type": kind}, folder, "projector.json")


def _find_towers(
    folder: Path, config: Mapping[str, Any], specs: Mapping[str, Spec]
) -> tuple[dict[Kind, Path], dict[Kind, LanguageBindVisionConfig]]:
    outside: dict[Kind, Path] = {}
    shapes: dict[Kind, LanguageBindVisionConfig] = {}
    kinds: tuple[Kind, ...] = ("image", "video")
    for kind in kinds:
        name = config.get(f"mm_{kind}_tower")
        if not name:
            continue
        inside = {m[2]: spec for key, spec in specs.items() if (m := TOWER.match(key)) and m[1] == kind}
        place = locate(str(name), folder)
        if not inside:
            if place is None:
                raise InputError(
                    f"{folder}/config.json: mm_{kind}_tower is {name!r}; its weights are not in the "
                    f"checkpoint, and no "
                    f"such folder is here: fetch it (`hf download {name} --local-dir "
                    f"{folder / Path(name).name}`)"
                )
            outside[kind] = place
        shapes[kind] = _tower_config(kind, config, place, str(name), inside)
    return outside, shapes


def _tower_config(
    kind: Kind, config: Mapping[str, Any], place: Path | None, name: str, inside: Mapping[str, Spec]
) -> LanguageBindVisionConfig:
    if config.get(f"{kind}_tower_config"):
        given: Mapping[str, Any] = config[f"{kind}_tower_config"]
        shape = languagebind.vision_config(given)
    elif place is not None:
        shape, _ = read_tower_from(place, weights=False)
    else:
        shape = known_tower(name, inside)
    shape.modality = kind
    return shape


def ours_config(
    config: Mapping[str, Any],
    language: Any,
    towers: Mapping[Kind, LanguageBindVisionConfig],
    buffers: Mapping[str, str],
) -> VideoLlavaConfig:
    """Our config of an original config.json; the original is kept inside it, for the way back."""
    select = config.get("mm_vision_select_feature", "patch")
    if select not in SELECT:
        raise InputError(f"mm_vision_select_feature {select!r} is not known; it may be {', '.join(SELECT)}")
    if "mpt" in str(config.get("architectures", "")).lower():
        raise InputError("this checkpoint's language model is MPT; Llama architectures alone are supported")
    if config.get("mm_use_im_start_end"):
        log.warning(
            "this checkpoint was trained with start and end marks around media, which prompts here lack"
        )
    some = next(iter(towers.values()))
    return VideoLlavaConfig(
        vision_config=towers.get("image", some),
        video_config=towers.get("video", some),
        text_config=language,
        tie_word_embeddings=language.tie_word_embeddings,
        towers=tuple(towers),
        projector_type=config.get("mm_projector_type", "linear"),
        vision_feature_layer=single_layer(config.get("mm_vision_select_layer", -2)),
        vision_feature_select_strategy=SELECT[select],
        original_config=json.dumps(config),  # text, so that it comes back letter by letter
        original_buffers=dict(buffers),
    )


def _buffers(specs: Mapping[str, Spec]) -> dict[str, str]:
    """What the original saved though it is computed (position ids, rotary frequencies), with types."""
    return {name: spec[0] for name, spec in specs.items() if _is_buffer(name)}


def _is_buffer(name: str) -> bool:
    return name.endswith("embeddings.position_ids") or INV_FREQ.match(name) is not None


def to_ours(tensors: Mapping[str, Tensor], config: VideoLlavaConfig) -> dict[str, Tensor]:
    """Original names to ours; LoRA inside encoders is merged, computed buffers are left out."""
    renamed: dict[str, Tensor] = {}
    towers: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if _is_buffer(name):
            continue
        if match := TOWER.match(name):
            towers.setdefault(match[1], {})[match[2]] = tensor
        else:
            renamed[rename(name)] = tensor
    source: Mapping[str, Any] = json.loads(getattr(config, "original_config", "{}"))
    for kind, tower in towers.items():
        shape = config.vision_config if kind == "image" else config.video_config
        given = source.get(f"{kind}_tower_config") or {}
        for name, tensor in languagebind.convert_tower(tower, given, shape).items():
            renamed[f"model.{kind}_tower.{name}"] = tensor
    return renamed


def rename(name: str) -> str:
    """A name of the original's as ours."""
    if match := PROJECTOR.match(name):
        number = int(match[1] or 0) // 2 + 1
        return f"model.multi_modal_projector.linear_{number}.{match[2]}"
    if match := TOWER.match(name):
        return f"model.{match[1]}_tower.{match[2]}"
    if name.startswith(("model.layers.", "model.embed_tokens.", "model.norm.")):
        return name.replace("model.", "model.language_model.", 1)
    return name


def expand_marks(
    config: VideoLlavaConfig,
    input_ids: Sequence[int],
    media: Sequence[Tensor],
    labels: Sequence[int] | None = None,
) -> tuple[list[int], list[int]]:
    """The original's ids (-200 a picture or a frame) and labels with every visual token in its place.

    media: images (C, H, W) and clips (C, T, H, W) in order; a clip takes as many marks as it has frames.
    """
    spans: list[tuple[int, int]] = []
    for medium in media:
        if medium.ndim == 3:
            spans.append((config.image_token_id, config.image_tokens))
        else:
            spans += [(config.video_token_id, config.video_tokens(1))] * medium.shape[1]
    if list(input_ids).count(MARK) != len(spans):
        raise InputError(
            f"{list(input_ids).count(MARK)} media marks in the ids, the media given need {len(spans)}"
        )
    ids: list[int] = []
    targets: list[int] = []
    queue = iter(spans)
    for number, token in enumerate(input_ids):
        placeholder, count = next(queue) if token == MARK else (token, 1)
        ids += [placeholder] * count
        learned = IGNORED if labels is None or token == MARK else labels[number]
        targets += [learned] * count
    return ids, targets


def prepare(
    config: VideoLlavaConfig, input_ids: Tensor, media: Sequence[Tensor], labels: Tensor | None = None
) -> dict[str, Tensor]:
    """Inputs of our forward from a sample of the original's: ids (T,), labels (T,), media as expand_marks."""
    ids, targets = expand_marks(
        config, input_ids.tolist(), media, None if labels is None else labels.tolist()
    )
    inputs = {"input_ids": torch.tensor([ids])}
    if labels is not None:
        inputs["labels"] = torch.tensor([targets])
    images = [medium for medium in media if medium.ndim == 3]
    clips = [languagebind.frames_first(medium) for medium in media if medium.ndim == 4]
    if images:
        inputs["pixel_values_images"] = torch.stack(images)
    if clips:
        inputs["pixel_values_videos"] = torch.stack(clips)
    return inputs
