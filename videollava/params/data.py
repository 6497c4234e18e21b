"""The recipe's sections on data: sources, shards, the index."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, field_validator
from pydantic.json_schema import SkipJsonSchema

from videollava.params.bounds import (
    Count,
    Flag,
    Listed,
    OneOrMore,
    Positive,
    Section,
    Share,
    Whole,
)
from videollava.scrub import has_password

__all__ = ["Frames", "Index", "Portion", "Shards", "Source"]

Part = Literal["field"] | Share


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
    senses: Annotated[tuple[Literal["image", "depth", "thermal", "audio"], ...], OneOrMore] = Field(
        (),
        description="kind generated: as what else each scene is there, for `align` and its tests; image: exposed for "
        "as long as the clip is, in the place of a still",
    )
    sized: Flag = Field(
        False, description="kind generated: things are small or large, and captions say which"
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


class Frames(Section):
    """A clip as the frames that training takes of it, instead of its file: decoded once, not once an epoch."""

    count: Whole = Field(
        0, description="frames stored of a clip, as many as model.frames; 0: clips stay the files they are"
    )
    size: Count = Field(64, description="pixels of their side: model.image_size")
    form: Literal["exact", "rounded"] = Field(
        "exact",
        description="exact: the very numbers that decoding and resizing give; rounded: to whole levels of 255, in "
        "about a sixth of the bytes",
    )


class Shards(Section):
    """What becomes of a source's records and media."""

    shard_mib: Count = Field(256, description="size of a shard")
    max_quarantined: Share = Field(0.01, description="share of a source's records that may be unusable")
    frames: Frames = Field(Frames(), description="whether clips are stored as frames")


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
