"""Keys and hashes that say where a result comes from."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import yaml

from videollava.params import Params
from videollava.scrub import scrub
from videollava.tracking.lineage import (
    digest,
    flatten,
    folder_md5,
    input_key,
    locked_input_key,
    read_lineage,
    stage_key,
)


def test_secrets_are_left_out_and_settings_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    flat = flatten({"a": {"api_key": "x", "tokens_per_pack": 8, "access_token": "y"}, "list": [1, 2]})
    assert flat == {"a.api_key": "***", "a.tokens_per_pack": "8", "a.access_token": "***", "list": "[1, 2]"}
    monkeypatch.setenv("STORE_SECRET", "abcdefgh123")
    assert scrub("at abcdefgh123 http://me:pw@host/x?X-Amz-Signature=77&n=1") == (
        "at *** http://***@host/x?X-Amz-Signature=***&n=1"
    )
    assert flatten(Params())["finetune.lora.r"] == "128"
    monkeypatch.setenv("PWD", "/somewhere/here")  # where the shell is: no password
    assert flatten({"places": ["/somewhere/here/x"], "pad_token": 0}) == {
        "places": '["/somewhere/here/x"]',
        "pad_token": "0",
    }


def test_a_number_is_one_number_however_it_is_written() -> None:
    assert digest({"lr": "1e-4"}) == digest({"lr": 0.0001})
    assert digest({"lr": 0.0001}) != digest({"lr": 0.0002})


def test_folder_md5_is_what_dvc_computes(tmp_path: Path) -> None:
    from dvc_data.hashfile.build import build
    from dvc_data.hashfile.db import HashFileDB
    from dvc_objects.fs import LocalFileSystem

    folder = tmp_path / "code"
    for name in ("b.py", "a/x.py", "a.py", "a-b/y.py", "ä.py"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"# {name}\n")
    system = LocalFileSystem()
    odb = HashFileDB(system, str(tmp_path / "odb"))
    _, _, made = build(odb, str(folder), system, "md5")
    (folder / "__pycache__").mkdir()
    (folder / "__pycache__" / "a.pyc").write_text("x")
    assert folder_md5(folder) == made.hash_info.value


def test_the_input_key_before_a_run_is_the_locked_one_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "a.py").write_text("x = 1\n")
    (tmp_path / "data").mkdir()
    (tmp_path / "params.yaml").write_text("train: {lr: 1e-3, epochs: 2}\nseed: 0\nother: 1\n")
    stages = {
        "prepare": {"cmd": "p", "deps": ["code"], "outs": ["data"]},
        "train": {"cmd": "t", "deps": ["data", "code"], "params": ["train", "seed"], "outs": ["model"]},
    }
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
    lock = {
        "prepare": {"outs": [{"path": "data", "md5": "d.dir"}]},
        "train": {
            "cmd": "t",
            "deps": [
                {"path": "code", "md5": folder_md5(tmp_path / "code")},
                {"path": "data", "md5": "d.dir"},
            ],
            "params": {"params.yaml": {"seed": 0, "train": {"epochs": 2, "lr": 0.001}}},
            "outs": [{"path": "model", "md5": "m.dir"}],
        },
    }
    (tmp_path / "dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": lock}))
    monkeypatch.setenv("DVC_STAGE", "train")
    assert input_key(tmp_path, "train") == locked_input_key(tmp_path, "train") != ""
    before = input_key(tmp_path, "train"), stage_key(tmp_path, "train")
    lock["train"]["outs"][0]["md5"] = "other.dir"
    (tmp_path / "dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": lock}))
    assert input_key(tmp_path, "train") == before[0]
    assert stage_key(tmp_path, "train") != before[1]
    (tmp_path / "params.yaml").write_text("train: {lr: 1e-3, epochs: 3}\nseed: 0\n")
    assert input_key(tmp_path, "train") != before[0]
    # By hand, the lock is not believed: what lies there counts.
    monkeypatch.delenv("DVC_STAGE")
    by_hand = input_key(tmp_path, "train")
    (tmp_path / "data" / "new").write_text("x")
    assert input_key(tmp_path, "train") != by_hand
    assert input_key(tmp_path, "nothing") == ""


def test_keys_of_other_files_are_part_of_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DVC_STAGE", "train")
    (tmp_path / "params.yaml").write_text("seed: 0\n")
    pins = tmp_path / "compute.lock"
    pins.write_text('torch: "2.10"\nruff: "1"\n')
    stage = {"cmd": "t", "params": ["seed", {"compute.lock": ["torch"]}], "outs": ["model"]}
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"train": stage}}))
    held = {"params.yaml": {"seed": 0}, "compute.lock": {"torch": "2.10"}}
    entry = {"cmd": "t", "params": held, "outs": [{"path": "model", "md5": "m"}]}
    (tmp_path / "dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": {"train": entry}}))
    key = input_key(tmp_path, "train")
    assert key == locked_input_key(tmp_path, "train")
    pins.write_text('torch: "2.10"\nruff: "2"\n')
    assert input_key(tmp_path, "train") == key
    bare = input_key(tmp_path, "train", parameters=False)
    pins.write_text('torch: "2.11"\nruff: "2"\n')
    assert input_key(tmp_path, "train") != key
    assert input_key(tmp_path, "train", parameters=False) != bare


def test_lineage_of_a_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    (tmp_path / "params.yaml").write_text("seed: 0\n")
    (tmp_path / "dvc.lock").write_text("stages: {}\n")
    assert read_lineage(tmp_path).commit == ""

    def git(*arguments: str) -> None:
        subprocess.run(
            ["git", "-c", "user.name=t", "-c", "user.email=t@t", *arguments], cwd=tmp_path, check=True
        )

    git("init", "--quiet")
    git("add", "-A")
    git("commit", "--quiet", "-m", "x")
    clean = read_lineage(tmp_path)
    assert len(clean.commit) == 40
    assert not clean.dirty
    (tmp_path / "dvc.lock").write_text("stages: {a: {}}\n")  # what every run changes
    assert not read_lineage(tmp_path).dirty
    (tmp_path / "params.yaml").write_text("seed: 1\n")
    dirty = read_lineage(tmp_path)
    assert dirty.dirty
    assert dirty.params != clean.params
    assert dirty.tags()["dirty"] == "true"
