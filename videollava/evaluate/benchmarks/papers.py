"""Published figures, to print beside ours: tables 2 and 3 of the Video-LLaVA paper."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["COLUMNS", "IMAGE_TABLE", "OURS", "VIDEO_TABLE", "figures", "reference"]

OURS = "Video-LLaVA-7B"
Figure = tuple[float | None, ...]  # one figure, or accuracy and score

VIDEO_COLUMNS = ("msvd", "msrvtt", "tgif", "activitynet")
VIDEO_TABLE: Mapping[str, tuple[str, ...]] = {
    "FrozenBiLM": ("32.2/-", "16.8/-", "41.0/-", "24.7/-"),
    "VideoChat": ("56.3/2.8", "45.0/2.5", "34.4/2.3", "-/2.2"),
    "LLaMA-Adapter": ("54.9/3.1", "43.8/2.7", "-", "34.2/2.7"),
    "Video-LLaMA": ("51.6/2.5", "29.6/1.8", "-", "12.4/1.1"),
    "Video-ChatGPT": ("64.9/3.3", "49.3/2.8", "51.4/3.0", "35.2/2.7"),
    "Chat-UniVi": ("65.0/3.6", "54.6/3.1", "60.3/3.4", "45.8/3.2"),
    OURS: ("70.7/3.9", "59.2/3.5", "70.0/4.0", "45.3/3.3"),
}

IMAGE_COLUMNS = (
    "vqav2",
    "gqa",
    "vizwiz",
    "scienceqa",
    "textvqa",
    "pope",
    "mmbench",
    "llava-bench",
    "mm-vet",
)
IMAGE_TABLE: Mapping[str, tuple[str, ...]] = {
    "BLIP-2-13B": ("41.0", "41.0", "19.6", "61.0", "42.5", "85.3", "-", "38.1", "22.4"),
    "InstructBLIP-7B": ("-", "49.2", "34.5", "60.5", "50.1", "-", "36.0", "60.9", "26.2"),
    "InstructBLIP-13B": ("-", "49.5", "33.4", "63.1", "50.7", "78.9", "-", "58.2", "25.6"),
    "IDEFICS-9B": ("50.9", "38.4", "35.5", "-", "25.9", "-", "48.2", "-", "-"),
    "IDEFICS-80B": ("60.0", "45.2", "36.0", "-", "30.9", "-", "54.5", "-", "-"),
    "mPLUG-Owl": ("-", "14.0", "39.0", "2.8", "38.8", "-", "46.6", "-", "-"),
    "MiniGPT-4": ("-", "30.8", "47.5", "25.4", "19.4", "-", "23.0", "-", "22.1"),
    "Otter": ("-", "38.1", "50.0", "27.2", "21.2", "-", "32.6", "-", "24.6"),
    "LLaVA-1.5-7B": ("78.5", "62.0", "50.0", "66.8", "58.2", "85.9", "64.3", "65.4", "31.1"),
    OURS: ("74.7", "60.3", "48.1", "66.4", "51.8", "84.4", "60.9", "73.1", "32.0"),
}
COLUMNS: Mapping[str, tuple[Mapping[str, tuple[str, ...]], int]] = {
    **{key: (VIDEO_TABLE, at) for at, key in enumerate(VIDEO_COLUMNS)},
    **{key: (IMAGE_TABLE, at) for at, key in enumerate(IMAGE_COLUMNS)},
}


def figures(benchmark: str) -> dict[str, Figure]:
    """Published figures of a benchmark by model, in the paper's order; for judged video sets accuracy and
    score.
    """
    if benchmark not in COLUMNS:
        return {}
    table, at = COLUMNS[benchmark]
    cells = {model: tuple(_number(part) for part in row[at].split("/")) for model, row in table.items()}
    return {model: cell for model, cell in cells.items() if any(part is not None for part in cell)}


def reference(benchmark: str) -> Figure | None:
    """The paper's own figure for Video-LLaVA-7B, None where it has none."""
    return figures(benchmark).get(OURS)


def _number(text: str) -> float | None:
    return None if text == "-" else float(text)
