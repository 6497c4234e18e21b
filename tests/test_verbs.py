"""Every verb of the Makefile, through make itself.

Quick: with stand-ins for the programs of .venv that write down how they are called. Slow: the verbs themselves, but
for those that take many minutes or another machine, whose programs have tests of their own: install and lock (package
indexes), claims (tests/flows/claims), bench (tests/bench), gpu-check (tests/bench/test_gpu_check.py), up and down
(tests/flows/stack); clean and purge run in tests/flows/test_clean.py.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
# A program of .venv: writes down its name and words, and does what little a recipe counts on.
STAND_IN = """\
#!/bin/sh
echo "$(basename "$0") $*" >> "$CALLS"
case "$*" in
  "-m venv "*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" && cp "$0" "$3/bin/uv" ;;
  *"torch.cuda.is_available"*) echo --small ;;
  "params --schema") echo '{"schema": 1}' ;;
  "params --markdown") echo '# Parameters' ;;
  *gate.rules*) echo '{"gate": 1}' ;;
  *"$FAILS"*) test -z "$FAILS" ;;
esac
"""
PYTEST = "python -m pytest"
INSTALL = (
    "--python .venv/bin/python --no-deps --no-build-isolation-package deepspeed -r requirements.lock",
    "--python .venv/bin/python --no-deps --no-build-isolation -e .",
)
# What each verb calls, in order; parts of lines.
CALLS = {
    "retrain": ["python -m flows.retrain --set seed=1"],
    "encoders": ["dvc repro align", "videollava evaluate"],
    "test": [f"{PYTEST} -m not slow -n 2 --timeout 600 --set seed=1"],
    "test-all": [f"{PYTEST} --set seed=1"],
    "check": ["ruff format --check .", "ruff check .", "mypy"],
    "claims": ["python -m flows.claims --set seed=1"],
    "bench": ["python bench/first.py", "python bench/second.py"],
    "gpu-check": [
        "python -m bench.gpu_check.bundle --to .gpu-check",
        "python -c import torch",
        "python -m bench.gpu_check --bundle .gpu-check --out gpu-check --small --set seed=1",
    ],
    "gpu-check-bundle": ["python -m bench.gpu_check.bundle --to .gpu-check"],
    "up": ["python -m flows.stack up --set seed=1"],
    "down": ["python -m flows.stack down --set seed=1"],
    "ui": ["python -m flows.ui"],
    "docs": [
        "videollava params --schema",
        "videollava params --markdown",
        "python -c from videollava.gate.rules",
    ],
    "lock": ["uv pip compile", "python -m videollava.tracking.packages torch=="],
    "clean": ["python -m flows.clean"],
    "purge": ["python -m flows.clean --all --confirm"],
    "install": [],
    "help": [],
}


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    """A folder with the Makefile and an environment of stand-ins."""
    for name in ("Makefile", "requirements.lock", "pyproject.toml"):
        shutil.copy(REPOSITORY / name, tmp_path)
    for folder in ("bench", "docs", ".venv/bin"):
        (tmp_path / folder).mkdir(parents=True)
    for name in ("first", "second"):
        (tmp_path / f"bench/{name}.py").touch()
    for name in ("python", "uv", "ruff", "mypy", "videollava", "dvc"):
        stand_in(tmp_path / ".venv/bin" / name)
    (tmp_path / ".venv/.installed").touch()
    return tmp_path


def stand_in(file: Path) -> Path:
    file.write_text(STAND_IN)
    file.chmod(0o755)
    return file


def outside(*without: str) -> dict[str, str]:
    """The environment as it is outside of a make that runs these tests: what make hands down (its flags, and what was
    set in its command line, like ARGS) is nothing that a verb called here may see.
    """
    handed = {"ARGS", "BUNDLE", "PYTHON", "VENV", "PYTHONDONTWRITEBYTECODE"}
    return {
        name: value
        for name, value in os.environ.items()
        if name not in handed and not name.startswith(("MAKE", "MFLAGS", *without))
    }


def make(folder: Path, *words: str, fails: str = "") -> tuple[int, list[str], str]:
    """make's exit status, the calls it made, and what it said."""
    calls = folder / "calls"
    calls.unlink(missing_ok=True)
    done = subprocess.run(
        ["make", *words],
        cwd=folder,
        env={**outside(), "CALLS": str(calls), "FAILS": fails},
        capture_output=True,
        text=True,
        check=False,
    )
    lines = calls.read_text().splitlines() if calls.is_file() else []
    return done.returncode, lines, done.stdout + done.stderr


