"""infra/slurm's data worker as a job of a real Slurm: before its time is up it ends its worker and queues the next."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from cluster import lacking, slurm
from micro import ROOT
from started import wait_for

pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(lacking()), reason=f"a Slurm cluster: {lacking()}")]
WORKER = """\
#!/bin/bash
grep -q "^SigIgn:.*[2367abef]$" /proc/$$/status && echo SIGINT is ignored
trap 'echo told; exit 0' TERM
echo "$* for $PREFECT_API_URL"
while :; do sleep 0.1; done
"""


def test_before_its_time_limit_it_ends_its_worker_and_queues_the_next(tmp_path: Path) -> None:
    home = tmp_path / "home"
    (home / "infra/slurm").mkdir(parents=True)
    (home / ".venv/bin").mkdir(parents=True)
    (home / ".venv/bin/python").write_text(WORKER)
    (home / ".venv/bin/python").chmod(0o755)
    script = (ROOT / "infra/slurm/data.sbatch").read_text()
    for theirs, here in (("partition=cpu", "partition=main"), ("task=16", "task=1"), ("mem=64G", "mem=100")):
        assert theirs in script
        script = script.replace(theirs, here)
    (home / "infra/slurm/data.sbatch").write_text(script)
    (tmp_path / "data.env").write_text("PREFECT_API_URL=http://team\n")
    log = home / "videollava-data-worker.log"
    with slurm(tmp_path / "slurm") as cluster:
        environment = {**os.environ, **cluster.environment, "VIDEOLLAVA_ENV": str(tmp_path / "data.env")}

        def call(*words: str) -> None:
            assert shutil.which(words[0])
            subprocess.run(words, cwd=home, env=environment, check=True, capture_output=True)

        def said() -> list[str]:
            return log.read_text().splitlines() if log.is_file() else []

        call("sbatch", "infra/slurm/data.sbatch")
        wait_for(lambda: "-m flows.worker data --name data-1 for http://team" in said())
        call("scancel", "--signal=USR1", "--batch", "1")  # as Slurm does 300 s before the end
        wait_for(lambda: "-m flows.worker data --name data-2 for http://team" in said())
        assert "SIGINT is ignored" not in said()
        assert said().index("told") < said().index("Submitted batch job 2")
        call("scancel", "2")
        wait_for(lambda: not cluster.jobs())
        assert not any("data-3" in line or "job 3" in line for line in said())
