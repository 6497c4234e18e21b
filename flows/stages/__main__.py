"""`python -m flows.stages NAME [WORKSPACE]`: one stage and no more."""

from __future__ import annotations

import sys
from pathlib import Path

from flows.stages.stage import StageFailed, run_stage
from videollava.errors import InputError

__all__: list[str] = []

if __name__ == "__main__":
    try:
        result = run_stage(Path(sys.argv[2] if len(sys.argv) > 2 else "."), sys.argv[1])
    except StageFailed as failure:
        raise SystemExit(failure.status) from failure
    except InputError as problem:
        print(f"error: {problem}", file=sys.stderr)
        raise SystemExit(2) from problem
    print(f"{result.stage}: {result.outcome} in {result.seconds:.1f} s")
