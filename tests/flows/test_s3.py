"""One machine trains and pushes to S3, another restores the stages and loads the version: a real S3 server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from seaweed import KEY, SECRET, Seaweed

from flows.stages.stage import push_stages, run_stage
from flows.storage import stores
from videollava import cli
from videollava.errors import InputError
from videollava.registry.manifest import folder_key, materialise, missing_files, read_manifest

pytestmark = pytest.mark.slow


@pytest.fixture
def endpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A running server with a bucket `models`; its keys are in the environment."""
    folder = tmp_path / "seaweed"
    folder.mkdir()
    server = Seaweed(folder)
    for name, value in {
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)
    try:
        server.start()
        server.client().create_bucket(Bucket="models")
        yield server.url
    finally:
        server.stop()


def test_over_s3(workspace: Path, tmp_path: Path, endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    other = tmp_path / "other"
    subprocess.run(["git", "clone", "--quiet", str(workspace), str(other)], check=True)
    for place in (workspace, other):
        config = (place / ".dvc" / "config").read_text()
        remote = f"['remote \"far\"']\n    url = s3://models/dvc\n    endpointurl = {endpoint}\n"
        (place / ".dvc" / "config").write_text(f"{config}    remote = far\n{remote}")
    for stage in ("fetch", "finetune", "evaluate"):
        assert run_stage(workspace, stage, print).outcome == "ran"
        push_stages(workspace, [stage], print)
    assert [run_stage(other, stage, print).outcome for stage in ("fetch", "finetune", "evaluate")] == [
        "restored"
    ] * 3
    manifest = read_manifest(workspace / ".dvc/cache", folder_key(workspace))
    far = [store for store in stores(workspace) if store.url.startswith("s3://")]
    assert missing_files(manifest, far, tmp_path / "models") == ""
    assert not (tmp_path / "models").exists()
    # The trainer's profile is no reason to fail for a reader who has none of that name.
    theirs = [replace(place, profile="of-the-trainer", region="us-east-1") for place in far]
    folder = materialise(manifest, theirs, tmp_path / "models")
    assert (folder / "model.safetensors").read_text() == "weights after 2"
    assert "test-secret" not in json.dumps(manifest.config(far))
    monkeypatch.setitem(os.environ, "AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(InputError, match=r"s3://models/dvc.*(403|Forbidden|SignatureDoesNotMatch)"):
        materialise(manifest, far, tmp_path / "elsewhere")
    assert "403" in missing_files(manifest, far, tmp_path / "elsewhere")


def test_a_bucket_is_made_the_remote_once_it_takes_an_object(
    endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DVC_GLOBAL_CONFIG_DIR", str(tmp_path / "global"))
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / "site"))
    root = tmp_path / "mine"
    (root / ".dvc").mkdir(parents=True)
    (root / ".dvc/config").write_text("[core]\n    analytics = false\n")
    subprocess.run(["git", "init", "--quiet", str(root)], check=True)
    monkeypatch.chdir(root)
    assert cli.main(["remote", "set", "s3://no-such-bucket/x", "--endpoint", endpoint]) == 2
    assert "create the bucket, or mend its name" in capsys.readouterr().err
    assert "remote" not in (root / ".dvc/config").read_text()
    words = ["remote", "set", "s3://models/data", "--endpoint", endpoint, "--region", "us-east-1"]
    assert cli.main(words) == 0
    said = capsys.readouterr().out
    assert f"store  s3://models/data  endpoint {endpoint}  region us-east-1: can be written to" in said
    assert "keys belong to your machine, never into git" in said
    assert SECRET not in (root / ".dvc/config").read_text()
    (root / "x").write_text("x")
    for step in (["add", "x"], ["push"]):
        subprocess.run([sys.executable, "-m", "dvc", *step], cwd=root, check=True, capture_output=True)
    assert [place.url for place in stores(root)][1:] == ["s3://models/data"]
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    assert cli.main(words) == 2
    assert "nothing can be written there" in capsys.readouterr().err
