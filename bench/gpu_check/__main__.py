"""Run the parts, print one table, write JSON.

python -m bench.gpu_check --bundle .gpu-check --out results [--small] [--parts WORD ...] [--seconds 480]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from bench.gpu_check.parts import GROUPS, Outcome, Part, run_group
from bench.gpu_check.report import table, to_json

LOG = 1 << 20  # characters of what each part said: files of some MiB can be brought back from anywhere


def main(argv: Sequence[str] | None = None) -> int:
    """0 where every part that was run ended well."""
    began = time.monotonic()
    arguments = _read(argv)
    if not (arguments.bundle / "tiny").is_dir():
        print(f"{arguments.bundle} is no bundle: make one with `make gpu-check-bundle`", file=sys.stderr)
        return 2
    arguments.out.mkdir(parents=True, exist_ok=True)
    outcomes: list[Outcome] = []
    with tempfile.TemporaryDirectory(prefix="gpu-check-") as folder:
        work = Path(folder)
        site = install(arguments.bundle / "wheels", work / "site")
        os.environ["PYTHONPATH"] = os.pathsep.join([*site, os.environ.get("PYTHONPATH", "")]).strip(
            os.pathsep
        )
        options = ["--bundle", str(arguments.bundle.resolve()), *(["--small"] if arguments.small else [])]
        deadline = began + arguments.seconds
        for group in chosen(arguments.parts):
            print(f"{time.monotonic() - began:5.0f} s  {', '.join(part.name for part in group)}", flush=True)
            outcomes += run_group(group, deadline, work, options)
            # After each group: what was found stays, whatever happens to this process.
            _write(arguments.out, outcomes, work, time.monotonic() - began)
    print(table(outcomes))
    return int(any(outcome.failed for outcome in outcomes))


def _read(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.gpu_check", description="Check and measure one GPU."
    )
    parser.add_argument(
        "--bundle", type=Path, default=Path(".gpu-check"), help="what bench.gpu_check.bundle made"
    )
    parser.add_argument("--out", type=Path, default=Path("gpu-check"), help="for gpu-check.{json,txt,log}")
    parser.add_argument("--small", action="store_true", help="micro shapes: the same code on any machine")
    parser.add_argument(
        "--parts", nargs="+", metavar="WORD", help="only parts with such a word in their name"
    )
    parser.add_argument(
        "--seconds", type=float, default=480.0, help="parts are cut short or left out after them"
    )
    return parser.parse_args(argv)


def chosen(words: Sequence[str] | None) -> list[tuple[Part, ...]]:
    """The groups, of the parts whose names hold one of the words."""
    if not words:
        return list(GROUPS)
    groups = (tuple(part for part in group if any(word in part.name for word in words)) for group in GROUPS)
    return [group for group in groups if group]


def install(wheels: Path, target: Path) -> list[str]:
    """Unpack what this Python lacks, without a network and beside what is there; the folder, if there is any."""
    files = sorted(str(file) for file in wheels.glob("*.whl"))
    if not files:
        return []
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-compile"]
    done = subprocess.run([*command, "--target", str(target), *files], capture_output=True, text=True)
    if done.returncode:
        # Parts that need them say so themselves; the others go on.
        print(f"the wheels of {wheels} were not installed: {done.stderr.strip()[-500:]}", flush=True)
        return []
    return [str(target)]


def _write(out: Path, outcomes: Sequence[Outcome], work: Path, seconds: float) -> None:
    (out / "gpu-check.json").write_text(json.dumps(to_json(outcomes, seconds), indent=1) + "\n")
    (out / "gpu-check.txt").write_text(table(outcomes) + "\n")
    logs = sorted(work.glob("*.log"), key=lambda log: log.stat().st_mtime)
    (out / "gpu-check.log").write_text(
        "\n".join(f"==== {log.stem}\n{log.read_text(errors='replace')[-LOG:]}" for log in logs)
    )


if __name__ == "__main__":
    raise SystemExit(main())
