"""The whole data card: what the index tells of itself, with licences and the overlap with benchmarks beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from videollava.errors import InputError
from videollava.params import Params, Source

__all__ = ["CARD", "describe_card", "licence_of", "read_card"]

CARD = Path("data/index/card.json")
OVERLAP = Path("evaluation/contamination.json")
UNKNOWN = "not stated"
BAR = 30  # characters of the longest bar


def read_card(workspace: Path, params: Params, overlap: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """data/index/card.json, each source with its `licence`, and `overlap`: what the last evaluation found of the
    benchmarks in the training data ({} where it was not asked). InputError where there is no card.
    """
    file = workspace / CARD
    try:
        card: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{file}: not found; run `videollava index`, or `dvc pull index`") from error
    except ValueError as error:
        raise InputError(f"{file}: not what index writes ({error}); run `videollava index` again") from error
    for name, told in card["sources"].items():
        told["licence"] = licence_of(params.sources[name]) if name in params.sources else UNKNOWN
    found = workspace / OVERLAP
    if overlap is None:
        overlap = json.loads(found.read_text()) if found.is_file() else {}
    return {**card, "overlap": dict(overlap)}


def licence_of(source: Source) -> str:
    """As params.yaml says (sources.NAME.licence), else as an installed package says of itself."""
    if source.licence or source.kind != "package":
        return source.licence or ("drawn here" if source.kind == "generated" else UNKNOWN)
    try:
        told = metadata.metadata(source.package)
    except metadata.PackageNotFoundError:
        return UNKNOWN
    classified = [
        line.rpartition(" :: ")[2] for line in told.get_all("Classifier") or () if line.startswith("License")
    ]
    expressed, written = ((told.get_all(name) or [""])[0] for name in ("License-Expression", "License"))
    stated = [expressed, *classified, written.partition("\n")[0]]
    return next((text for text in stated if text not in ("", "UNKNOWN")), UNKNOWN)


def describe_card(card: Mapping[str, Any]) -> str:
    """The card for a terminal."""
    lines: list[str] = []
    for name, told in card["sources"].items():
        media = ", ".join(f"{count:,} {kind}" for kind, count in told["media"].items()) or "no media"
        records = ", ".join(f"{count:,} {split}" for split, count in told["records"].items()) or "none"
        lines += [f"{name}  (licence: {told['licence']})", f"  records  {records}"]
        lines.append(f"  media    {media}, {told['bytes'] / 2**20:,.1f} MiB")
        for key, what in (("quarantined", "records"), ("members_refused", "files")):
            lines += [f"  left out {count:,} {what}: {reason}" for reason, count in told[key].items()]
        if forgotten := card["forgotten"].get(name):
            lines.append(f"  forgotten {forgotten['media']:,} media with {forgotten['records']:,} records")
    for name, split in card["splits"].items():
        lines.append(
            f"\n{name}: {split['records']:,} records, tokens: median {split['median']:,}, 95 % up to {split['p95']:,}, "
            f"most {split['most']:,}"
        )
        most = max((count for _, count in split["lengths"]), default=0)
        for edge, count in split["lengths"]:
            lines.append(f"  {edge:>7,} {'#' * round(BAR * count / max(1, most))} {count:,}")
    lines.append("")
    for name, found in card["overlap"].items():
        lines.append(
            f"{name}: {found['media']:,} of {found['of_media']:,} media are trained on, {found['both']:,} of "
            f"{found['of_questions']:,} questions with their medium"
        )
    if not card["overlap"]:
        lines.append("overlap with benchmarks: not known before an evaluation (`videollava evaluate`)")
    lines += ["", "samples (the report shows their media):"]
    for sample in card["samples"]:
        lines.append(f"  {sample['split']}  {sample['source']}  {sample['id']}")
        lines += [f"    {role}: {' '.join(text.split())[:100]}" for role, text in sample["turns"]]
    return "\n".join(lines)
