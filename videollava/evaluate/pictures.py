"""Small pictures of media for a page: an image as a data address, a video as its frames'."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

from videollava.data.load.shards import Shards
from videollava.data.media.read import read_depth, read_frames, read_image
from videollava.data.media.stored import StoredFrames
from videollava.errors import InputError
from videollava.evaluate.page import Markup, tag

__all__ = ["Album"]

IMAGE_SIDE = 192  # pixels of the longer side
FRAME_HEIGHT = 72
FRAME_WIDTH = 128
QUALITY = 80
VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".gif")


class Album:
    """Pictures of media, each made once; no more than `budget` characters of them are given out.

    Media are numbers of the prepared data, or paths below `workspace`. What has no picture is counted:
    `refused` for a reason (the first is `problem`), `left_out` for the budget.
    """

    def __init__(self, workspace: Path, frames: int, budget: int) -> None:
        self.workspace, self.frames, self.budget = workspace, frames, budget
        self.refused = self.left_out = 0
        self.problem = ""
        self._made: dict[int | str, Markup] = {}
        self._shards: Shards | None = None

    def picture(self, medium: int | str) -> Markup:
        """An <img>, a strip of frames, or a note why there is none. Shown twice, it counts twice."""
        if medium not in self._made:
            self._made[medium] = self._make(medium)
        made = self._made[medium]
        if len(made) > self.budget:
            self.left_out += 1
            return tag("span", "picture left out", class_="note")
        self.budget -= len(made)
        return made

    def is_video(self, medium: int | str) -> bool:
        """Whether it has frames; False too where it can't be told."""
        try:
            return self._kind(medium) == "video"
        except InputError:
            return False

    def _make(self, medium: int | str) -> Markup:
        try:
            return self._draw(self._kind(medium), self._source(medium))
        except InputError as error:
            self.refused += 1
            self.problem = self.problem or str(error)
            return tag("span", "no picture", class_="note")

    def _draw(self, kind: str, source: bytes | Path | StoredFrames) -> Markup:
        if isinstance(source, StoredFrames) or kind == "video":
            frames = (
                source.pictures(self.frames)
                if isinstance(source, StoredFrames)
                else read_frames(source, self.frames)
            )
            numbered = enumerate(map(Image.fromarray, frames), start=1)
            shown = [
                _img(_fit(f, FRAME_WIDTH, FRAME_HEIGHT), f"frame {n} of {len(frames)}") for n, f in numbered
            ]
            return tag("div", *shown, class_="strip")
        readers: dict[str, Callable[[Any], Image.Image]] = {
            "image": read_image,
            "thermal": read_image,
            "depth": _grey,
        }
        if kind not in readers:
            raise InputError(f"{kind} has no picture")
        return _img(_fit(readers[kind](source), IMAGE_SIDE, IMAGE_SIDE), kind)

    def _kind(self, medium: int | str) -> str:
        if isinstance(medium, str):
            return "video" if medium.lower().endswith(VIDEO_SUFFIXES) else "image"
        shards = self._open()
        if not 0 <= medium < len(shards):
            raise InputError(f"{shards.folder}: no medium {medium}; evaluate again on this data")
        return shards.kind(medium)

    def _source(self, medium: int | str) -> bytes | Path | StoredFrames:
        return self.workspace / medium if isinstance(medium, str) else self._open().read(medium)

    def _open(self) -> Shards:
        if self._shards is None:
            self._shards = Shards(self.workspace / "data/index", verify=True)
        return self._shards


def _fit(picture: Image.Image, width: int, height: int) -> Image.Image:
    """No larger than that; shape kept, never enlarged."""
    picture.thumbnail((width, height))
    return picture


def _grey(source: bytes | Path) -> Image.Image:
    depth = read_depth(source)
    return Image.fromarray((255 * depth / max(1.0, float(depth.max()))).astype("uint8")).convert("RGB")


def _img(picture: Image.Image, words: str) -> Markup:
    """As JPEG or as PNG, whichever is smaller."""
    photo, drawing = io.BytesIO(), io.BytesIO()
    picture.save(photo, "JPEG", quality=QUALITY, optimize=True)
    picture.save(drawing, "PNG", optimize=True)
    kind, data = min(
        (("png", drawing.getvalue()), ("jpeg", photo.getvalue())), key=lambda found: len(found[1])
    )
    address = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    return tag("img", src=address, alt=words, width=str(picture.width), height=str(picture.height))
