"""Against a real S3 server (SeaweedFS), on loopback."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made import params
from seaweed import KEY, SECRET, Seaweed

from videollava.data.acquire import attempts, download
from videollava.data.acquire.download import Download, fetch_url
from videollava.data.acquire.fetch import run
from videollava.data.acquire.remote import see_url
from videollava.errors import InputError
from videollava.params import Source

pytestmark = pytest.mark.slow
DATA = np.random.default_rng(0).bytes(3 << 20)


@pytest.fixture(scope="module")
def seaweed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seaweed]:
    server = Seaweed(tmp_path_factory.mktemp("seaweed"), anonymous=("Read:open", "List:open"))
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture
def bucket(seaweed: Seaweed, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A client of a bucket `data`, with the environment that the code under test reads."""
    for name, value in {
        "AWS_ENDPOINT_URL": seaweed.url,
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(attempts, "FIRST_PAUSE", 0.0)
    client = seaweed.client()
    if "data" not in [bucket["Name"] for bucket in client.list_buckets()["Buckets"]]:
        client.create_bucket(Bucket="data")
    return client


def item(folder: Path, data: bytes = DATA, key: str = "a.tar") -> Download:
    return Download(
        f"s3://data/{key}", folder / "a.tar", hashlib.sha256(data).hexdigest(), "params.yaml: mine"
    )


def fetch(wanted: Download) -> int:
    counts: list[int] = []
    fetch_url(wanted, 1, counts.append, threading.Event())
    return sum(counts)


def test_goes_on_where_it_was_stopped(bucket: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket.put_object(Bucket="data", Key="a.tar", Body=DATA)
    stop = threading.Event()
    monkeypatch.setattr(download, "BLOCK", 1 << 16)
    with pytest.raises(InputError, match="stopped; what has arrived is kept"):
        fetch_url(item(tmp_path), 1, lambda count: stop.set() if count else None, stop)
    assert (tmp_path / "a.tar.part").stat().st_size == 1 << 16
    assert fetch(item(tmp_path)) == len(DATA)
    assert (tmp_path / "a.tar").read_bytes() == DATA


def test_a_changed_object_starts_again(bucket: Any, tmp_path: Path) -> None:
    etag = bucket.put_object(Bucket="data", Key="a.tar", Body=DATA[::-1])["ETag"]
    (tmp_path / "a.tar.part").write_bytes(DATA[::-1][:1000])
    (tmp_path / "a.tar.version").write_text(etag)
    bucket.put_object(Bucket="data", Key="a.tar", Body=DATA)
    assert fetch(item(tmp_path)) == len(DATA)
    assert (tmp_path / "a.tar").read_bytes() == DATA


def test_everything_had_arrived(bucket: Any, tmp_path: Path) -> None:
    etag = bucket.put_object(Bucket="data", Key="a.tar", Body=DATA)["ETag"]
    (tmp_path / "a.tar.part").write_bytes(DATA)
    (tmp_path / "a.tar.version").write_text(etag)
    assert fetch(item(tmp_path)) == len(DATA)


def test_what_is_wrong_is_named(bucket: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"s3://data/missing: .*check bucket, key and credentials"):
        fetch(item(tmp_path, key="missing"))
    with pytest.raises(InputError, match="s3://data/missing"):
        see_url("s3://data/missing", "")
    bucket.put_object(Bucket="data", Key="a.tar", Body=b"other")
    with pytest.raises(InputError, match="its sha256 is"):
        fetch(item(tmp_path))


def test_the_stage_fetches_from_s3(bucket: Any, tmp_path: Path) -> None:
    bucket.put_object(Bucket="data", Key="folder/with space.tar", Body=DATA)
    digest = hashlib.sha256(DATA).hexdigest()
    source = Source(
        name="far",
        kind="archive",
        format="llava",
        urls=("s3://data/folder/with%20space.tar",),
        sha256=(digest,),
    )
    run(params(source), tmp_path)
    assert (tmp_path / "data/raw/far/with space.tar").read_bytes() == DATA


@pytest.mark.parametrize(
    "key", ["a b+c.tar", "x//y.tar", "小 ü.tar", "what?#&=.tar", "100%.tar", "a%20b.tar"]
)
def test_keys_of_any_characters(bucket: Any, tmp_path: Path, key: str) -> None:
    bucket.put_object(Bucket="data", Key=key, Body=DATA)
    assert fetch(item(tmp_path, key=key)) == len(DATA)
    assert see_url(f"s3://data/{key}", "").size == len(DATA)


def test_without_credentials_requests_are_unsigned(
    bucket: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket.put_object(Bucket="data", Key="a.tar", Body=DATA)
    monkeypatch.setenv("AWS_NO_SIGN_REQUEST", "YES")
    with pytest.raises(InputError, match=r"asked unsigned: no credentials were found.*AWS_ACCESS_KEY_ID"):
        fetch(item(tmp_path))
    monkeypatch.delenv("AWS_NO_SIGN_REQUEST")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    with pytest.raises(InputError, match="asked unsigned"):
        fetch(item(tmp_path))


def test_settings_that_cannot_be_used_are_said(
    bucket: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match=r"s3://A_B%/x.tar: .*[Ii]nvalid bucket name"):
        fetch(Download("s3://A_B%/x.tar", tmp_path / "x.tar", "0" * 64, "params.yaml: mine"))
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")  # not for a server of this machine
    bucket.put_object(Bucket="data", Key="a.tar", Body=DATA)
    assert fetch(item(tmp_path)) == len(DATA)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "nonsense")
    with pytest.raises(InputError, match="the settings for s3 cannot be used"):
        fetch(item(tmp_path / "2"))
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(InputError, match="nobody"):
        fetch(item(tmp_path / "2"))
