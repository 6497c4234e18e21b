"""`videollava check` at the paper's scale: seconds, records a second and peak memory, at two sizes.

    python bench/records.py [--records 315000 1260000] [--tokenizer FOLDER]

Records are synthetic, with the paper's mix: captions of pictures and clips, conversations of several turns, text alone.
Each size is checked in a process of its own; lengths are estimated unless a tokenizer is given.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
WORDS = [
    "a",
    "the",
    "red",
    "dog",
    "runs",
    "over",
    "green",
    "grass",
    "while",
    "two",
    "people",
    "watch",
    "it",
    "from",
    "their",
    "small",
    "wooden",
    "house",
]


def records(count: int) -> Iterator[dict[str, object]]:
    """Records in LLaVA's format; one in 1,000 is broken, one in 500 repeats another."""
    draw = random.Random(0)
    for number in range(count):
        kind = draw.choices(("image", "video", "text"), (45, 50, 5))[0]
        media = (
            {}
            if kind == "text"
            else {kind: f"part{number % 97:02}/{number:07}.{'jpg' if kind == 'image' else 'mp4'}"}
        )
        turns = 1 if draw.random() < 0.6 else draw.randint(1, 8)
        said = []
        for turn in range(turns):
            mark = f"<{kind}>\n" if media and not turn else ""
            said.append(
                {"from": "human", "value": mark + " ".join(draw.choices(WORDS, k=draw.randint(5, 15))) + "?"}
            )
            said.append({"from": "gpt", "value": " ".join(draw.choices(WORDS, k=draw.randint(5, 60)))})
        if number % 1000 == 7:
            said.pop()
        yield {"id": f"{number:07}", **media, "conversations": said}
        if number % 500 == 3:
            yield {"id": f"{number:07}-again", **media, "conversations": said}


def main() -> None:
    """Print one line a size."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--records", type=int, nargs="+", default=[315_000, 1_260_000])
    parser.add_argument("--tokenizer", type=Path)
    arguments = parser.parse_args()
    counter = ["--tokenizer", str(arguments.tokenizer.resolve())] if arguments.tokenizer else []
    used = 0.0
    with tempfile.TemporaryDirectory() as name:
        for count in arguments.records:
            file = Path(name) / "notes.json"
            with file.open("w") as stream:
                for number, record in enumerate(records(count)):
                    stream.write(("," if number else "[") + json.dumps(record))
                stream.write("]")
            command = [sys.executable, "-m", "videollava", "check", str(file), "--json", *counter]
            began = time.perf_counter()
            done = subprocess.run(
                command, cwd=name, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
            )
            seconds = time.perf_counter() - began
            spent = resource.getrusage(resource.RUSAGE_CHILDREN)
            busy, used = spent.ru_utime + spent.ru_stime - used, spent.ru_utime + spent.ru_stime
            found = json.loads(done.stdout)
            print(
                f"{found['records']:,} records, {file.stat().st_size / 2**20:,.0f} MiB: {seconds:.1f} s, "
                f"{busy:.1f} s of a core, {found['records'] / seconds:,.0f} records/s, "
                f"peak {spent.ru_maxrss / 1024:.0f} MiB, "
                f"{sum(found['quarantined'].values()):,} refused, {found['warnings']}, {found['lengths_are']}",
                flush=True,
            )


if __name__ == "__main__":
    main()
