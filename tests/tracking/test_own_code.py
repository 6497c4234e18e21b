"""Each version answers by the code that it was made with, whatever is installed where it is asked."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import videollava
from videollava.errors import InputError
from videollava.params import Params
from videollava.registry import register
from videollava.registry.versions import version_code
from videollava.registry.whole.apart import Apart, code_files, digest_of, unpack, wheel_digest
from videollava.registry.whole.own_code import find_code
from videollava.registry.whole.requirements import differing, pin_requirements
from videollava.registry.whole.wheel import code_of, pack_code

PACKAGE = Path(videollava.__file__).parent
QUESTION = "what color is the shape?"
HEAD = "None, None, self.lm_head(hidden)"


@pytest.fixture
def copied(tmp_path: Path) -> Callable[[], Path]:
    """A copy of the package, as a later commit has it: the head's output has the other sign."""

    def copy() -> Path:
        target = tmp_path / "ws" / "videollava"
        for file in code_files(PACKAGE):
            place = target / file.relative_to(PACKAGE)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, place)
        changed = target / "model" / "video_llava.py"
        text = changed.read_text()
        assert text.count(HEAD) == 1
        changed.write_text(text.replace(HEAD, HEAD.replace("self", "-self")))
        return target

    return copy


def test_the_same_code_is_the_same_wheel_and_other_code_another(
    tmp_path: Path, copied, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheels = []
    for place in ("a", "b"):
        monkeypatch.setenv("VIDEOLLAVA_CACHE", str(tmp_path / place))
        wheels.append(pack_code(PACKAGE))
    assert wheels[0].name == wheels[1].name == f"videollava-0.1.0+c{digest_of(PACKAGE)}-py3-none-any.whl"
    assert wheels[0].read_bytes() == wheels[1].read_bytes()
    other = pack_code(copied())
    assert wheel_digest(other.name) != wheel_digest(wheels[0].name)
    names = zipfile.ZipFile(wheels[0]).namelist()
    assert {"videollava/evaluate/page.css", "videollava/profiles/tiny.yaml"} <= set(names)
    assert [name for name in names if name.endswith("licenses/LICENSE")]
    assert not [name for name in names if "__pycache__" in name or name.startswith("flows")]


def test_a_wheel_is_unpacked_once_and_again_where_somebody_edited_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VIDEOLLAVA_CACHE", str(tmp_path))
    wheel = pack_code(PACKAGE)
    folder = unpack(wheel, tmp_path / "code")
    assert digest_of(folder / "videollava") == digest_of(PACKAGE) == wheel_digest(wheel.name)
    (folder / "videollava" / "gate" / "planted.py").write_text("raise SystemExit(7)")
    assert unpack(wheel, tmp_path / "code") == folder
    assert not (folder / "videollava" / "gate" / "planted.py").exists()
    renamed = wheel.with_name("videollava-0.1.0+c000000000000-py3-none-any.whl")
    wheel.rename(renamed)
    with pytest.raises(ValueError, match="damaged"):
        unpack(renamed, tmp_path / "code")
    assert sorted(path.name for path in (tmp_path / "code").iterdir()) == [folder.name]


def test_requirements_name_nothing_that_a_stranger_could_publish(
    workspace: Path, params: Params, trained
) -> None:
    trained("first", 90.0)
    register(workspace, params)
    (file,) = (workspace / ".mlflow").rglob("requirements.txt")
    lines = file.read_text().splitlines()
    (ours,) = [line for line in lines if "videollava" in line.lower()]
    assert ours == f"artifacts/videollava-0.1.0+c{digest_of(PACKAGE)}-py3-none-any.whl"
    assert (file.parent / ours).is_file()
    pins = [line.partition("==") for line in lines if line != ours]
    assert all(name and version and "+" not in version for name, _, version in pins)
    assert {"torch", "transformers", "numpy", "tokenizers"} <= {name for name, _, _ in pins}
    (conda,) = (workspace / ".mlflow").rglob("conda.yaml")
    assert not [need for need in conda.read_text().split() if need.startswith("videollava")]


def test_packages_that_are_too_far_away_are_named() -> None:
    assert differing(pin_requirements()) == []
    told = differing(["torch==1.13.1", "peft==0.0.1", "rich==1.0", "artifacts/x.whl", "numpy"])
    assert told[0].startswith("torch 1.13.1 (here 2.")
    assert [line.partition(" ")[0] for line in told] == ["torch", "peft"]


@pytest.mark.slow
def test_each_version_answers_as_it_did(
    workspace: Path,
    params: Params,
    model_folder: Path,
    copied,
    keep,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import mlflow
    from PIL import Image

    from videollava.serve.assistant import load

    monkeypatch.setenv("VIDEOLLAVA_WORKSPACE", str(workspace))
    monkeypatch.setenv("VIDEOLLAVA_MEDIA_ROOTS", str(tmp_path))
    picture = tmp_path / "x.png"
    Image.new("RGB", (20, 20), (200, 30, 30)).save(picture)
    assistant = load(model_folder)
    before = assistant.answer(QUESTION, images=picture)
    sign = assistant.model.lm_head.register_forward_hook(lambda _module, _given, out: -out)
    after = assistant.answer(QUESTION, images=picture)
    sign.remove()
    assert before != after

    keep(model_folder, "first")
    assert code_of(workspace) == PACKAGE
    register(workspace, params)
    assert copied() == code_of(workspace)
    keep(model_folder, "second")
    register(workspace, params)
    rows = [{"question": QUESTION, "images": str(picture)}]
    answers = {
        number: mlflow.pyfunc.load_model(f"models:/videollava/{number}").predict(rows) for number in (1, 2)
    }
    assert answers == {1: [before], 2: [after]}
    assert find_code("models:/videollava/1", workspace).folder is None
    own = find_code("models:/videollava/2", workspace)
    assert own.notes == ()
    assert digest_of(own.folder / "videollava") == digest_of(workspace / "videollava")

    model = mlflow.pyfunc.load_model("models:/videollava/2")
    with pytest.raises(ValueError, match=r"outside|not read|below"):
        model.predict([{"question": QUESTION, "images": "/etc/hostname"}])
    assert model.predict(rows) == [after]

    # From a checkout of the changed code, by the command line: the first version's wheel is fetched.
    monkeypatch.chdir(workspace)
    monkeypatch.setenv("PYTHONPATH", str(workspace))
    ask = [sys.executable, "-m", "videollava", "ask", QUESTION, "--image", str(picture), "--model"]
    done = subprocess.run([*ask, "models:/videollava/1"], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == before.strip(), done.stderr
    assert "answers by its own code" in done.stderr


OTHER = """
import pickle, sys
told = pickle.load(sys.stdin.buffer)
def say(what):
    pickle.dump(what, sys.stdout.buffer)
    sys.stdout.buffer.flush()
say((True, None))
while True:
    rows = pickle.load(sys.stdin.buffer)
    if rows == ["end"]:
        sys.exit(3)
    say((False, "row 0: no") if rows == ["bad"] else (True, [f"{told} {row}" for row in rows]))
"""


def test_a_process_of_other_code_answers_refuses_and_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VIDEOLLAVA_CACHE", str(tmp_path / "cache"))
    # A checkout's folder comes before PYTHONPATH for `python -m`, unless it is kept out.
    monkeypatch.chdir(PACKAGE.parent)
    package = tmp_path / "videollava"
    (package / "registry" / "whole").mkdir(parents=True)
    for folder in (package, package / "registry", package / "registry" / "whole"):
        (folder / "__init__.py").write_text("")
    (package / "registry" / "whole" / "answering.py").write_text(OTHER)
    model = Apart(pack_code(package), {"key": 1}, tmp_path, ["/m"])
    assert model.ask(["a", "b"]) == [f"({{'key': 1}}, '{tmp_path}', ['/m']) {row}" for row in "ab"]
    with pytest.raises(ValueError, match="row 0: no"):
        model.ask(["bad"])
    process = model._process
    with pytest.raises(RuntimeError, match="ended"):
        model.ask(["end"])
    del model
    assert process.returncode is not None


def test_a_version_of_an_earlier_release_is_answered_by_this_code_and_that_is_said(
    workspace: Path, params: Params, trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    import videollava.registry.versions as module

    trained("first", 90.0)
    version, _ = register(workspace, params)
    config: dict[str, Any] = dict(module._read_config(version))
    monkeypatch.setattr(module, "_read_config", lambda _: {k: v for k, v in config.items() if k != "code"})
    own = find_code(version.reference, workspace, params.tracking)
    assert own.folder is None
    assert "carries no code of its own" in own.notes[0]
    with pytest.raises(InputError, match="not in the registry"):
        version_code(workspace, params.tracking, "7")


def test_a_version_whose_wheel_was_deleted_says_so(
    workspace: Path, params: Params, trained, tmp_path: Path
) -> None:
    trained("first", 90.0)
    version, _ = register(workspace, params)
    for wheel in (workspace / ".mlflow" / "artifacts").rglob("*.whl"):
        wheel.unlink()
    _, _, bring = version_code(workspace, params.tracking, version.reference)
    with pytest.raises(InputError, match="videollava/1: its code cannot be had"):
        bring(tmp_path)
