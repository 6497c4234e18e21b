"""Small real media and archives for the tests of the data room."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from videollava.machine import DEFAULTS, Machine
from videollava.params import Index, Model, Params, Shards, Source

CLIPS = Source(name="toy_clips", kind="generated", format="clips", train=12, test=8, seed=3)


def png(seed: int = 0, width: int = 20, height: int = 12) -> bytes:
    """A picture of noise."""
    pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def mp4(seed: int = 0, frames: int = 5) -> bytes:
    """A clip of noise, H.264, 32 x 48."""
    from videollava.data.toy.drawing import encode

    return encode(np.random.default_rng(seed).integers(0, 255, (frames, 48, 32, 3), np.uint8), 8)


def tar(path: Path, members: Mapping[str, bytes]) -> Path:
    """A plain tar."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def llava(name: str, **media: Any) -> dict[str, Any]:
    """A record of LLaVA's format with a question on each of its media."""
    paths = {kind: [path] if isinstance(path, str) else path for kind, path in media.items()}
    marks = "".join(f"<{kind}>\n" for kind in paths for _ in paths[kind])
    turns = [{"from": "human", "value": f"{marks}what is it?"}, {"from": "gpt", "value": f"it is {name}"}]
    return {"id": name, **media, "conversations": turns}


def lines(path: Path, items: list[Any]) -> Path:
    """JSON lines; a text stands as it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join((item if isinstance(item, str) else json.dumps(item)) + "\n" for item in items))
    return path


def archive_source(*files: Path, name: str = "mine", use: str = "finetune", annotations: str = "") -> Source:
    """A source of local files, each with its sha256."""
    return Source(
        name=name,
        kind="archive",
        format="llava",
        urls=tuple(file.as_uri() for file in files),
        sha256=tuple(hashlib.sha256(file.read_bytes()).hexdigest() for file in files),
        annotations=annotations,
        use=use,  # type: ignore[arg-type]
    )


def params(*sources: Source, **settings: Any) -> Params:
    """Small parameters: a picture is 4 tokens, a clip 3 x 5. `settings` are of shards and of index."""
    cut = {name: value for name, value in settings.items() if name in Shards.model_fields}
    rest = {name: value for name, value in settings.items() if name not in cut}
    return Params(
        model=Model(image_size=16, patch_size=8, frames=3),
        sources={source.name: source for source in sources},
        shards=Shards(**cut),
        index=Index(**{"vocab_size": 300, **rest}),
    )


def prepare(params: Params, workspace: Path, machine: Machine = DEFAULTS) -> None:
    """Shards of all sources, and their index."""
    from videollava.data.prepare import index, shards

    shards.run(params, workspace, machine)
    index.run(params, workspace, machine)
