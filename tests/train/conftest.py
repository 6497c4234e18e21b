"""A micro workspace: two dozen clips, really fetched and prepared, some held out; encoders and bases made once."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from micro import MACHINE, ROOT, micro, sources, write_machine


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """data/index, models/bases and models/encoders of the micro parameters; read only."""
    from videollava.data.acquire import fetch
    from videollava.data.prepare import held_out, index, shards
    from videollava.train import align, bases

    workspace = tmp_path_factory.mktemp("micro")
    for name in ("dvc.yaml", "params.yaml"):
        shutil.copy(ROOT / name, workspace)
    params = micro(sources(workspace / "from"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(held_out, "ONE_IN", 8)  # as it is, of so few records nothing would be held out
        for stage in (fetch, shards, index, bases, align):
            stage.run(params, workspace, MACHINE)
    write_machine(workspace)
    return workspace


@pytest.fixture
def workspace(made: Path, tmp_path: Path) -> Callable[[str], Path]:
    """Fresh copies of the micro workspace, by name."""

    def copy(name: str = "work") -> Path:
        target = tmp_path / name
        shutil.copytree(made, target, ignore=shutil.ignore_patterns("raw", "checkpoints", "runs"))
        return target

    return copy
