"""params.yaml as frozen, typed sections; one section a stage, named as the stage.

Derived values (steps, warm-up steps, visual tokens) are computed here or where they are used, never configured.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from videollava.params.bounds import (
    Amount,
    Count,
    Flag,
    Fraction,
    OneOrMore,
    Positive,
    Rate,
    Registered,
    Section,
    Share,
    Whole,
    Words,
)
from videollava.params.data import Frames, Index, Portion, Shards, Source
from videollava.params.geometry import Encoder, Language, Model

__all__ = [
    "Align",
    "Bases",
    "Encoder",
    "Evaluate",
    "Frames",
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
    "Tower",
    "Tracking",
    "Train",
]

Precision = Literal["fp32", "bf16"]
# A share, or what records say of themselves.
SOURCE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*$")


class Bases(Section):
    """What training starts from: a whole model, or a language model and encoders."""

    model: str = Field(
        "",
        description="a whole Video-LLaVA to go on from: a folder, a hub id (owner/name, owner/name@revision) or "
        'models:/NAME@champion; "": from parts',
    )
    language: str = Field("train", description='"train", a folder, a hub id, a GGUF file or package:NAME')
    image_encoder: str = Field(
        "", description='a folder or hub id: what `align` begins with or takes; "": nothing'
    )
    video_encoder: str = Field(
        "",
        description='a folder or hub id: what `align` begins with or takes; "": the encoder of pictures, as learned',
    )
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


class Tower(Section):
    """The encoder of depth, thermal (pictures) or audio, which the language model does not see."""

    encoder: str = Field(
        "",
        description="a folder or hub id: what it begins as, or is where align.train is false; "
        '"": the encoder of pictures, as that has learned',
    )
    epochs: Whole = Field(1, description="passes over its media")
    batch_size: Annotated[Count, Field(ge=2)] = Field(64, description="its media of a step")
    learning_rate: Rate = Field(5e-4, description="AdamW's at its peak")
    patch_dropout: Fraction = Field(0.5, description="share of a medium's patches left out in training")


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
    spaces: Literal["shared", "separate"] = Field(
        "shared",
        description="shared: pictures and clips are bound to one language encoder; separate: to two that were learned "
        "apart, all else equal: the control of the claim that alignment helps (make claims)",
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
    zero_shot: Words = Field(
        (),
        description="what an encoder is asked as often while it learns: ids of zero-shot sets of its modality "
        "(`videollava zero-shot` lists them; folders in evaluate.folders), or toy_pairs",
    )
    zero_shot_media: Whole = Field(
        2000, description="media of each such set that are asked, drawn by seed where it has more; 0: all"
    )
    warmup_ratio: Share = Field(0.05, description="share of the steps in which the rate rises")
    weight_decay: Share = Field(0.05, description="AdamW's, for matrices")
    patch_dropout: Fraction = Field(0.0, description="share of a picture's patches left out in training")
    video_patch_dropout: Fraction = Field(0.5, description="share of a clip's patches left out in training")
    towers: Mapping[Literal["depth", "thermal", "audio"], Tower] = Field(
        {},
        description="by modality (depth, thermal, audio) the encoders that are bound beside those of pictures and "
        "clips; `depth: {}` is one with all defaults",
    )
    flips: Words = Field(
        (), description="sources whose captions name no place: pictures are mirrored and turned"
    )
    keep_pixels: Flag = Field(False, description="hold what was decoded in memory (float16)")
    least_learned: Share = Field(
        0.1,
        description="of the way from the loss of guessing to that of knowing, what each part must go: else it fails",
    )
    precision: Precision = Field("bf16", description="what is computed in")

    @model_validator(mode="after")
    def _asked_while_it_learns(self) -> Self:
        if self.zero_shot and self.train and not self.validations:
            raise ValueError(
                "zero_shot names sets, and validations is 0, so that none would be asked: raise validations, or name "
                "them in evaluate.zero_shot alone"
            )
        return self

    @model_validator(mode="after")
    def _own_spaces(self) -> Self:
        if self.spaces == "separate" and (not self.train or self.language != "learned"):
            raise ValueError(
                "spaces is separate, which learns two language encoders here: train must be true and language learned"
            )
        return self


class Lora(Section):
    """The low-rank adapter on the language model."""

    r: Count = Field(128, description="rank")
    alpha: Count = Field(256, description="scale: updates count alpha / r")
    dropout: Fraction = Field(0.05, description="of the adapter's input")


class Train(Section):
    """A stage of instruction training (`pretrain`, `finetune`)."""

    epochs: Count = Field(1, description="passes over the records")
    media: Annotated[tuple[Literal["image", "video"], ...], OneOrMore] = Field(
        (),
        description="kinds of media that it learns from: [image] leaves samples with clips out, [video] those with "
        "pictures; none: all",
    )
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
        1,
        description="passes over the records; 0: take the projector of bases.model as it is, or without one leave "
        "stage 1 out: stage 2 begins with a projector that has learned nothing",
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
    zero_shot: Words = Field(
        (),
        description="what models/encoders are asked by themselves: ids (`videollava zero-shot` lists them), or "
        "toy_pairs, the test of generated scenes",
    )
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

    def zero_shot_folder(self, name: str) -> str:
        """A zero-shot set's: NAME.zero_shot where questions have a folder of that name, else NAME; "": it has none."""
        return self.folders.get(f"{name}.zero_shot", self.folders.get(name, ""))


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
        return self

    @model_validator(mode="after")
    def _stores_what_is_read(self) -> Self:
        stored, model = self.shards.frames, self.model
        if stored.count and (stored.count, stored.size) != (model.frames, model.image_size):
            raise ValueError(
                f"shards.frames stores {stored.count} frames of {stored.size} pixels, and model takes {model.frames} "
                f"of {model.image_size} (model.frames, model.image_size): write the same in both, or "
                "shards.frames.count: 0, which keeps the clips"
            )
        return self
