"""`videollava shards`: how fast media are looked into and cut into shards, and whether all cores are at it.

    python bench/shards.py [--pictures 4000] [--clips 1000]

The media are drawn here, each its own: JPEG pictures of 320x240, H.264 clips of 24 frames of 160x120, in one tar. The
command is a process of its own; seconds of a core are its own and its workers'. A second run finds every verdict.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import resource
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

ROOT = Path(__file__).parents[1]
PARAMS = """
sources: {bench: {kind: archive, format: jsonl, use: finetune, urls: ['file://FOLDER/media.tar'],
  annotations: 'file://FOLDER/records.jsonl'}}
shards: {shard_mib: 64}
"""


def picture(rng: np.random.Generator) -> bytes:
    """A JPEG of soft random shapes, some 15 kB."""
    small = rng.integers(0, 255, (12, 16, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(small).resize((320, 240), Image.Resampling.BICUBIC).save(out, "JPEG", quality=90)
    return out.getvalue()


def clip(rng: np.random.Generator) -> bytes:
    """An MP4 in which such a picture moves."""
    small = Image.fromarray(rng.integers(0, 255, (12, 16, 3), dtype=np.uint8))
    whole = np.asarray(small.resize((200, 150), Image.Resampling.BICUBIC))
    out = io.BytesIO()
    with av.open(out, "w", format="mp4") as container:
        stream: Any = container.add_stream("libx264", rate=12, options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = 160, 120, "yuv420p"
        for step in range(24):
            frame = av.VideoFrame.from_ndarray(
                np.ascontiguousarray(whole[step : step + 120, step : step + 160])
            )
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return out.getvalue()


def fill(folder: Path, pictures: int, clips: int) -> None:
    """The tar, and a record a medium."""
    rng = np.random.default_rng(0)
    with tarfile.open(folder / "media.tar", "w") as tar, (folder / "records.jsonl").open("w") as lines:
        for number in range(pictures + clips):
            kind, ending = ("image", "jpg") if number < pictures else ("video", "mp4")
            data, name = (picture if kind == "image" else clip)(rng), f"{number:05d}.{ending}"
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
            record = {kind: name, "question": f"what is number {number}?", "answer": str(number)}
            lines.write(json.dumps(record) + "\n")


def measure(folder: Path, *words: str) -> tuple[float, float]:
    """Seconds of a command, by the clock and of a core."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.monotonic()
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "videollava", *words]
    subprocess.run(command, cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL)
    wall, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Draw, fetch, then cut twice."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=int, default=4000)
    parser.add_argument("--clips", type=int, default=1000)
    options = parser.parse_args()
    count = options.pictures + options.clips
    print(
        f"| run | media | seconds | of a core | cores at work (of {os.cpu_count()}) | media/s |\n|---|---|---|---|---|---|"
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        fill(folder, options.pictures, options.clips)
        (folder / "params.yaml").write_text(PARAMS.replace("FOLDER", name))
        measure(folder, "fetch", "bench")
        for run in ("new", "again"):
            wall, core = measure(folder, "shards", "bench")
            print(
                f"| {run} | {count:,} | {wall:.1f} | {core:.1f} | {core / wall:.2f} | {count / wall:,.0f} |",
                flush=True,
            )
        kept = json.loads((folder / "data/shards/bench/summary.json").read_text())
        print(f"\n{kept['media']}, quarantined: {kept['quarantined']}")


if __name__ == "__main__":
    main()
