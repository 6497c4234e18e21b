"""params.yaml as frozen, typed sections; one section a stage, named as the stage.

Derived values (steps, warm-up steps, visual tokens) are computed here or where they are used, never configured.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator
from pydantic.json_schema import SkipJsonSchema

from videollava.params.bounds import (
    Amount,
    Count,
    Flag,
    Fraction,
    Listed,
    OneOrMore,
    Positive,
    Rate,
    Registered,
    Section,
    Share,
    Whole,
    Words,
)
from videollava.scrub import has_password

__all__ = [
    "Align",
    "Bases",
    "Encoder",
    "Evaluate",
    "Index",
    "Judge",
    "Language",
    "Lora",
    "Model",
    "Params",
    "Portion",
    "Pretrain",
    "Shards",
    "Source",
    "Tracking",
    "Train",
]

Precision = Literal["fp32", "bf16"]
# A share, or what records say of themselves.
Part = Literal["field"] | Share
SOURCE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*$")


class Source(Section):
    """One source of data. `kind` says how it is had; `format` which reader turns it into records.

    package: the data of an installed Python package (`package`).
    generated: clips drawn and encoded on the spot (`train`, `test` clips, `seed`).
    archive: `urls` (s3://, https://, file://) of tar or zip files, annotations, media; one of s3 that ends in / means
    every object below it. `${NAME}` in an address is a variable of the environment: passwords are written so, since
    git, DVC and MLflow keep this file. Of stores of S3 `endpoint`, `region`, `profile` and `unsigned` say how they are
    reached, where the environment (AWS_ENDPOINT_URL, AWS_PROFILE, ..) does not.
    folder: the files below `path`, read where they lie.
    hub: a data set or a model of the Hugging Face hub (`repo`, `revision`, `files`).
    """

    name: SkipJsonSchema[str] = Field("", exclude=True)  # its key in `sources`
    kind: Literal["package", "generated", "archive", "folder", "hub"] = Field(
        description="how the data are had"
    )
    format: Literal[
        "auto", "easy-vqa", "clips", "llava", "valley", "video-chatgpt", "messages", "jsonl", "webdataset"
    ] = Field(description="which reader turns them into records; auto: as the first records look")
    package: str = Field("", description="kind package: the installed Python package")
    train: Whole = Field(0, description="kind generated: training clips")
    test: Whole = Field(0, description="kind generated: test clips")
    seed: Whole = Field(0, description="kind generated: what the clips are drawn from")
    senses: Annotated[tuple[Literal["depth", "thermal", "audio"], ...], OneOrMore] = Field(
        (), description="kind generated: as what else each scene is there, for `align`"
    )
    urls: Annotated[tuple[str, ...], Listed] = Field(
        (), description="kind archive: addresses of files; s3://BUCKET/PREFIX/ is every object below it"
    )
    sha256: Annotated[tuple[str, ...], Listed] = Field(
        (),
        description="of each address in its order, the annotations' last; none: the first download notes it",
    )
    annotations: str = Field(
        "", description="address of the annotations, where they lie outside the archives"
    )
    endpoint: str = Field(
        "", description="kind archive: of the store that s3:// means, such as https://host:9000"
    )
    region: str = Field("", description="kind archive: of the store")
    profile: str = Field("", description="kind archive: whose credentials of ~/.aws to use for the store")
    unsigned: bool = Field(False, description="kind archive: ask the store without credentials")
    path: str = Field("", description="kind folder: the folder, from this checkout on or absolute")
    repo: str = Field("", description="kind hub: ORGANISATION/NAME")
    revision: str = Field("main", description="kind hub: branch, tag or commit, locked at first sight")
    files: Annotated[tuple[str, ...], OneOrMore] = Field(
        (), description="kind hub: patterns of the paths to take, such as images/*.zip; none: all"
    )
    repo_type: Literal["dataset", "model"] = Field("dataset", description="kind hub: what it is on the hub")
    licence: str = Field(
        "",
        description="under which the data may be used, for the data card; a package's own where that says it",
    )
    strip: Annotated[tuple[str, ...], OneOrMore] = Field(
        (), description="folder or folders that annotations put before the names of members, such as coco/"
    )
    prefix: str = Field("", description="folder of the members that annotations leave out, such as images/")
    use: Literal["", "align", "pretrain", "finetune", "benchmark"] = Field(
        "",
        description='the one stage that reads it; "" as its format says; benchmark: for evaluate.folders',
    )

    @field_validator("urls", "annotations")
    @classmethod
    def _no_password(cls, value: tuple[str, ...] | str) -> tuple[str, ...] | str:
        for address in [value] if isinstance(value, str) else value:
            if has_password(address):
                host = address.rpartition("@")[2].partition("/")[0]
                raise ValueError(
                    f"the address at {host} holds a password or a token, and git, DVC and MLflow keep params.yaml; "
                    "write ${NAME} in its place and set that variable in the environment, or leave user and "
                    "password out and name the host in ~/.netrc"
                )
        return value


class Shards(Section):
    """What becomes of a source's records and media."""

    shard_mib: Count = Field(256, description="size of a shard")
    max_quarantined: Share = Field(0.01, description="share of a source's records that may be unusable")


class Portion(Section):
    """What of one source is tested and held out, and how much of it is trained on."""

    test: Part = Field(
        "field",
        description="share of its media whose records are its test (the benchmark of its name); field: as records say",
    )
    valid: Part = Field(
        "field",
        description="share that is held out to measure the loss on; field: as records say, and index.held_out fills up",
    )
    weight: Annotated[Positive, Field(le=1000)] = Field(
        1.0, description="times an epoch that a sample is trained on; 0.5: half of the samples, once"
    )
    most: Whole = Field(0, description="samples of a stage, at most; 0: all")


class Index(Section):
    """What of all sources is trained on and asked, in which tokens."""

    tokenizer: str = Field(
        "train",
        description='"train": byte-level BPE of the training text; else that of a folder, a hub id, package:NAME or '
        "models:/NAME@champion",
    )
    vocab_size: Count = Field(512, description="tokens of a trained tokenizer")
    held_out: Whole = Field(
        256,
        description="samples of a stage that its loss is measured on and that no training sees, "
        "at most one in 50; 0: none",
    )
    near: Annotated[Whole, Field(le=3)] = Field(
        3,
        description="bits of 64 in which media that look alike may differ: they stay on one side of a test; 0: only "
        "the same bytes are alike",
    )
    sources: Mapping[str, Portion] = Field(
        {}, description="by source, what of it is tested and held out, and how much of it is trained on"
    )


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


class Bases(Section):
    """What training starts from: a whole model, or a language model and encoders."""

    model: str = Field(
        "",
        description="a whole Video-LLaVA to go on from: a folder, a hub id (owner/name, owner/name@revision) or "
        'models:/NAME@champion; "": from parts',
    )
    language: str = Field("train", description='"train", a folder, a hub id, a GGUF file or package:NAME')
    image_encoder: str = Field("", description='a folder or hub id; "": learned in `align`')
    video_encoder: str = Field("", description='a folder or hub id; "": learned in `align`')
    epochs: Count = Field(1, description="passes over the texts, where the language model is trained here")
    batch_tokens: Count = Field(8192, description="tokens of a step")
    learning_rate: Rate = Field(1e-3, description="AdamW's, at its peak")
    precision: Precision = Field("bf16", description="what is computed in")

    @model_validator(mode="after")
    def _whole_or_parts(self) -> Self:
        parts = {
            "language": self.language != "train",
            "image_encoder": self.image_encoder,
            "video_encoder": self.video_encoder,
        }
        named = [name for name, given in parts.items() if given]
        if self.model and named:
            raise ValueError(f"model brings its own {', '.join(named)}: leave what it brings out, or model")
        return self


class Align(Section):
    """LanguageBind's contrastive alignment; `train` False takes the published encoders as they are."""

    train: Flag = Field(
        True, description="false: take bases.image_encoder and bases.video_encoder as they are"
    )
    batch_size: Annotated[Count, Field(ge=2)] = Field(64, description="pictures of a step")
    video_batch_size: Annotated[Count, Field(ge=2)] = Field(32, description="clips of a step")
    text_batch_size: Annotated[Count, Field(ge=2)] = Field(256, description="captions of a step")
    text_epochs: Whole = Field(1, description="passes over the captions, by the text encoder alone")
    image_epochs: Whole = Field(1, description="passes over the pictures")
    video_epochs: Whole = Field(1, description="passes over the clips")
    language: str = Field(
        "learned",
        description="the language encoder: learned here from the captions, or taken and frozen: a folder or hub id of "
        "LanguageBind, CLIP or OpenCLIP, with its tokenizer",
    )
    loss: Literal["softmax", "sigmoid"] = Field(
        "softmax",
        description="CLIP's, which names the right one of all; SigLIP's, which judges each combination",
    )
    micro_batch: Whole = Field(
        0,
        description="pairs of a rank encoded at once: the loss stays that of the whole batch, its gradients cached "
        "(less memory, a second forward pass); 0: all",
    )
    learning_rate: Rate = Field(1e-3, description="AdamW's at its peak, for texts and pictures")
    video_learning_rate: Rate = Field(5e-4, description="AdamW's at its peak, for clips")
    layer_decay: Annotated[Rate, Field(le=1)] = Field(
        1.0, description="of a vision encoder: the rate of each layer is that of the one above, times this"
    )
    lora_r: Whole = Field(
        0,
        description="rank of the adapters in a vision encoder's attention (LanguageBind: 2); 0: it learns whole",
    )
    lora_alpha: Count = Field(16, description="scale: the adapters' updates count lora_alpha / lora_r")
    validations: Whole = Field(
        0,
        description="times a run that retrieval over the held-out pairs is measured, the last step among them",
    )
    warmup_ratio: Share = Field(0.05, description="share of the steps in which the rate rises")
    weight_decay: Share = Field(0.05, description="AdamW's, for matrices")
    patch_dropout: Fraction = Field(0.0, description="share of a picture's patches left out in training")
    video_patch_dropout: Fraction = Field(0.5, description="share of a clip's patches left out in training")
    flips: Words = Field(
        (), description="sources whose captions name no place: pictures are mirrored and turned"
    )
    keep_pixels: Flag = Field(False, description="hold what was decoded in memory (float16)")
    least_learned: Share = Field(
        0.1,
        description="of the way from the loss of guessing to that of knowing, what each part must go: else it fails",
    )
    precision: Precision = Field("bf16", description="what is computed in")


class Lora(Section):
    """The low-rank adapter on the language model."""

    r: Count = Field(128, description="rank")
    alpha: Count = Field(256, description="scale: updates count alpha / r")
    dropout: Fraction = Field(0.05, description="of the adapter's input")


class Train(Section):
    """A stage of instruction training (`pretrain`, `finetune`)."""

    epochs: Count = Field(1, description="passes over the records")
    batch_size: Count = Field(128, description="records of a step, over all ranks")
    learning_rate: Rate = Field(1e-3, description="AdamW's at its peak")
    projector_learning_rate: Amount = Field(0.0, description="the projector's; 0: learning_rate")
    warmup_ratio: Share = Field(0.03, description="share of the steps in which the rate rises")
    weight_decay: Share = Field(0.0, description="AdamW's")
    clip: Amount = Field(1.0, description="gradient norm that is cut to; 0: not cut")
    precision: Precision = Field("bf16", description="what is computed in")
    image_aspect: Literal["crop", "pad"] = Field("pad", description="how a picture becomes a square")
    max_text_tokens: Count = Field(2048, description="longer text is cut at its end; media never are")
    max_tokens: Count = Field(
        3072,
        description="longest sample, visual tokens included (model.language.positions bounds it too): text is cut",
    )
    adapter: Literal["none", "lora", "qlora"] = Field(
        "none", description="what of the language model learns; qlora holds it in 4 bits (bitsandbytes)"
    )
    lora: Lora = Field(Lora(), description="the adapter's size")
    validations: Whole = Field(
        10, description="times a run that the loss on what is held out is measured, the last step among them"
    )
    take: Literal["last", "best"] = Field(
        "last",
        description="the weights it ends with: of the last step, or of the validation with the lowest held-out loss",
    )
    cache_features: Flag = Field(
        False, description="keep the frozen encoders' outputs instead of computing them anew"
    )


class Pretrain(Train):
    """Stage 1, which may also be left out where the model that is gone on from brings a projector."""

    epochs: Whole = Field(
        1, description="passes over the records; 0: take the projector of bases.model as it is"
    )


class Judge(Section):
    """Who grades open answers; an endpoint's key comes from the environment."""

    kind: Literal["none", "endpoint", "local", "replay"] = Field(
        "none", description="endpoint: any OpenAI-compatible server; replay: replies from a file"
    )
    base_url: str = Field("", description="kind endpoint: its address, such as https://host/v1")
    model: str = Field(
        "", description="kind endpoint: the model's name there; kind local: a folder or hub id"
    )
    replies: str = Field("", description="kind replay: the file")
    concurrency: Annotated[Count, Field(le=1024)] = Field(4, description="calls at a time")
    retries: Annotated[Whole, Field(le=1000)] = Field(5, description="further calls for one answer")
    max_calls: Whole = Field(10_000, description="calls in all")
    per_minute: Amount = Field(0.0, description="calls a minute; 0: no bound")
    timeout: Annotated[Positive, Field(le=86_400)] = Field(60.0, description="seconds of one call")
    price_in: Amount = Field(0.0, description="of a million tokens sent; 0: unknown")
    price_out: Amount = Field(0.0, description="of a million tokens received; 0: unknown")
    runs: Annotated[Count, Field(le=1000)] = Field(
        1, description="times each answer is graded, where the score averages runs (MM-Vet)"
    )
    reader: Literal["official", "tolerant"] = Field(
        "official",
        description="tolerant: also replies in code fences, after reasoning, in words; named in the score",
    )
    max_unread: Share = Field(
        0.05, description="share of answers without a readable reply, above which judging stops"
    )
    max_tokens: Whole = Field(
        0, description="of a reply; 0: what the prompt needs (judges that reason need thousands)"
    )
    key_header: Annotated[str, Field(pattern=r"^[A-Za-z0-9-]*$")] = Field(
        "", description='header for the key; "": Authorization: Bearer, at Azure api-key'
    )


class Evaluate(Section):
    """Which benchmarks, on what files, at what size."""

    benchmarks: Words = Field(("easy_vqa", "toy_video_qa"), description="ids, in the report's order")
    folders: Mapping[str, str] = Field(
        {},
        description="by benchmark, the folder with its files and media (data/raw/NAME: a source of use benchmark); "
        "without one: the split test-<id>",
    )
    metrics: Mapping[str, Literal["exact", "choice", "soft", "judge"]] = Field(
        {},
        description="by source, how its own test is scored; without one: choice where its questions have choices, soft "
        "where they have several answers, else exact",
    )
    limit: Whole = Field(0, description="only the first questions of each; 0: all")
    max_new_tokens: Count = Field(
        128, description="for own splits; other benchmarks have their official number"
    )
    blind: Flag = Field(True, description="ask again without the media, to see what they were worth")
    precision: Precision = Field("bf16", description="what is computed in")
    judge: Judge = Field(Judge(), description="who grades open answers")


class Tracking(Section):
    """Where MLflow is."""

    uri: str = Field("", description='"": MLFLOW_TRACKING_URI, else a SQLite store in this checkout')
    experiment: Annotated[str, Field(min_length=1)] = Field("videollava", description="MLflow experiment")
    model: Registered = Field("videollava", description="registered model")


def _named(value: Any) -> Any:
    """Each source knows its name: the key it stands under."""
    if not isinstance(value, Mapping):
        return value
    for name, entry in value.items():
        if not isinstance(name, str) or not SOURCE_NAME.match(name):
            raise ValueError(f"{name!r}: a source's name is made of letters, digits, _ and -")
        if isinstance(entry, Mapping) and entry.get("name", name) != name:
            raise ValueError(f"{name}.name is {entry['name']!r}: the key is its name; leave it out")
    return {
        name: {**entry, "name": name}
        if isinstance(entry, Mapping)
        else entry.replace(name=name)
        if isinstance(entry, Source)
        else entry
        for name, entry in value.items()
    }


class Params(Section):
    """All of params.yaml."""

    profile: str = Field("tiny", description="the preset this began as")
    seed: Annotated[Whole, Field(le=2**32 - 1)] = Field(0, description="of weights, order and augmentation")
    model: Model = Field(Model(), description="the model that is built")
    sources: Annotated[Mapping[str, Source], BeforeValidator(_named)] = Field(
        {}, description="where the data come from, by name: of a folder, a test split, records in reports"
    )
    shards: Shards = Field(Shards(), description="stage: a source's archives to shards")
    index: Index = Field(Index(), description="stage: all shards to one index")
    bases: Bases = Field(Bases(), description="stage: what training starts from")
    align: Align = Field(Align(), description="stage: encoders bound to language")
    pretrain: Pretrain = Field(Pretrain(), description="stage 1: the projector learns")
    finetune: Train = Field(Train(), description="stage 2: projector and language model learn")
    evaluate: Evaluate = Field(Evaluate(), description="stage: scores and report")
    tracking: Tracking = Field(Tracking(), description="where runs and versions are written down")

    @model_validator(mode="after")
    def _starts_from_something(self) -> Self:
        if self.bases.model and self.align.train:
            raise ValueError(
                "align.train is true, and the encoders come from bases.model: set align.train to false"
            )
        if not self.pretrain.epochs and not self.bases.model:
            raise ValueError(
                "pretrain.epochs is 0, and there is no bases.model whose projector could be taken"
            )
        return self
