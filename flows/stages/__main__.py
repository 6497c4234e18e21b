"""`python -m flows.stages NAME [WORKSPACE]`: one stage and no more."""

from __future__ import annotations

import argparse

from flows.places.workspace import checkout
from flows.stages.graph import stage_order
from flows.stages.stage import StageFailed, run_stage
from videollava.errors import InputError

__all__: list[str] = []

if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m flows.stages", description=__doc__)
    parser.add_argument("name")
    parser.add_argument("workspace", nargs="?", default=".")
    options = parser.parse_args()
    try:
        root = checkout(options.workspace)
        stage_order(root, options.name)  # is there such a stage
        result = run_stage(root, options.name)
    except StageFailed as failure:
        raise SystemExit(failure.status) from failure
    except InputError as problem:
        parser.error(str(problem))
    print(f"{result.stage}: {result.outcome} in {result.seconds:.1f} s")