def test_every_verb_is_in_here() -> None:
    text = (REPOSITORY / "Makefile").read_text()
    (phony,) = re.findall(r"^\.PHONY: (.*)$", text, re.MULTILINE)
    targets = re.findall(r"^([a-z][a-z-]*):", text, re.MULTILINE)
    assert set(phony.split()) == set(targets) == set(CALLS)


@pytest.mark.parametrize("verb", sorted(CALLS.keys() - {"install", "help"}))
def test_a_verb_calls_what_it_is_for(scratch: Path, verb: str) -> None:
    status, calls, said = make(scratch, verb, "ARGS=--set seed=1")
    assert status == 0, said
    assert len(calls) == len(CALLS[verb]), calls
    for call, wanted in zip(calls, CALLS[verb], strict=True):
        assert call.startswith(wanted)
    if verb == "docs":
        written = {path.name: path.read_text() for path in (scratch / "docs").iterdir()}
        assert written == {
            "params.schema.json": '{"schema": 1}\n',
            "parameters.md": "# Parameters\n",
            "gate.schema.json": '{"gate": 1}\n',
        }


@pytest.mark.parametrize(
    ("verb", "fails", "last"),
    [
        ("check", "format --check", "ruff format --check ."),
        ("encoders", "repro", "dvc repro align"),
        ("bench", "bench/first.py", "python bench/first.py"),
        ("gpu-check", "gpu_check.bundle", "python -m bench.gpu_check.bundle --to .gpu-check"),
        ("test", "pytest", f"{PYTEST} -m not slow -n 2 --timeout 600"),
    ],
)
def test_what_fails_ends_a_verb(scratch: Path, verb: str, fails: str, last: str) -> None:
    status, calls, _ = make(scratch, verb, fails=fails)
    assert status != 0
    assert calls[-1] == last


def test_install_lays_the_pins_once_and_before_any_verb(scratch: Path) -> None:
    shutil.rmtree(scratch / ".venv")
    (scratch / "elsewhere").mkdir()
    python = stand_in(scratch / "elsewhere/python9")
    status, calls, said = make(scratch, "install", f"PYTHON={python}")
    assert status == 0, said
    wanted = [
        "python9 -c import sys",
        "python9 -m venv .venv",
        "python -m pip install --quiet --disable-pip-version-check torch==",
        "python -m pip install --quiet --disable-pip-version-check uv==",
        f"uv pip install --quiet {INSTALL[0]}",
        f"uv pip install --quiet {INSTALL[1]}",
    ]
    assert len(calls) == len(wanted), calls
    assert all(call.startswith(words) for call, words in zip(calls, wanted, strict=True)), calls
    assert make(scratch, "install", f"PYTHON={python}")[:2] == (0, [])
    (scratch / ".venv/.installed").unlink()
    calls = make(scratch, "install", f"PYTHON={python}", "PYTHONDONTWRITEBYTECODE=1")[1]
    assert calls[len(wanted) - 1 :] == [
        "python -m compileall -qq -j 0 -x /tests/ .venv/lib"
    ]  # nobody else would
    later = (scratch / ".venv/.installed").stat().st_mtime + 10
    os.utime(scratch / "requirements.lock", (later, later))
    stand_in(scratch / ".venv/bin/videollava")
    assert INSTALL[0] in " ".join(make(scratch, "ui", f"PYTHON={python}")[1])


def test_install_goes_on_with_pip_where_uv_cannot(scratch: Path) -> None:
    (scratch / ".venv/.installed").unlink()
    status, calls, said = make(
        scratch, "install", f"PYTHON={scratch / '.venv/bin/python'}", fails="--no-build-isolation-package"
    )
    assert status == 0, said
    assert "python -m pip install --quiet --no-deps --no-build-isolation -r requirements.lock" in calls
    status, calls, _ = make(scratch, "-B", "install", "PYTHON=false")
    assert (status, calls) == (2, [])


