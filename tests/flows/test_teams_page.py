"""docs/teams.md: each machine file is one, each command exists."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

from videollava.cli import COMMANDS
from videollava.machine import load_machine, preset_names
from videollava.machine.pools import load_pools, machine_of
from videollava.views import VIEWS

REPOSITORY = Path(__file__).resolve().parents[2]
PAGE = (REPOSITORY / "docs/teams.md").read_text()
BLOCKS = re.findall(r"```yaml\n# (machine|pools)\.yaml\n(.*?)```", PAGE, re.DOTALL)
MACHINES = [text for kind, text in BLOCKS if kind == "machine"]
LINES = re.findall(r"^\$ (.*)$", PAGE, re.MULTILINE)


@pytest.mark.parametrize("text", MACHINES, ids=range(len(MACHINES)))
def test_each_machine_file_is_read(text: str, tmp_path: Path) -> None:
    (tmp_path / "machine.yaml").write_text(text)
    machine = load_machine(tmp_path, {})
    pools = load_pools(REPOSITORY)
    assert {pool for pool in dict(machine.pools).values() if pool} <= set(pools)
    assert machine.work("finetune").ranks >= 1


def test_the_blocks_are_those_of_the_five_ways() -> None:
    assert len(MACHINES) == 5
    launchers = [yaml.safe_load(text).get("launcher", "local") for text in MACHINES]
    assert launchers == ["local", "local", "local", "slurm", "kubernetes"]


def test_the_pools_file_is_read(tmp_path: Path) -> None:
    (text,) = [text for kind, text in BLOCKS if kind == "pools"]
    (tmp_path / "pools.yaml").write_text(text)
    pools = load_pools(tmp_path)
    assert (pools["gpu"].slots, pools["gpu"].queues) == (2, {"background": 1})
    for name in ("gpu", "eval"):
        assert machine_of(name, tmp_path)[1] == "H100"


@pytest.mark.parametrize("line", LINES)
def test_each_command_exists(line: str) -> None:
    words = line.partition("#")[0].split()
    deployments = yaml.safe_load((REPOSITORY / "prefect.yaml").read_text())["deployments"]
    match words:
        case ["videollava", "machine", name]:
            assert name in preset_names()
        case ["videollava", command, *_]:
            assert command in COMMANDS or command in VIEWS
        case ["python", "-m", "flows.worker", pool]:
            assert pool in load_pools(REPOSITORY)
        case ["python", "-m", module]:
            assert find_spec(module)
        case ["make", verb]:
            assert re.search(f"^{verb}:", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
        case ["prefect", "deployment", "run", name, *_]:
            known = {f"{one['entrypoint'].rpartition(':')[2]}/{one['name']}" for one in deployments}
            assert name in known
        case _:
            assert words[0] == "prefect", line


def test_what_a_trigger_is_given_is_taken() -> None:
    import json

    from flows.deployed import retrain

    found = re.findall(r"retrain/team --params '(.*?)'", PAGE)
    assert len(found) == 2
    for text in found:
        retrain.validate_parameters(json.loads(text))
