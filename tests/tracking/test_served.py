"""What a registered model takes over HTTP, asked of a real `mlflow models serve`, and in a data frame."""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from videollava.params import Params
from videollava.registry import open_store, register

QUESTION = "what color is the shape?"
PATIENCE = 180.0


@pytest.fixture
def pictures(tmp_path: Path) -> tuple[Path, Path]:
    """One below the folder that is allowed, one beside it, and a link from the one to the other."""
    from PIL import Image

    allowed = tmp_path / "allowed"
    allowed.mkdir()
    Image.new("RGB", (20, 20), (200, 30, 30)).save(allowed / "in.png")
    Image.new("RGB", (20, 20), (30, 30, 200)).save(tmp_path / "out.png")
    (allowed / "link.png").symlink_to(tmp_path / "out.png")
    return allowed, tmp_path / "out.png"


@pytest.fixture
def ask(
    workspace: Path, params: Params, model_folder: Path, keep, pictures, monkeypatch, tmp_path: Path
) -> Iterator[Callable[[Any], tuple[int, Any]]]:
    """Posts a body to the served model: (status, what came back)."""
    keep(model_folder, "first")
    version, _ = register(workspace, params)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    uri = open_store(workspace, params.tracking).uri
    environment = {
        **os.environ,
        "MLFLOW_TRACKING_URI": uri,
        "VIDEOLLAVA_WORKSPACE": str(workspace),
        "VIDEOLLAVA_MEDIA_ROOTS": str(pictures[0]),
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", version.reference, "--env-manager"]
    with (tmp_path / "served.log").open("w") as log:
        server = subprocess.Popen(
            [*command, "local", "--host", "127.0.0.1", "--port", str(port)],
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        _wait(server, f"http://127.0.0.1:{port}/ping", tmp_path / "served.log")
        yield lambda body: _post(f"http://127.0.0.1:{port}/invocations", body)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def _wait(server: subprocess.Popen[bytes], address: str, log: Path) -> None:
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until and server.poll() is None:
        try:
            urllib.request.urlopen(address, timeout=5)
        except OSError:
            time.sleep(0.3)
        else:
            return
    raise AssertionError(log.read_text())


def _post(address: str, body: Any) -> tuple[int, Any]:
    kind = {"Content-Type": "application/json"}
    request = urllib.request.Request(address, json.dumps(body).encode(), kind)
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE) as reply:
            return reply.status, json.load(reply)
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def _told(path: Path) -> str:
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"


@pytest.mark.slow
def test_a_served_model_takes_paths_that_are_allowed_and_base64_and_nothing_else(
    ask: Callable[[Any], tuple[int, Any]], pictures: tuple[Path, Path], model_folder: Path
) -> None:
    from videollava.serve.assistant import load

    allowed, outside = pictures
    assistant = load(model_folder)
    red, blue = (assistant.answer(QUESTION, images=path) for path in (allowed / "in.png", outside))
    assert red != blue
    given = [str(allowed / "in.png"), [str(allowed / "in.png")], _told(outside), None]
    rows = [{"question": QUESTION, "images": one} for one in given]
    status, reply = ask({"dataframe_records": rows})
    assert status == 200, reply
    assert reply["predictions"][:3] == [red, red, blue]
    columns = {"columns": ["question", "images"], "data": [[QUESTION, _told(outside)]]}
    assert ask({"dataframe_split": columns}) == (200, {"predictions": [blue]})
    for path in (
        str(outside),
        outside.as_uri(),
        str(allowed / "link.png"),
        f"{allowed}/../out.png",
        "/etc/hostname",
    ):
        status, reply = ask({"dataframe_records": [{"question": QUESTION, "images": path}]})
        assert status >= 400
        assert "sample 0, image 1" in reply
    broken = "data:image/png;base64," + base64.b64encode(b"no picture").decode()
    for body, reason in (
        ([{"question": QUESTION, "images": broken}], "image 1"),
        ([{"question": QUESTION, "images": "http://169.254.169.254/x"}], "not on the public internet"),
        ([{"images": _told(outside)}], "question"),
    ):
        status, reply = ask({"dataframe_records": body})
        assert status >= 400
        assert reason in reply
    assert ask({"dataframe_split": columns})[0] == 200  # what was refused has ended nothing


def test_bytes_in_a_data_frame(
    workspace: Path, params: Params, model_folder: Path, keep, pictures, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow
    import pandas

    monkeypatch.setenv("VIDEOLLAVA_WORKSPACE", str(workspace))
    monkeypatch.delenv("VIDEOLLAVA_MEDIA_ROOTS", raising=False)
    keep(model_folder, "first")
    version, _ = register(workspace, params)
    model = mlflow.pyfunc.load_model(version.reference)
    allowed, outside = pictures
    frame = pandas.DataFrame(
        {
            "question": [QUESTION] * 3,
            "images": [outside.read_bytes(), _told(outside), [(allowed / "in.png").read_bytes()]],
        }
    )
    blue, again, red = model.predict(frame)
    assert blue == again != red
    with pytest.raises(ValueError, match="files of the server are not read"):
        model.predict(pandas.DataFrame({"question": [QUESTION], "images": [str(allowed / "in.png")]}))