def test_help_names_every_verb(scratch: Path) -> None:
    status, calls, said = make(scratch, "help")
    assert (status, calls) == (0, [])
    told = dict(line.split(maxsplit=1) for line in said.splitlines())
    assert set(told) == set(CALLS)
    assert make(scratch)[2] == said  # what make does without a verb


@pytest.fixture
def real(scratch: Path) -> Path:
    """The same with the environment that these tests run in, and this repository's code."""
    shutil.rmtree(scratch / ".venv")
    (scratch / ".venv").symlink_to(sys.prefix)
    for name in ("videollava", "flows"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(REPOSITORY / name, scratch / name, ignore=ignored)
    return scratch


def make_real(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """As a person who has installed it: the stamp, which a link to an environment has not, counts as old."""
    return subprocess.run(
        ["make", "-o", ".venv/.installed", *words],
        cwd=folder,
        env={**outside("PREFECT_API_URL", "PYTEST_"), "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
def test_docs_writes_what_is_committed(real: Path) -> None:
    done = make_real(real, "docs")
    assert done.returncode == 0, done.stderr
    for name in ("params.schema.json", "parameters.md", "gate.schema.json"):
        assert (real / "docs" / name).read_text() == (REPOSITORY / "docs" / name).read_text()


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["test", "test-all"])
def test_the_tests_run_and_fail(real: Path, verb: str) -> None:
    tests = real / "tests"
    (tests / "data").mkdir(parents=True)
    (tests / "test_one.py").write_text(
        "import pytest, pathlib\n"
        "def test_quick(): pathlib.Path('quick').touch()\n"
        "@pytest.mark.slow\n"
        "def test_slow(): pathlib.Path('slow').touch()\n"
    )
    done = make_real(real, verb)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (real / "quick").exists()
    assert (real / "slow").exists() is (verb == "test-all")
    (tests / "test_two.py").write_text("def test_wrong(): assert False\n")
    assert make_real(real, verb, "ARGS=-k wrong").returncode != 0


@pytest.mark.slow
def test_check_reads_format_rules_and_types(real: Path) -> None:
    for name in ("videollava", "flows"):
        shutil.rmtree(real / name)
        (real / name).mkdir()
        (real / name / "__init__.py").touch()
    code = real / "videollava/one.py"
    for text, fine in (
        ('"""One."""\n\n__all__ = ["ONE"]\n\nONE: int = 1\n', True),
        ('"""One."""\n\n__all__ = ["ONE"]\n\nONE: int = "1"\n', False),
        ('"""One."""\n\nimport os\n\n__all__ = ["ONE"]\n\nONE: int = 1\n', False),
        ('"""One."""\n\n__all__ = ["ONE"]\n\nONE: int = 1+1\n', False),
    ):
        code.write_text(text)
        done = make_real(real, "check")
        assert (done.returncode == 0) is fine, done.stdout + done.stderr


@pytest.mark.slow
def test_ui_serves_both_pages_until_it_is_told_to_end(real: Path) -> None:
    for name in ("params.yaml", "dvc.yaml", "pools.yaml"):
        shutil.copy(REPOSITORY / name, real)
    running = subprocess.Popen(
        ["make", "-o", ".venv/.installed", "ui"],
        cwd=real,
        env={
            **outside("PREFECT_", "MLFLOW_TRACKING_URI"),
            "PYTHONPATH": str(real),
            "PREFECT_HOME": str(real / "client"),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    late = threading.Timer(300, os.killpg, (running.pid, signal.SIGKILL))
    late.start()
    try:
        assert running.stdout is not None
        said: list[str] = []
        for line in running.stdout:
            said.append(line)
            if "Ctrl-C" in line:
                break
        pages = dict(line.split() for line in said if line.startswith(("Prefect ", "MLflow ")))
        assert set(pages) == {"Prefect", "MLflow"}, said
        for address in (f"{pages['Prefect']}/api/health", f"{pages['MLflow']}/health"):
            with urllib.request.urlopen(address, timeout=30) as reply:
                assert reply.status == 200
        os.killpg(running.pid, signal.SIGINT)
        running.wait(60)
        for address in pages.values():
            with pytest.raises(OSError, match="refused"):
                urllib.request.urlopen(address, timeout=5)
    finally:
        late.cancel()
        if running.poll() is None:
            os.killpg(running.pid, signal.SIGKILL)
