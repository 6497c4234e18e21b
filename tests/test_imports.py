"""Rooms import downwards only, and the outside libraries stay where they belong."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "videollava"
ROOMS = ("data", "model", "embedding", "train", "evaluate", "serve")
FILES = sorted(PACKAGE.rglob("*.py"))


def imports(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def room(file: Path) -> str:
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_a_room_knows_nothing_of_the_rooms_above_it(file: Path) -> None:
    here = room(file)
    above = ROOMS[ROOMS.index(here) + 1 :] if here in ROOMS else ()
    for name in imports(file):
        assert not name.startswith(tuple(f"videollava.{other}" for other in above)), f"{file} imports {name}"


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_orchestration_stays_outside(file: Path) -> None:
    outside = {name.split(".")[0] for name in imports(file)}
    assert not outside & {"prefect", "dvc", "flows"}
    # serve/pyfunc.py is the file that MLflow itself runs (models from code).
    if room(file) not in ("tracking", "registry") and file.name != "pyfunc.py":
        assert "mlflow" not in outside


def test_the_package_imports_without_the_pipeline_libraries() -> None:
    code = (
        "import sys\n"
        "for name in ('prefect', 'mlflow', 'dvc', 'boto3', 'decord', 'av', 'deepspeed'): sys.modules[name] = None\n"
        "import videollava, videollava.cli, videollava.serve.assistant, videollava.train.instruct\n"
        "import videollava.evaluate.stage\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom videollava.cli import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "heavy = {'torch', 'transformers', 'numpy', 'mlflow', 'prefect', 'dvc', 'pyarrow', 'yaml'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
