"""A place in S3, against a real server (SeaweedFS) on loopback: what stands, what goes, what each fault ends in."""

from __future__ import annotations

import os
import re
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from door import Door
from seaweed import KEY, Seaweed
from stores import reach, serving

from videollava import cli
from videollava.data.acquire import attempts, s3_client
from videollava.data.acquire.s3_client import Access
from videollava.errors import InputError
from videollava.train.launch.fence import Superseded
from videollava.train.saving import objects, s3
from videollava.train.saving.files import sum_of
from videollava.train.saving.objects import Objects
from videollava.train.saving.places import FORMAT, Damaged
from videollava.train.saving.s3 import S3Place

LARGE = 6 << 20  # in two parts, of the smallest there may be


@pytest.fixture(scope="module")
def seaweed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seaweed]:
    with serving(tmp_path_factory.mktemp("seaweed")) as server:
        yield server


@pytest.fixture
def client(seaweed: Seaweed, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Any:
    """A client that may do all; the environment that the code reads, patience of a test, a bucket of this test."""
    for name, value in reach(seaweed.url).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(objects, "PART", 5 << 20)
    monkeypatch.setattr(objects, "ATTEMPTS", 1)
    monkeypatch.setattr(s3, "FIRST_PAUSE", 0.05)
    monkeypatch.setattr(s3, "LONGEST_PAUSE", 0.2)
    monkeypatch.setattr(s3, "PATIENCE_AT_START", 0.2)
    monkeypatch.setattr(attempts, "FIRST_PAUSE", 0.0)
    client = seaweed.client()
    client.create_bucket(Bucket=bucket(request))
    return client


def bucket(request: pytest.FixtureRequest) -> str:
    return request.node.name.replace("_", "-").partition("[")[0][:60].strip("-")


@pytest.fixture
def place(client: Any, tmp_path: Path, request: pytest.FixtureRequest) -> S3Place:
    objects = Objects(bucket(request), "runs/finetune-0123/", Access(), "machine.yaml: checkpoint_place")
    return S3Place(objects, tmp_path / "spool", "first")


def another(place: S3Place, attempt: str) -> S3Place:
    """Of another machine."""
    return replace(place, spool=place.spool.with_name(attempt), attempt=attempt)


def write(place: S3Place, step: int, files: dict[str, bytes]) -> dict[str, Any]:
    """As ranks do: the manifest for files that were put."""
    told = {}
    for name, data in files.items():
        path = place.aside(step) / name
        path.write_bytes(data)
        summed = sum_of(path)
        told[name] = {"sha256": summed.sha256, "size": summed.size}
        place.put(step, name)
    return {"format": FORMAT, "step": step, "about": {"steps": 9}, "files": told}


def save(place: S3Place, step: int, files: dict[str, bytes] | None = None) -> dict[str, bytes]:
    files = files or {"rank-00000": os.urandom(1000), "index.json": b"{}"}
    place.seal(step, write(place, step, files))
    return files


def keys(place: S3Place, client: Any) -> list[str]:
    listed = client.list_objects_v2(Bucket=place.objects.bucket).get("Contents", ())
    return [entry["Key"].removeprefix(place.objects.prefix) for entry in listed]


def test_a_checkpoint_stands_as_it_was_written_and_two_are_kept(place: S3Place, client: Any) -> None:
    place.room(1000)
    assert place.newest() is None
    written = {
        step: save(place, step, {"rank-00000": os.urandom(LARGE), "index.json": b"{}"}) for step in (2, 4, 6)
    }
    assert sorted(place.spool.rglob("*")) == []  # nothing stays on this disk
    assert {key.partition("/")[0] for key in keys(place, client)} == {
        "holder.json",
        "step-00000004.first",
        "step-00000006.first",
    }
    fresh = another(place, "fresh")
    fresh.room(1000)
    whole = fresh.newest()
    assert whole is not None
    assert (whole.step, whole.about, sorted(whole.files)) == (6, {"steps": 9}, ["index.json", "rank-00000"])
    assert whole.where == f"s3://{place.objects.bucket}/runs/finetune-0123/step-00000006.first"
    folder = fresh.fetch(whole, ["rank-00000"])
    assert (folder / "rank-00000").read_bytes() == written[6]["rank-00000"]
    assert not (folder / "index.json").exists()
    before = fresh.newest(before=6)
    assert before is not None
    assert before.step == 4
    fresh.aside(7)  # the run goes on: what it was read from goes
    assert not folder.exists()
    fresh.clear()
    assert keys(place, client) == []
    assert not fresh.spool.exists()


def test_what_was_half_sent_is_passed_over_and_goes(
    place: S3Place, client: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    place.room(1000)
    save(place, 2)
    write(place, 4, {"rank-00000": b"all of it, and killed before the manifest"})
    prefix, name = place.objects.prefix, "step-00000006.first/rank-00000"
    begun = client.create_multipart_upload(Bucket=place.objects.bucket, Key=prefix + name)
    client.upload_part(
        Bucket=place.objects.bucket,
        Key=prefix + name,
        UploadId=begun["UploadId"],
        PartNumber=1,
        Body=b"x" * 100,
    )
    elsewhere = client.create_multipart_upload(Bucket=place.objects.bucket, Key="someone/elses")
    again = another(place, "second")
    again.room(1000)
    whole = again.newest()
    assert whole is not None
    assert whole.step == 2
    told = capsys.readouterr().out
    assert (
        f"{place.objects.url}/step-00000004.first isn't whole (not all of it was sent); trying the one before"
        in told
    )
    save(again, 3)
    assert {key.partition("/")[0] for key in keys(place, client)} == {
        "holder.json",
        "step-00000002.first",
        "step-00000003.second",
    }
    pending = client.list_multipart_uploads(Bucket=place.objects.bucket).get("Uploads", ())
    assert [upload["UploadId"] for upload in pending] == [elsewhere["UploadId"]]


@pytest.fixture
def door(seaweed: Seaweed, place: S3Place, monkeypatch: pytest.MonkeyPatch) -> Iterator[Door]:
    """The way to the server that `place` takes."""
    with Door(seaweed.ports[0]) as door:
        monkeypatch.setenv("AWS_ENDPOINT_URL", door.url)
        yield door


def test_a_server_that_comes_back_gets_the_file_and_both_are_told(
    place: S3Place, door: Door, capsys: pytest.CaptureFixture[str]
) -> None:
    place.room(1000)
    door.shut()
    back = threading.Timer(0.5, door.open)
    back.start()
    try:
        data = save(place, 2, {"rank-00000": os.urandom(LARGE)})
    finally:
        back.join()
    told = capsys.readouterr().out
    assert re.search(rf"{place.objects.url}: (Could not connect|Connection was closed)", told)
    assert "trying again for 10 minutes" in told
    assert f"{place.objects.url}: answers again, after" in told
    whole = place.newest()
    assert whole is not None
    assert (place.fetch(whole, whole.files) / "rank-00000").read_bytes() == data["rank-00000"]


def test_a_server_that_says_nothing_is_told_and_gets_the_file(
    place: S3Place, door: Door, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(s3_client, "TIMEOUT", 0.3)
    monkeypatch.setattr(objects, "ATTEMPTS", 2)
    monkeypatch.setattr(objects, "_told", -1e9)
    place.room(1000)
    door.hold()
    back = threading.Timer(1.5, door.release)
    back.start()
    try:
        save(place, 2)
    finally:
        back.join()
    assert re.search(
        r"checkpoint place: (Read timeout on|Could not connect).*; trying again", capsys.readouterr().out
    )
    assert place.newest() is not None


def test_of_a_server_that_stays_away_the_next_save_takes_the_place(
    place: S3Place, door: Door, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.room(1000)
    save(place, 2)
    door.shut()
    monkeypatch.setattr(s3, "PATIENCE", 0.5)
    with pytest.raises(OSError, match=r"s3://.*(Could not connect|Connection was closed)") as caught:
        save(place, 4)
    assert "connect" in str(caught.value.strerror).lower()  # what the loop shows
    with pytest.raises(InputError, match=r"checkpoint_place: s3://.*Could not connect.*does it run"):
        place.newest()  # not "there is none": the run would begin anew
    door.open()
    save(place, 6)
    assert [path.name for path in place.spool.iterdir()] == []  # nothing of step 4 either
    assert {key.partition("/")[0] for key in keys(place, client)} == {
        "holder.json",
        "step-00000002.first",
        "step-00000006.first",
    }


def test_a_wrong_bucket_or_key_or_a_server_that_is_not_there_refuses_at_the_start(
    place: S3Place, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    slip = replace(place, objects=replace(place.objects, bucket="no-such-bucket"))
    with pytest.raises(
        InputError, match=r"checkpoint_place: s3://no-such-bucket/runs/.*NoSuchBucket.*create the bucket"
    ):
        slip.room(1000)
    assert "no-such-bucket" not in [found["Name"] for found in client.list_buckets()["Buckets"]]
    nowhere = replace(place, objects=replace(place.objects, access=Access(endpoint="http://127.0.0.1:9")))
    with pytest.raises(InputError, match=r"checkpoint_place: s3://.*does it run"):
        nowhere.room(1000)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong-secret-1234")
    with pytest.raises(
        InputError, match=r"checkpoint_place: s3://.*check bucket, endpoint and credentials"
    ) as caught:
        place.room(1000)
    assert "wrong-secret" not in str(caught.value)
    assert KEY not in str(caught.value)


def test_a_disk_that_cannot_hold_what_is_on_its_way_refuses_with_the_figures(
    place: S3Place, client: Any
) -> None:
    halved = replace(place, host_share=0.5)
    with pytest.raises(
        InputError, match=r"spool: a checkpoint on its way to s3://.*needs 500000000\.00 GB.*GB are free"
    ):
        halved.room(10**18)
    assert keys(place, client) == []  # and nothing was touched


def test_a_file_that_is_not_what_was_sent_is_damaged(
    place: S3Place, client: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    place.room(1000)
    save(place, 2)
    data = save(place, 4)["rank-00000"]
    key = f"{place.objects.prefix}step-00000004.first/rank-00000"
    client.put_object(Bucket=place.objects.bucket, Key=key, Body=data[:-1] + bytes([data[-1] ^ 1]))
    whole = place.newest()
    assert whole is not None
    assert whole.step == 4  # by its sizes it is whole
    with pytest.raises(Damaged, match="its sha256 is"):
        place.fetch(whole, ["rank-00000"])
    client.put_object(Bucket=place.objects.bucket, Key=key, Body=data[:-1])
    found = place.newest()
    assert found is not None
    assert found.step == 2
    assert "step-00000004.first isn't whole (rank-00000: of another size)" in capsys.readouterr().out
    client.delete_object(Bucket=place.objects.bucket, Key=key)
    with pytest.raises(Damaged, match="rank-00000: missing"):
        place.fetch(whole, ["rank-00000"])


def test_of_two_machines_the_later_goes_on_and_neither_spoils_the_other(
    place: S3Place, client: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    place.room(1000)
    save(place, 2)
    half = write(place, 4, {"rank-00000": b"the first machine's, on its way"})
    later = another(place, "later")
    with monkeypatch.context() as patch:
        patch.setattr(socket, "gethostname", lambda: "elsewhere")
        later.room(1000)
    assert " was at work here; if it still is, it ends at its next checkpoint" in capsys.readouterr().out
    mine = write(later, 3, {"rank-00000": b"the second's, on its way"})
    with pytest.raises(Superseded, match=r"s3://.*another run of this stage, on elsewhere, is at work"):
        place.seal(4, half)
    place.clear()  # a stage that ended without another save
    assert "checkpoints stay: s3://" in capsys.readouterr().out
    later.seal(3, mine)
    whole = later.newest()
    assert whole is not None
    assert (later.fetch(whole, whole.files) / "rank-00000").read_bytes() == b"the second's, on its way"
    assert {key.partition("/")[0] for key in keys(place, client)} == {
        "holder.json",
        "step-00000002.first",
        "step-00000003.later",
    }


def test_a_seal_between_the_look_and_the_removal_of_another_removes_nothing_of_it(
    place: S3Place, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first machine looks at the list, the second begins and sends, the first removes."""
    place.room(1000)
    later, look = another(place, "later"), Objects.find
    manifest = write(place, 2, {"rank-00000": b"x"})
    listed = 0

    def find(self: Objects) -> Any:
        nonlocal listed
        listed += 1
        if listed == 2:  # of the first machine's tidying
            later.room(1000)
            write(later, 4, {"rank-00000": b"on its way"})
        return look(self)

    monkeypatch.setattr(Objects, "find", find)
    with pytest.raises(Superseded):
        place.seal(2, manifest)
    assert "step-00000004.later/rank-00000" in keys(place, client)
    assert "step-00000002.first/manifest.json" in keys(place, client)


def test_a_further_machines_checkpoints_stay_the_newest(place: S3Place, client: Any) -> None:
    """What a lost machine had reached is not thrown away, nor is what this one has just made."""
    place.room(1000)
    save(place, 8)
    save(place, 9)
    later = another(place, "later")
    later.room(1000)
    save(later, 5)
    assert {key.partition("/")[0] for key in keys(place, client)} == {
        "holder.json",
        "step-00000005.later",
        "step-00000008.first",
        "step-00000009.first",
    }
    whole = later.newest()
    assert whole is not None
    assert whole.step == 9


def test_what_unfinished_stages_keep_is_listed_and_removed(
    place: S3Place,
    client: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    key, where = "finetune-0123456789abcdef", f"s3://{place.objects.bucket}/runs"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "machine.yaml").write_text(f"checkpoint_place: {where}\n")
    one = replace(place, objects=replace(place.objects, prefix=f"runs/{key}/"))
    one.room(1000)
    save(one, 12)
    client.put_object(Bucket=place.objects.bucket, Key="runs/mine/note.txt", Body=b"a person's")
    assert cli.main(["checkpoints"]) == 0
    told = capsys.readouterr().out
    assert re.match(rf"{where}\n  {key} +step 12 +0\.00 MB  \d{{4}}-.*  {socket.gethostname()}\n$", told)
    assert cli.main(["checkpoints", "--remove", key]) == 0
    assert f"removed {where}/{key}" in capsys.readouterr().out
    listed = client.list_objects_v2(Bucket=place.objects.bucket)["Contents"]
    assert [entry["Key"] for entry in listed] == ["runs/mine/note.txt"]
