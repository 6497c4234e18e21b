"""Against a real S3 server (SeaweedFS), on loopback."""

from __future__ import annotations

import hashlib
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from faulty import between
from made import params
from seaweed import KEY, SECRET, Seaweed

from videollava.data.acquire import attempts, download, pieces
from videollava.data.acquire.download import Download, fetch_url
from videollava.data.acquire.fetch import fetch_source, run
from videollava.data.acquire.look import lock_source
from videollava.data.acquire.mirror import mirror
from videollava.data.acquire.remote import see_url
from videollava.data.acquire.s3_client import Access
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


BELOW = Source(name="far", kind="archive", format="llava", urls=("s3://data/below/",))


def held(workspace: Path) -> dict[str, bytes]:
    root = workspace / "data/raw/far"
    files = [file for file in root.rglob("*") if file.is_file() and file.name != "source.json"]
    return {file.relative_to(root).as_posix(): file.read_bytes() for file in files}


@pytest.fixture
def objects(bucket: Any, monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """A few objects that come in pieces and many small ones, some of odd keys."""
    monkeypatch.setattr(pieces, "PIECE", 1 << 18)
    rng = np.random.default_rng(5)
    sizes = {"large/1.tar": 3_000_000, "large/2.tar": 1_234_567, "empty": 0}
    sizes |= {f"small/{number:03d}.png": 2_000 + 31 * number for number in range(150)}
    sizes |= dict.fromkeys(
        ("a b+c.tar", "小 ü.tar", "100%.tar", "a%20b.tar", "what?#&=.tar", "${HOME}.tar"), 999
    )
    made = {name: rng.bytes(size) for name, size in sizes.items()}
    for name, data in made.items():
        bucket.put_object(Bucket="data", Key=f"below/{name}", Body=data)
    return made


def test_everything_below_an_address(seaweed: Seaweed, objects: dict[str, bytes], tmp_path: Path) -> None:
    with between(seaweed.ports[0]) as way:
        source = BELOW.replace(endpoint=way.url)
        lock = fetch_source(source, tmp_path)
        assert held(tmp_path) == objects
        assert sum(way.sent.values()) > sum(map(len, objects.values()))
        assert {file.name: file.sha256 for file in lock.files} == {
            name: hashlib.sha256(data).hexdigest() for name, data in objects.items()
        }
        way.sent.clear()
        assert fetch_source(source, tmp_path) == lock
        assert way.sent == {}


def test_cut_connections_and_refusals_are_gone_through(
    seaweed: Seaweed, objects: dict[str, bytes], tmp_path: Path
) -> None:
    with between(seaweed.ports[0], refuse=5, cut=7) as way:
        fetch_source(BELOW.replace(endpoint=way.url), tmp_path, retries=8)
        assert held(tmp_path) == objects
        # What was cut went on where it broke: nothing came twice.
        sent = {name: count for name, count in way.sent.items() if "/below/large/" in name}
        assert sent == {f"/data/below/{name}": len(objects[name]) for name in objects if "large" in name}


def test_a_server_that_dies_and_comes_back(
    objects: dict[str, bytes], seaweed: Seaweed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempts, "FIRST_PAUSE", 0.2)
    monkeypatch.setattr(attempts, "LONGEST_PAUSE", 0.5)
    lock_source(BELOW, tmp_path)
    staged = tmp_path / "checkpoints/fetch/far"
    ended: list[BaseException] = []

    def fetching() -> None:
        try:
            fetch_source(BELOW, tmp_path, retries=150)
        except BaseException as error:
            ended.append(error)

    thread = threading.Thread(target=fetching)
    thread.start()
    while thread.is_alive() and not any(staged.rglob("small/*")):
        threading.Event().wait(0.005)
    seaweed.stop()
    seaweed.start()
    thread.join(120)
    assert not ended
    assert held(tmp_path) == objects


KILLED = """
import itertools, os, signal, sys
from pathlib import Path
from videollava.data.acquire import fetch, pieces
from videollava.params import Source

pieces.PIECE, fetch.CONNECTIONS = 1 << 20, 2
accept, numbers = pieces.Pieces.accept, itertools.count()

def accept_some(self, answer, start):
    if next(numbers) == int(sys.argv[1]):
        os.kill(os.getpid(), signal.SIGKILL)
    return accept(self, answer, start)

pieces.Pieces.accept = accept_some
fetch.fetch_source(Source(**{fields!r}), Path({workspace!r}))
"""


def test_a_killed_fetch_goes_on_with_the_pieces_it_has(seaweed: Seaweed, bucket: Any, tmp_path: Path) -> None:
    data = np.random.default_rng(6).bytes(40 << 20)
    bucket.put_object(Bucket="data", Key="big/whole.tar", Body=data)
    with between(seaweed.ports[0]) as way:
        source = BELOW.replace(urls=("s3://data/big/",), endpoint=way.url)
        lock_source(source, tmp_path)
        code = KILLED.format(fields={**source.model_dump(), "name": "far"}, workspace=str(tmp_path))
        killed = subprocess.run([sys.executable, "-c", code, "12"], stdout=subprocess.DEVNULL)
        assert killed.returncode == -signal.SIGKILL
        journal = tmp_path / "checkpoints/fetch/far/whole.tar.pieces"
        there = len(journal.read_text().splitlines())
        assert 8 <= there <= 12
        assert not (tmp_path / "data/raw/far").exists()
        way.sent.clear()
        subprocess.run([sys.executable, "-c", code, "1000"], check=True, stdout=subprocess.DEVNULL)
        assert way.sent["/data/big/whole.tar"] == len(data) - (there << 20)
    assert held(tmp_path) == {"whole.tar": data}


def test_a_changed_object_is_said_with_what_to_do(seaweed: Seaweed, bucket: Any, tmp_path: Path) -> None:
    bucket.put_object(Bucket="data", Key="one/a.tar", Body=DATA)
    source = BELOW.replace(urls=("s3://data/one/",), endpoint=seaweed.url)
    lock_source(source, tmp_path)
    bucket.put_object(Bucket="data", Key="one/a.tar", Body=DATA[::-1])
    with pytest.raises(InputError, match=r"one/a\.tar: it was changed since it was looked at.*data lock far"):
        fetch_source(source, tmp_path)
    assert not held(tmp_path)
    lock_source(source, tmp_path, again=True)
    fetch_source(source, tmp_path)
    assert held(tmp_path) == {"a.tar": DATA[::-1]}


def test_a_bucket_that_keeps_versions_gives_the_locked_one(
    seaweed: Seaweed, bucket: Any, tmp_path: Path
) -> None:
    bucket.create_bucket(Bucket="kept")
    bucket.put_bucket_versioning(Bucket="kept", VersioningConfiguration={"Status": "Enabled"})
    old = bucket.put_object(Bucket="kept", Key="in/a.tar", Body=DATA)["VersionId"]
    source = BELOW.replace(urls=("s3://kept/in/",))
    assert [file.version for file in lock_source(source, tmp_path).files] == [old]
    bucket.put_object(Bucket="kept", Key="in/a.tar", Body=b"newer")
    fetch_source(source, tmp_path)
    assert held(tmp_path) == {"a.tar": DATA}
    shutil.rmtree(tmp_path / "data")
    bucket.delete_object(Bucket="kept", Key="in/a.tar", VersionId=old)
    with pytest.raises(InputError, match=r"s3://kept/in/a\.tar: .*NoSuch"):
        fetch_source(source, tmp_path)


def test_fields_of_the_source_say_how_its_store_is_reached(
    seaweed: Seaweed, bucket: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket.create_bucket(Bucket="open")
    bucket.put_object(Bucket="open", Key="in/a.tar", Body=DATA)
    for name in ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    file = tmp_path / "credentials"
    file.write_text(f"[me]\naws_access_key_id = {KEY}\naws_secret_access_key = {SECRET}\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    source = BELOW.replace(urls=("s3://open/in/",), endpoint=seaweed.url, region="eu-west-1")
    fetch_source(source.replace(unsigned=True), tmp_path)
    assert held(tmp_path) == {"a.tar": DATA}
    fetch_source(source.replace(urls=("s3://data/one/",), profile="me"), tmp_path / "2")
    with pytest.raises(InputError, match=r"s3://data/one/: .*asked unsigned"):
        fetch_source(source.replace(urls=("s3://data/one/",), unsigned=True), tmp_path / "3")
    with pytest.raises(InputError, match="nobody"):
        fetch_source(source.replace(profile="nobody"), tmp_path / "4")
    with pytest.raises(InputError, match="no object is below it"):
        fetch_source(source.replace(urls=("s3://open/none/",), unsigned=True), tmp_path / "5")


def test_a_source_is_mirrored_to_a_store_and_read_from_there(
    seaweed: Seaweed, objects: dict[str, bytes], tmp_path: Path
) -> None:
    lock = fetch_source(BELOW, tmp_path)
    access, folder = Access(endpoint=seaweed.url), tmp_path / "data/raw/far"
    done = mirror(BELOW, lock, folder, "s3://data/copy", access)
    assert (done.sent, done.kept) == (len(objects), 0)
    seaweed.client().put_object(Bucket="data", Key="copy/empty", Body=b"another")
    again = mirror(BELOW, lock, folder, "s3://data/copy", access)
    assert (again.sent, again.kept) == (1, len(objects) - 1)
    shutil.rmtree(tmp_path / "data")
    copied = Source(name="far", **done.entry)
    assert {file.name: file.sha256 for file in fetch_source(copied, tmp_path).files} == {
        file.name: file.sha256 for file in lock.files
    }
    assert held(tmp_path) == objects
    with pytest.raises(InputError, match=r"s3://data/copy/: .*check bucket, endpoint and credentials"):
        mirror(BELOW, lock, folder, "s3://data/copy", Access(endpoint="http://127.0.0.1:9"))
