"""`videollava index` at the paper's scale: seconds, records a second and peak memory at two sizes, and with 1 % more.

    python bench/index.py [--records 315000 1260000]

The tables of a source's shards are synthetic (records as in bench/records.py, media that nobody opens); each run is a
process of its own. The tokenizer is the tiny profile's, trained before on a small set.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

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
            {**about, "media_id": number, "kind": kind, "sha256": hashlib.sha256(path.encode()).hexdigest()}
            for path, (number, kind) in numbers.items()
        ),
    )
    (folder / "big-00000.tar").write_bytes(b"of no bytes that anybody reads")
    (folder / "quarantine.jsonl").touch()
    (folder / "summary.json").write_text(json.dumps({**TOTALS, "records": rows}))


def index(workspace: Path) -> str:
    """Run it; what it took."""
    command = [sys.executable, "-m", "videollava", "index"]
    began = time.perf_counter()
    child = subprocess.Popen(
        command, cwd=workspace, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.DEVNULL
    )
    _, status, spent = os.wait4(child.pid, 0)
    if status:
        raise SystemExit(f"index ended with {status}")
    seconds = time.perf_counter() - began
    rows = sum(
        counts["records"]
        for counts in json.loads((workspace / "data/index/summary.json").read_text())["splits"].values()
    )
    busy = spent.ru_utime + spent.ru_stime
    return f"{rows:,} records: {seconds:.1f} s, {rows / seconds:,.0f} records/s, {busy:.1f} s of a core, peak {spent.ru_maxrss / 1024:,.0f} MiB"


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
            (workspace / "data/shards/big").rename(workspace / "less")
            write_shards(workspace / "data/shards/big", count + count // 100)
            print(f"  1 % more: {index(workspace)}", flush=True)


if __name__ == "__main__":
    main()
