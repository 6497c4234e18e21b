"""params.yaml as frozen, typed sections; one section a stage, named as the stage.

Unknown or mistyped keys raise InputError with the key and the nearest right one. Derived values
(steps, warm-up steps, visual tokens) are computed here or where they are used, never configured.
"""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from videollava.errors import InputError

__all__ = [
    "Align",
    "Bases",
    "Encoder",
    "Evaluate",
    "Fetch",
    "Gate",
    "Judge",
    "Language",
    "Lora",
    "Model",
    "Params",
    "Prepare",
    "Source",
    "Tracking",
    "Train",
    "load_params",
    "parse_params",
    "profile_names",
    "profile_text",
]

PROFILES = Path(__file__).parent / "profiles"


@dataclass(frozen=True)
class Source:
    """One source of data. `kind` says how it is had; `format` which reader turns it into records.

    package: the data of an installed Python package (`package`).
    generated: clips drawn and encoded on the spot (`train`, `test` clips, `seed`).
    archive: `urls` (s3://, https://, file://) of tar or zip files, each with its sha256.
    """

    name: str
    kind: Literal["package", "generated", "archive"]
    format: Literal["easy-vqa", "clips", "llava"]
    package: str = ""
    train: int = 0
    test: int = 0
    seed: int = 0
    urls: tuple[str, ...] = ()
    sha256: tuple[str, ...] = ()
    annotations: str = ""
    use: Literal["", "align", "pretrain", "finetune"] = ""


@dataclass(frozen=True)
class Fetch:
    sources: tuple[Source, ...] = ()
    workers: int = 2
    retries: int = 5


@dataclass(frozen=True)
class Prepare:
    """`tokenizer`: "train" (byte-level BPE of `vocab_size` from the training text), a folder or a hub id."""

    tokenizer: str = "train"
    vocab_size: int = 512
    max_quarantined: float = 0.01
    shard_mib: int = 256
    workers: int = 2


@dataclass(frozen=True)
class Encoder:
    """A CLIP-style transformer: width, layers, heads and MLP width."""

    width: int = 128
    layers: int = 4
    heads: int = 4
    mlp: int = 512


@dataclass(frozen=True)
class Language:
    """A Llama-style language model, built where `bases.language` is "train"."""

    width: int = 128
    layers: int = 4
    heads: int = 4
    mlp: int = 384
    positions: int = 4096


