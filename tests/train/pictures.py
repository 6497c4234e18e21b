"""A few drawn pictures with captions and questions, as a LLaVA-format source."""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw

COLORS = ("red", "green", "blue", "yellow")
SHAPES = ("circle", "rectangle")
USES = ("align", "pretrain", "finetune")


def draw(color: str, shape: str, place: int) -> bytes:
    """A PNG of 48 x 40 pixels."""
    picture = Image.new("RGB", (48, 40), "white")
    box = (4 + place, 6, 24 + place, 26)
    pen = ImageDraw.Draw(picture)
    (pen.ellipse if shape == "circle" else pen.rectangle)(box, fill=color)
    data = io.BytesIO()
    picture.save(data, "PNG")
    return data.getvalue()


def write_sources(folder: Path, uses: Sequence[str] = USES) -> str:
    """Write the archive and its annotations; the sources, one a use, as the inside of a YAML mapping."""
    folder.mkdir(parents=True)
    items: dict[str, list[dict[str, object]]] = {use: [] for use in USES}
    with tarfile.open(folder / "pictures.tar", "w") as archive:
        for number, (color, shape, place) in enumerate(itertools.product(COLORS, SHAPES, (0, 8, 16))):
            name, data = f"{number}.png", draw(color, shape, place)
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
            caption = [("<image>\nDescribe it.", f"a {color} {shape}")]
            questions = [("<image>\nwhat color is the shape?", color), ("what shape is it?", shape)]
            for use, turns in (("align", caption), ("pretrain", caption), ("finetune", questions)):
                talk = [
                    {"from": who, "value": text}
                    for turn in turns
                    for who, text in zip(("human", "gpt"), turn, strict=True)
                ]
                items[use].append({"id": f"{use}-{number}", "image": name, "conversations": talk})
    sources = []
    for use in uses:
        rows, notes = items[use], folder / f"{use}.json"
        notes.write_text(json.dumps(rows))
        archive_url = (folder / "pictures.tar").as_uri()
        sources.append(
            f"pictures_{use}: {{kind: archive, format: llava, use: {use}, urls: ['{archive_url}'], "
            f"annotations: '{notes.as_uri()}', sha256: [{_sha256(folder / 'pictures.tar')}, {_sha256(notes)}]}}"
        )
    return ", ".join(sources)


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
