"""Make what travels to a bare CUDA machine: wheels of what it lacks, and a tiny workspace, in one ignored folder.

    python -m bench.gpu_check.bundle --to .gpu-check [--python 3.12] [--cuda 130]

Such a machine has torch, transformers, accelerate, peft, pyarrow, pillow and scipy. Versions are those of requirements.lock.
Of bitsandbytes, which holds a library for every release of CUDA, only the CPU's and that of `--cuda` are kept. Clips
are decoded by PyAV: decord is not needed for that.
"""

from __future__ import annotations

import argparse
import base64
import csv
import hashlib
import io
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

from bench.gpu_check.tiny import ROOT, make_workspace

LIMIT = 56 << 20  # 64 MiB are what such machines take at once, and the checkout itself travels too
DATA_LIMIT = 8_000_000
LACKING = (
    "annotated-types",
    "bitsandbytes",
    "pydantic",
    "pydantic-core",
    "typing-extensions",
    "typing-inspection",
)
GLIBC = ("2_28", "2_27", "2_24", "2_17", "2_12", "2_5")
LIBRARY = re.compile(r"bitsandbytes/libbitsandbytes_(\w+)\.so")


def main(argv: Sequence[str] | None = None) -> int:
    """Fill the folder anew; 1 where it is over the limit."""
    parser = argparse.ArgumentParser(prog="python -m bench.gpu_check.bundle", description="What travels.")
    parser.add_argument("--to", type=Path, default=Path(".gpu-check"))
    parser.add_argument("--python", default="3.12", help="of the machine it travels to")
    parser.add_argument("--cuda", default="130", help="of its torch, without the point")
    arguments = parser.parse_args(argv)
    shutil.rmtree(arguments.to, ignore_errors=True)
    arguments.to.mkdir(parents=True)
    make_workspace(arguments.to / "tiny")
    fetch_wheels(arguments.to / "wheels", arguments.python)
    slim(next((arguments.to / "wheels").glob("bitsandbytes-*.whl")), arguments.cuda)
    return say_size(arguments.to)


def fetch_wheels(target: Path, python: str) -> None:
    """Wheels for Linux on x86-64, of the versions in the lock, without what they depend on."""
    platforms = [f"manylinux_{version}_x86_64" for version in GLIBC] + ["manylinux2014_x86_64"]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary=:all:", "--implementation", "cp", "--python-version", python]
    command += [part for name in platforms for part in ("--platform", name)]
    subprocess.run([*command, "--dest", str(target), *pins()], check=True)


def pins() -> list[str]:
    """name==version of what lacks."""
    locked = dict(re.findall(r"^([\w.-]+)==([^ ;\n]+)", (ROOT / "requirements.lock").read_text(), re.M))
    absent = [name for name in LACKING if name not in locked]
    if absent:
        raise SystemExit(f"requirements.lock has no {', '.join(absent)}: run make lock")
    return [f"{name}=={locked[name]}" for name in LACKING]


def slim(wheel: Path, cuda: str) -> None:
    """Write the wheel again with the CPU's library and that of one CUDA release."""
    kept = {"cpu", f"cuda{cuda}"}
    with tempfile.TemporaryDirectory() as folder:
        smaller = Path(folder) / wheel.name
        with zipfile.ZipFile(wheel) as old, zipfile.ZipFile(smaller, "w", zipfile.ZIP_DEFLATED) as new:
            libraries = {match[1] for name in old.namelist() if (match := LIBRARY.fullmatch(name))}
            if not kept <= libraries:
                raise SystemExit(
                    f"{wheel.name} has no library for CUDA {cuda}: it has {', '.join(sorted(libraries))}"
                )
            record, rows = "", []
            for item in old.infolist():
                match = LIBRARY.fullmatch(item.filename)
                if match and match[1] not in kept:
                    continue
                if item.filename.endswith(".dist-info/RECORD"):
                    record = item.filename
                    continue
                data = old.read(item)
                new.writestr(item.filename, data)
                digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
                rows.append([item.filename, f"sha256={digest}", str(len(data))])
            listed = io.StringIO()
            csv.writer(listed, lineterminator="\n").writerows([*rows, [record, "", ""]])
            new.writestr(record, listed.getvalue())
        shutil.move(smaller, wheel)


def say_size(folder: Path) -> int:
    """Print the bytes of each part; 1 where they are over the limits."""
    sizes = {part.name: size_of(part) for part in sorted(folder.iterdir())}
    total = sum(sizes.values())
    told = ", ".join(f"{name} {size / 2**20:.1f} MiB" for name, size in sizes.items())
    print(f"{folder}: {total / 2**20:.1f} MiB ({told})", flush=True)
    if total > LIMIT or sizes["tiny"] > DATA_LIMIT:
        print(
            f"too much: {LIMIT >> 20} MiB in all travel, {DATA_LIMIT // 10**6} MB of them data",
            file=sys.stderr,
        )
        return 1
    return 0


def size_of(folder: Path) -> int:
    """Bytes of its files."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


if __name__ == "__main__":
    raise SystemExit(main())
