"""What a run read is among its inputs in MLflow, by the hashes that DVC gave."""

from __future__ import annotations

import json
from pathlib import Path

import yaml

from videollava.params import Params, Tracking
from videollava.tracking import track
from videollava.tracking.data_sets import read_data_sets
from videollava.tracking.forward import replay
from videollava.tracking.journal import journals, read_events
from videollava.tracking.store import connect, find_run

STAGES = {
    "shards": {"cmd": "x", "deps": ["a"], "outs": ["data/shards/one"]},
    "index": {"cmd": "x", "deps": ["data/shards/one", "code.py"], "outs": ["data/index"]},
    "finetune": {"cmd": "x", "deps": ["data/index"], "outs": ["models/videollava"]},
}
INDEX, SHARDS = "1" * 32 + ".dir", "2" * 32 + ".dir"
LOCK = {
    "shards": {"outs": [{"path": "data/shards/one", "md5": SHARDS, "size": 7, "nfiles": 2}]},
    "index": {"outs": [{"path": "data/index", "md5": INDEX}]},
}


def lay_out(root: Path) -> None:
    (root / "dvc.yaml").write_text(yaml.safe_dump({"stages": STAGES}))
    (root / "dvc.lock").write_text(yaml.safe_dump({"stages": LOCK}))
    (root / "params.yaml").write_text("seed: 0\n")
    (root / "data/index").mkdir(parents=True)
    (root / "data/index/summary.json").write_text(json.dumps({"splits": {"finetune": {"records": 5}}}))


def test_data_sets_are_the_index_and_its_sources(tmp_path: Path) -> None:
    lay_out(tmp_path)
    index, one = read_data_sets(tmp_path, "finetune")
    assert (index["name"], index["digest"], json.loads(index["profile"])) == (
        "data/index",
        "1" * 32,
        {"finetune": 5},
    )
    assert (one["name"], one["digest"], json.loads(one["profile"])) == (
        "one",
        "2" * 32,
        {"size": 7, "nfiles": 2},
    )
    assert json.loads(one["source"]) == {"path": "data/shards/one", "md5": SHARDS}
    assert read_data_sets(tmp_path, "index") == []
    (tmp_path / "dvc.lock").unlink()
    assert read_data_sets(tmp_path, "finetune") == []


def test_they_are_inputs_of_the_run(tmp_path: Path) -> None:
    lay_out(tmp_path)
    tracking = Tracking(uri=f"sqlite:///{tmp_path}/mlflow.db")
    with track("finetune", Params(tracking=tracking), tmp_path):
        pass
    assert replay(tmp_path, tracking).error == ""
    store = connect(tmp_path, tracking)
    first = read_events(journals(tmp_path / "runs")[0])[0][0]
    run = store.client.get_run(find_run(store, journal=first["id"]))
    found = {one.dataset.name: one for one in run.inputs.dataset_inputs}
    assert {name: one.dataset.digest for name, one in found.items()} == {
        "data/index": "1" * 32,
        "one": "2" * 32,
    }
    assert [(tag.key, tag.value) for tag in found["one"].tags] == [("mlflow.data.context", "training")]
