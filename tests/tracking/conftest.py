"""A workspace as DVC leaves it (lock, cache, metrics), and an MLflow store whose tables are made once."""

from __future__ import annotations

import hashlib
import json
import shutil
import threading
import warnings
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from videollava.params import Params, Tracking, parse_params

TRACKING = Tracking()
Answer = tuple[int, str, str]
FILES = {"config.json": '{"model_type": "toy"}', "model.safetensors": "weights"}


def put(cache: Path, content: bytes, suffix: str = "") -> str:
    md5 = hashlib.md5(content).hexdigest() + suffix
    file = cache / "files" / "md5" / md5[:2] / md5[2:]
    file.parent.mkdir(parents=True, exist_ok=True)
    if not file.exists():
        file.write_bytes(content)
        file.chmod(0o444)
    return md5


def train(workspace: Path, weights: str, accuracy: float, blind: float = 20.0) -> None:
    """What `dvc repro` would leave after training: the model in the cache, dvc.lock, metrics.json."""
    files = {**FILES, "model.safetensors": weights}
    cache = workspace / ".dvc" / "cache"
    rows = [{"md5": put(cache, text.encode()), "relpath": name} for name, text in sorted(files.items())]
    key = put(cache, json.dumps(rows, sort_keys=True).encode(), ".dir")
    folder = workspace / "models" / "videollava"
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text)
    stages = {
        "prepare": {"cmd": "p", "outs": [{"path": "data/index", "md5": "d.dir"}]},
        "finetune": {"cmd": "f", "outs": [{"path": "models/videollava", "md5": key}]},
        "evaluate": {"cmd": "e", "outs": [{"path": "evaluation", "md5": answer(cache, accuracy)}]},
    }
    (workspace / "dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": stages}))
    scores = {"accuracy": accuracy, "blind_accuracy": blind}
    (workspace / "metrics.json").write_text(json.dumps({"easy_vqa": scores}))


def answer(cache: Path, accuracy: float) -> str:
    """An evaluation of 400 questions, so many percent of them answered rightly, in the cache; its hash."""
    lines = [
        {
            "question_id": str(number),
            "question": "what color is it?",
            "answer": "red",
            "prediction": "red" if number < 4 * accuracy else "blue",
            "correct": number < 4 * accuracy,
            "media": [],
        }
        for number in range(400)
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    rows = [{"md5": put(cache, text.encode()), "relpath": "predictions/easy_vqa.jsonl"}]
    return put(cache, json.dumps(rows).encode(), ".dir")


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store's database with its tables made (seconds), to be copied."""
    from videollava.tracking.store import connect

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import mlflow.pyfunc  # noqa: F401  (it warns about its own type hints)

    folder = tmp_path_factory.mktemp("template")
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    assert connect(folder, Tracking(uri=uri, experiment="template")).experiment
    return folder / "mlflow.db"


@pytest.fixture
def workspace(tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with params.yaml, a DVC cache and its own MLflow store."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    folder = tmp_path / "ws"
    (folder / ".dvc").mkdir(parents=True)
    (folder / ".mlflow").mkdir()
    shutil.copy(empty_store, folder / ".mlflow" / "mlflow.db")
    (folder / "params.yaml").write_text("seed: 1\nfinetune: {epochs: 2}\n")
    (folder / "gate.yaml").write_text(
        "default: {minimum_over_blind: 10.0, benchmarks: {easy_vqa: {minimum: 60.0}}}\n"
    )
    (folder / "dvc.yaml").write_text("stages: {finetune: {cmd: f, params: [finetune], deps: [], outs: []}}\n")
    return folder


@pytest.fixture
def params() -> Params:
    return parse_params({"seed": 1, "finetune": {"epochs": 2}})


@pytest.fixture
def trained(workspace: Path) -> Callable[..., Any]:
    def run(weights: str, accuracy: float, blind: float = 20.0) -> None:
        train(workspace, weights, accuracy, blind)

    return run


@pytest.fixture
def store_object() -> Callable[..., str]:
    """Puts bytes into a DVC cache: (cache, content, suffix) -> their name."""
    return put


@pytest.fixture
def keep(workspace: Path, store_object) -> Callable[[Path, str], None]:
    """As `dvc repro` leaves a trained model folder: its files in the cache, dvc.lock, metrics.json. Another note
    is another version: outputs alone tell them apart.
    """

    def run(folder: Path, note: str) -> None:
        cache = workspace / ".dvc" / "cache"
        rows = [
            {"md5": store_object(cache, file.read_bytes()), "relpath": file.name}
            for file in sorted(folder.iterdir())
        ]
        key = store_object(cache, json.dumps(rows, sort_keys=True).encode(), ".dir")
        stages = {
            "prepare": {"cmd": "p", "outs": [{"path": "data/index", "md5": f"{note}.dir"}]},
            "finetune": {"cmd": "f", "outs": [{"path": "models/videollava", "md5": key}]},
        }
        (workspace / "dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": stages}))
        (workspace / "metrics.json").write_text(json.dumps({"easy_vqa": {"accuracy": 50.0}}))

    return run


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Answer], str]]:
    """Starts what answers every request alike: (status, content type, body) -> its address."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    running: list[ThreadingHTTPServer] = []

    def start(answer: Answer) -> str:
        status, kind, body = answer

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body.encode())

            do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = answer

            def log_message(self, *_: object) -> None:
                pass

        running.append(ThreadingHTTPServer(("127.0.0.1", 0), Handler))
        threading.Thread(target=running[-1].serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{running[-1].server_address[1]}"

    yield start
    for one in running:
        one.shutdown()
        one.server_close()
