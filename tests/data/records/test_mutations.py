"""No file of annotations crashes or hangs the readers: each record is taken or refused with a reason."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from made import archive_source, tar
from mutations import PLANTED, mutated

import videollava
from videollava.data.archives.listing import Member, list_members
from videollava.data.records.annotations import Annotations, read_file
from videollava.data.records.conversion import from_llava, to_llava
from videollava.data.records.formats.format import Context
from videollava.data.records.formats.table import ITEM_FORMATS
from videollava.data.records.readers import read_records
from videollava.data.records.record import Record
from videollava.data.records.rejected import Rejected
from videollava.errors import InputError

SECONDS = 20  # that one file may take on a busy machine; they take hundredths


def outcome(seed: int) -> str:
    """What became of a file: "taken", "refused" (some records), or "unreadable" with one sentence."""
    name, data = mutated(seed)
    form = ("auto", *ITEM_FORMATS)[seed % (len(ITEM_FORMATS) + 1)] if seed % 3 == 0 else "auto"
    began = time.monotonic()
    refused = taken = 0
    try:
        for found in read_file(Annotations(name, lambda: io.BytesIO(data)), form, "mine", Context()):
            if isinstance(found, Record):
                taken += 1
                assert from_llava(to_llava(found), "mine") == found
            else:
                assert isinstance(found, Rejected)
                assert found.reason
                assert name in found.detail
                assert len(found.detail) < 2000
                refused += 1
    except InputError as error:
        said = str(error)
        return "unreadable" if name in said and len(said) < 3000 else f"unclear: {said}"
    finally:
        assert time.monotonic() - began < SECONDS, name
    return "refused" if refused else "taken" if taken else "empty"


@pytest.mark.parametrize("seeds", [range(60)])
def test_mutated_files_are_taken_or_refused(seeds: range) -> None:
    outcomes = Counter(map(outcome, seeds))
    assert set(outcomes) <= {"taken", "refused", "unreadable", "empty"}
    assert outcomes["taken"] >= 5
    assert outcomes["refused"] >= 5
    assert outcomes["unreadable"] >= 5


@pytest.mark.slow
def test_five_hundred_mutated_files_are_taken_or_refused() -> None:
    outcomes = Counter(map(outcome, range(500)))
    assert set(outcomes) <= {"taken", "refused", "unreadable", "empty"}
    assert outcomes.total() == 500
    assert min(outcomes["taken"], outcomes["refused"], outcomes["unreadable"]) >= 50


def test_planted_addresses_open_nothing(tmp_path: Path) -> None:
    """Under an audit hook that ends the process where a planted address, or any socket, is opened."""
    records = tmp_path / "own.jsonl"
    media = tmp_path / "media"
    media.mkdir()
    (media / "1.png").write_bytes(b"x")
    (tmp_path / "secret.png").write_bytes(b"x")
    paths = [*PLANTED, "../secret.png", str(tmp_path / "secret.png"), "1.png"]
    items = [json.dumps({"image": path, "question": "what?", "answer": "x"}) for path in paths]
    records.write_text("\n".join(items))
    code = f"""
import os, sys
def watch(event, arguments):
    if event.startswith(("socket.connect", "socket.getaddrinfo", "urllib", "ftplib", "http.client")):
        print("OPENED", event, arguments); sys.stdout.flush(); os._exit(9)
    if event == "open" and isinstance(arguments[0], str) and any(
        name in arguments[0] for name in ("passwd", "secret", "x.png", "x.mp4")
    ):
        print("OPENED", event, arguments); sys.stdout.flush(); os._exit(9)
import videollava.data.check.run, videollava.data.check.table, rich.console
from videollava.cli import main
sys.addaudithook(watch)
sys.exit(main(["check", {str(records)!r}, "--media", {str(media)!r}, "--json"]))
"""
    here = {**os.environ, "PYTHONPATH": str(Path(videollava.__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=here, capture_output=True, text=True, check=False
    )
    assert "OPENED" not in done.stdout
    assert done.returncode == 1, done.stderr
    assert '"usable": 1,' in done.stdout
    assert '"unsafe path"' in done.stdout


def test_mutated_pairs_of_a_shard_are_taken_or_refused(tmp_path: Path) -> None:
    members: dict[str, bytes] = {}
    for seed in range(120):
        data = mutated(seed)[1][:200_000]
        first = data.splitlines()[0] if data.splitlines() else b""
        members[f"{seed:03}.png"] = b"x"
        members[f"{seed:03}.{'txt' if seed % 5 == 0 else 'json'}"] = first
    archive = tar(tmp_path / "0.tar", members)
    catalogue = {one.name: one for one in list_members(archive) if isinstance(one, Member)}
    source = archive_source(archive).replace(format="webdataset")
    found = list(read_records(source, tmp_path, catalogue))
    assert len(found) == 120
    reasons = Counter(one.reason for one in found if isinstance(one, Rejected))
    assert reasons["malformed record"] >= 5
    assert sum(not isinstance(one, Rejected) for one in found) >= 20
