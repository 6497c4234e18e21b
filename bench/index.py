"""`videollava index` at the paper's scale: seconds, records a second and peak memory at two sizes, and with 1 % more.

Memory is that of all its processes together (proportional set size, twice a second), pages of files among it.

    python bench/index.py [--records 315000 1260000]

The tables of a source's shards are synthetic (records as in bench/records.py, media that nobody opens); each run is a
process of its own. The tokenizer is the tiny profile's, trained before on a small set.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
from records import records

ROOT = Path(__file__).parents[1]
PARAMS = """
sources: {{big: {{kind: archive, format: llava, use: finetune, urls: [s3://none/none.tar]}}}}
index: {{tokenizer: {tokenizer}, held_out: 256}}
"""
TOTALS = {"records": 0, "media": {}, "quarantined": {"by_source": {}, "members": {}}}


def write_shards(folder: Path, count: int) -> None:
    """records.arrow and media.arrow of a source with `count` records."""
    from videollava.data.prepare.tables import RECORDS, TableWriter, record_schema, write_media

    folder.mkdir(parents=True)
    numbers: dict[str, tuple[int, str]] = {}
    rows = 0
    with TableWriter(folder / RECORDS, record_schema()) as writer:
        for record in records(count):
            media = []
            for kind in ("image", "video"):
                if path := record.get(kind):
                    media.append(numbers.setdefault(str(path), (len(numbers), kind))[0])
            said = [[turn["from"], turn["value"]] for turn in record["conversations"]]  # type: ignore[attr-defined]
            if len(said) % 2:
                continue
            row = {
                "id": record["id"],
                "split": "finetune",
                "kind": "",
                "conversations": json.dumps(said),
                "media": media,
            }
            asked = "" if media else hashlib.sha256(str(record["id"]).encode()).hexdigest()[:16]
            writer.add({**row, "part": "", "asked": asked, "answers": [], "choices": []})
            rows += 1
    about = {"shard": 0, "offset": 0, "size": 1, "width": 1, "height": 1, "frames": 1}
    write_media(
        folder,
        (
            {**about, "media_id": number, "kind": kind, **content(path, kind)}
            for path, (number, kind) in numbers.items()
        ),
    )
    (folder / "big-00000.tar").write_bytes(b"of no bytes that anybody reads")
    (folder / "quarantine.jsonl").touch()
    (folder / "summary.json").write_text(json.dumps({**TOTALS, "records": rows}))


def content(path: str, kind: str) -> dict[str, str]:
    """A hash, and a look that is like no other."""
    digest = hashlib.sha256(path.encode()).hexdigest()
    return {"sha256": digest, "look": digest[: 48 if kind == "video" else 16]}


def memory(group: int) -> float:
    """MiB that the processes of a group hold."""
    found = 0
    for process in psutil.process_iter():
        try:
            if os.getpgid(process.pid) == group:
                found += process.memory_full_info().pss
        except (psutil.Error, OSError):
            pass  # it ended meanwhile
    return found / 2**20


def index(workspace: Path) -> str:
    """Run it; what it took."""
    command = [sys.executable, "-m", "videollava", "index"]
    began = time.perf_counter()
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    child = subprocess.Popen(
        command, cwd=workspace, env=environment, stdout=subprocess.DEVNULL, start_new_session=True
    )
    peak = 0.0
    while child.poll() is None:
        peak = max(peak, memory(child.pid))
        time.sleep(0.5)
    if child.returncode:
        raise SystemExit(f"index ended with {child.returncode}")
    seconds = time.perf_counter() - began
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    rows = sum(
        counts["records"]
        for counts in json.loads((workspace / "data/index/summary.json").read_text())["splits"].values()
    )
    busy = spent.ru_utime + spent.ru_stime - before.ru_utime - before.ru_stime
    return (
        f"{rows:,} records: {seconds:.1f} s, {rows / seconds:,.0f} records/s, {busy:.1f} s of a core, "
        f"{rows / busy:,.0f} records/s of a core, peak {peak:,.0f} MiB"
    )


def main() -> None:
    """Print two lines a size."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--records", type=int, nargs="+", default=[315_000, 1_260_000])
    sizes = parser.parse_args().records
    sys.path.insert(0, str(ROOT))
    from videollava.data.text.vocabulary import train_tokenizer

    with tempfile.TemporaryDirectory() as name:
        texts = [turn["value"] for record in records(2000) for turn in record["conversations"]]  # type: ignore[attr-defined]
        train_tokenizer(texts, 512, Path(name) / "tokenizer")
        for count in sizes:
            workspace = Path(name) / str(count)
            write_shards(workspace / "data/shards/big", count)
            (workspace / "params.yaml").write_text(PARAMS.format(tokenizer=Path(name) / "tokenizer"))
            print(index(workspace), flush=True)
            print(f"  again:    {index(workspace)}", flush=True)
            shutil.rmtree(workspace / "data/shards/big")
            write_shards(workspace / "data/shards/big", count + count // 100)
            print(f"  1 % more: {index(workspace)}", flush=True)


if __name__ == "__main__":
    main()