@dataclass(frozen=True)
class Model:
    image_size: int = 64
    patch_size: int = 8
    frames: int = 8
    embed_dim: int = 128
    temporal_attention: bool = True
    feature_layer: int = -2
    vision: Encoder = field(default_factory=Encoder)
    text: Encoder = field(default_factory=Encoder)
    language: Language = field(default_factory=Language)

    @property
    def patches(self) -> int:
        """Patches of one picture."""
        return (self.image_size // self.patch_size) ** 2

    @property
    def image_tokens(self) -> int:
        """Language-model tokens of one image: the class token is dropped."""
        return self.patches

    @property
    def video_tokens(self) -> int:
        """Language-model tokens of one video: every frame keeps its class token."""
        return self.frames * (self.patches + 1)


@dataclass(frozen=True)
class Bases:
    """Where the base models come from: "train", or a folder, hub id or GGUF file.

    An encoder of "" is learned in `align`.
    """

    language: str = "train"
    image_encoder: str = ""
    video_encoder: str = ""
    epochs: int = 1
    batch_tokens: int = 8192
    learning_rate: float = 1e-3
    precision: Literal["fp32", "bf16"] = "bf16"


@dataclass(frozen=True)
class Align:
    """LanguageBind's contrastive alignment; `images` False takes the published encoders as they are."""

    train: bool = True
    batch_size: int = 64
    video_batch_size: int = 32
    text_batch_size: int = 256
    text_epochs: int = 1
    image_epochs: int = 1
    video_epochs: int = 1
    learning_rate: float = 1e-3
    video_learning_rate: float = 5e-4
    warmup_ratio: float = 0.05
    weight_decay: float = 0.05
    patch_dropout: float = 0.0
    video_patch_dropout: float = 0.5
    flips: tuple[
        str, ...
    ] = ()  # sources whose captions name no place: their pictures are mirrored and turned
    keep_pixels: bool = False  # hold what was decoded in memory (float16)
    precision: Literal["fp32", "bf16"] = "bf16"
    workers: int = 2


@dataclass(frozen=True)
class Lora:
    r: int = 128
    alpha: int = 256
    dropout: float = 0.05


@dataclass(frozen=True)
class Train:
    """A stage of instruction training (`pretrain`, `finetune`)."""

    epochs: int = 1
    batch_size: int = 128
    tokens_per_pack: int = 8192
    learning_rate: float = 1e-3
    projector_learning_rate: float = 0.0  # 0: the same as learning_rate
    warmup_ratio: float = 0.03
    weight_decay: float = 0.0
    clip: float = 1.0
    precision: Literal["fp32", "bf16"] = "bf16"
    image_aspect: Literal["crop", "pad"] = "pad"
    max_text_tokens: int = 2048
    max_tokens: int = 3072
    adapter: Literal["none", "lora", "qlora"] = "none"
    lora: Lora = field(default_factory=Lora)
    deepspeed: Literal["none", "zero2", "zero2-offload", "zero3", "zero3-offload"] = "none"
    gradient_checkpointing: bool = False
    cache_features: bool = False
    checkpoint_steps: int = 50
    workers: int = 2


@dataclass(frozen=True)
class Judge:
    """Who grades open answers. `kind` endpoint: any OpenAI-compatible server; its key comes from the environment.

    per_minute: calls a minute, 0 for no bound. timeout: seconds of one call. price_in, price_out: of a million
    tokens, 0 where unknown. runs: times each answer is graded, where the score averages runs (MM-Vet).
    """

    kind: Literal["none", "endpoint", "local", "replay"] = "none"
    base_url: str = ""
    model: str = ""
    replies: str = ""
    concurrency: int = 4
    retries: int = 5
    max_calls: int = 10_000
    per_minute: float = 0.0
    timeout: float = 60.0
    price_in: float = 0.0
    price_out: float = 0.0
    runs: int = 1


@dataclass(frozen=True)
class Evaluate:
    """`folders`: by benchmark id, the folder with its question and gold files (JSON, JSON lines or tables, named
    as they like and found by content) and its media, in a folder below or beside them. A benchmark without one
    is the split `test-<id>` of the prepared data. limit: only the first questions of each, 0 for all.
    max_new_tokens: for those splits; other benchmarks have their official number.
    """

    benchmarks: tuple[str, ...] = ("easy_vqa", "toy_video_qa")
    folders: Mapping[str, str] = field(default_factory=dict)
    limit: int = 0
    batch_tokens: int = 16384
    max_new_tokens: int = 128
    blind: bool = True
    precision: Literal["fp32", "bf16"] = "bf16"
    workers: int = 2
    judge: Judge = field(default_factory=Judge)


@dataclass(frozen=True)
class Gate:
    """When a new version may become champion: gains and losses in points (percent).

    minimum: the least score by benchmark. minimum_gain: of the mean over all benchmarks. minimum_gains,
    allowed_regressions: by benchmark, the latter in the place of `allowed_regression`. significance: where both
    versions' answers are at hand, a difference counts only if equal models would come as far apart less often than
    this; 0 takes figures as they are.
    """

    minimum: Mapping[str, float] = field(default_factory=dict)
    minimum_gain: float = 0.0
    minimum_gains: Mapping[str, float] = field(default_factory=dict)
    allowed_regression: float = 1.0
    allowed_regressions: Mapping[str, float] = field(default_factory=dict)
    significance: float = 0.05
    minimum_over_blind: float = 10.0


@dataclass(frozen=True)
class Tracking:
    """Where MLflow is; "" takes MLFLOW_TRACKING_URI, else a SQLite store in this checkout."""

    uri: str = ""
    experiment: str = "videollava"
    model: str = "videollava"


@dataclass(frozen=True)
class Params:
    profile: str = "tiny"
    seed: int = 0
    model: Model = field(default_factory=Model)
    fetch: Fetch = field(default_factory=Fetch)
    prepare: Prepare = field(default_factory=Prepare)
    bases: Bases = field(default_factory=Bases)
    align: Align = field(default_factory=Align)
    pretrain: Train = field(default_factory=Train)
    finetune: Train = field(default_factory=Train)
    evaluate: Evaluate = field(default_factory=Evaluate)
    gate: Gate = field(default_factory=Gate)
    tracking: Tracking = field(default_factory=Tracking)


def load_params(path: Path | str = "params.yaml", overrides: Sequence[str] = ()) -> Params:
    """Read `path` and apply `overrides` ("finetune.learning_rate=1e-4"); InputError on any mistake."""
    import yaml

    file = Path(path)
    if not file.is_file():
        raise InputError(f"{file}: not found; write one with `videollava profile tiny`")
    try:
        raw = yaml.safe_load(file.read_text())
    except yaml.YAMLError as error:
        raise InputError(f"{file}: not valid YAML: {error}") from error
    for text in overrides:
        raw = _override(raw or {}, text)
    return parse_params(raw or {}, str(file))


def parse_params(raw: Mapping[str, Any], origin: str = "params.yaml") -> Params:
    """Turn a plain mapping into Params; InputError names the key and the nearest right one."""
    return typing.cast(Params, _build(Params, raw, origin, ""))


def profile_names() -> list[str]:
    """Names of the presets that `videollava profile NAME` can write."""
    return sorted(file.stem for file in PROFILES.glob("*.yaml"))


def profile_text(name: str) -> str:
    """The YAML of one preset, comments included."""
    if name not in profile_names():
        raise InputError(
            f"no profile {name!r}{_nearest(name, profile_names())}; there are: {', '.join(profile_names())}"
        )
    return (PROFILES / f"{name}.yaml").read_text()


def _override(raw: Mapping[str, Any], text: str) -> dict[str, Any]:
    import yaml

    key, mark, value = text.partition("=")
    if not mark or not key:
        raise InputError(f"override {text!r}: write SECTION.KEY=VALUE, such as finetune.learning_rate=1e-4")
    tree = dict(raw)
    node = tree
    *parents, leaf = key.split(".")
    for parent in parents:
        child = node.get(parent) or {}
        if not isinstance(child, Mapping):
            raise InputError(f"override {text!r}: {parent} has no keys below it")
        node[parent] = dict(child)
        node = node[parent]
    node[leaf] = yaml.safe_load(value)
    return tree


def _build(kind: type, raw: Any, origin: str, where: str) -> Any:
    if not isinstance(raw, Mapping):
        raise InputError(
            f"{origin}: {where or 'the file'} must be a mapping of keys, not {type(raw).__name__}"
        )
    hints = typing.get_type_hints(kind)
    for key in raw:
        if key not in hints:
            name = f"{where}.{key}" if where else str(key)
            raise InputError(f"{origin}: unknown key {name!r}{_nearest(str(key), list(hints))}")
    values = {}
    for key, value in raw.items():
        values[key] = _convert(hints[key], value, origin, f"{where}.{key}" if where else key)
    missing = [f.name for f in dataclasses.fields(kind) if _required(f) and f.name not in values]
    if missing:
        raise InputError(f"{origin}: {where or 'the file'} lacks {', '.join(missing)}")
    return kind(**values)


def _required(item: dataclasses.Field[Any]) -> bool:
    return item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING


def _convert(hint: Any, value: Any, origin: str, where: str) -> Any:
    kind = typing.get_origin(hint)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return _build(hint, value, origin, where)
    if kind is Literal:
        return _choose(typing.get_args(hint), value, origin, where)
    if kind is tuple:
        if not isinstance(value, list | tuple):
            raise InputError(f"{origin}: {where} must be a list")
        return tuple(
            _convert(typing.get_args(hint)[0], item, origin, f"{where}[{i}]") for i, item in enumerate(value)
        )
    if kind is not None and issubclass(kind, Mapping):
        if not isinstance(value, Mapping):
            raise InputError(f"{origin}: {where} must be a mapping")
        inner = typing.get_args(hint)[1]
        return types.MappingProxyType(
            {k: _convert(inner, v, origin, f"{where}.{k}") for k, v in value.items()}
        )
    return _scalar(hint, value, origin, where)


def _choose(choices: tuple[Any, ...], value: Any, origin: str, where: str) -> Any:
    if value not in choices:
        near = _nearest(str(value), [str(c) for c in choices])
        raise InputError(f"{origin}: {where} is {value!r}{near}; it may be: {', '.join(map(repr, choices))}")
    return value


def _scalar(hint: Any, value: Any, origin: str, where: str) -> Any:
    # YAML 1.1 reads 1e-4 (no dot) as text: what a person meant by it is a number.
    if hint is float and isinstance(value, str | int) and not isinstance(value, bool):
        try:
            return float(value)
        except ValueError:
            pass
    if hint is int and isinstance(value, int) and isinstance(value, bool):
        raise InputError(f"{origin}: {where} must be int, not {value!r}")
    if not isinstance(value, hint):
        raise InputError(f"{origin}: {where} must be {hint.__name__}, not {value!r}")
    return value


def _nearest(name: str, names: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.4)
    return f" (did you mean {close[0]!r}?)" if close else ""
