"""Bodies as S3, what passes its events on, and the hub send them; and the sources that they touch."""

from __future__ import annotations

import json
from typing import Any

import pytest

from flows.triggers.events import Thing, find_touched, read_body
from videollava.errors import InputError
from videollava.params import Source

AWS = {
    "Records": [
        {
            "eventVersion": "2.1",
            "eventSource": "aws:s3",
            "awsRegion": "eu-central-1",
            "eventName": "ObjectCreated:Put",
            "s3": {
                "s3SchemaVersion": "1.0",
                "configurationId": "sync",
                "bucket": {"name": "clips", "arn": "arn:aws:s3:::clips"},
                "object": {"key": "new/a+b%2Bc%C3%A4.tar", "size": 1024, "eTag": "d41d", "versionId": "v"},
            },
        }
    ]
}
KEY = Thing("clips", "new/a b+cä.tar")
EVENTBRIDGE = {
    "version": "0",
    "detail-type": "Object Created",
    "source": "aws.s3",
    "detail": {"bucket": {"name": "clips"}, "object": {"key": "new/a b+cä.tar"}},
}
SNS = {"Type": "Notification", "TopicArn": "arn:aws:sns:x", "Message": json.dumps(AWS)}
MINIO = {"EventName": "s3:ObjectCreated:Put", "Key": "clips/new/a+b%2Bc%C3%A4.tar", **AWS}
# As SeaweedFS 4.48 posts it, without the entry's chunks.
SEAWEED = {
    "event_type": "create",
    "key": "/buckets/clips/new/a b+cä.tar",
    "message": {
        "new_entry": {"name": "a b+cä.tar", "attributes": {"file_size": 10, "mtime": 1795900060}},
        "delete_chunks": True,
        "new_parent_path": "/buckets/clips/new",
        "signatures": [-1303326088],
    },
}
HUB = {
    "event": {"action": "update", "scope": "repo.content"},
    "repo": {"type": "dataset", "name": "lmms-lab/clips", "private": False},
}


def source(name: str, **fields: Any) -> Source:
    return Source.model_validate({"kind": "archive", "format": "auto", **fields, "name": name})


SOURCES = {
    one.name: one
    for one in (
        source("below", urls=["s3://clips/new/"]),
        source("one", urls=["s3://clips/old/x.tar", "s3://clips/new/a%20b%2Bc%C3%A4.tar"]),
        source("other", urls=["s3://clips/other/"]),
        source("bucket", urls=["s3://elsewhere/"]),
        source("web", urls=["https://clips.s3.amazonaws.com/new/a%20b+cä.tar"]),
        source("path", urls=["http://127.0.0.1:9000/clips/new/a%20b+c%C3%A4.tar?signed=1"]),
        source("hidden", urls=["https://${NOT_SET_ANYWHERE}/x.tar"]),
        source("hub", kind="hub", repo="lmms-lab/clips"),
        source("model", kind="hub", repo="lmms-lab/clips", repo_type="model"),
        source("drawn", kind="generated", train=3, format="clips"),
    )
}
TOUCHED = ["below", "one", "web", "path", "hidden"]


@pytest.mark.parametrize(
    "body",
    [
        AWS,
        EVENTBRIDGE,
        SNS,
        MINIO,
        {name: MINIO[name] for name in ("EventName", "Key")},
        SEAWEED,
        [AWS],
        {"Records": [{"EventSource": "aws:sns", "Sns": {"Message": json.dumps(AWS)}}]},
        {"Records": [{"messageId": "1", "eventSource": "aws:sqs", "body": json.dumps(SNS)}]},
        {"Messages": [{"MessageId": "1", "ReceiptHandle": "r", "Body": json.dumps(AWS)}]},
    ],
    ids=[
        "aws",
        "bridge",
        "sns",
        "minio",
        "minio-short",
        "seaweed",
        "list",
        "lambda-sns",
        "lambda-sqs",
        "sqs",
    ],
)
def test_one_object_however_it_is_told(body: Any) -> None:
    assert read_body(json.dumps(body)) == [KEY]
    assert find_touched(SOURCES, read_body(json.dumps(body))) == TOUCHED


def test_the_hub_and_names() -> None:
    assert find_touched(SOURCES, read_body(json.dumps(HUB))) == ["hub"]
    assert find_touched(SOURCES, read_body('{"sources": ["drawn", "other"]}')) == ["other", "drawn"]
    with pytest.raises(InputError, match=r"params.yaml: sources: no 'absent'; there are: below, one"):
        find_touched(SOURCES, read_body('{"sources": ["absent"]}'))


def test_what_touches_nothing() -> None:
    assert read_body('{"Service": "Amazon S3", "Event": "s3:TestEvent", "Bucket": "clips"}') == []
    assert read_body('{"key": "/topics/x", "event_type": "create", "message": {}}') == []
    moved = {**SEAWEED, "event_type": "rename", "key": "/buckets/clips/old/a.tar"}
    assert read_body(json.dumps(moved)) == [Thing("clips", "old/a.tar"), KEY]
    far = {"detail": {"bucket": {"name": "nobody"}, "object": {"key": "new/a.tar"}}}
    things = read_body(json.dumps(far))
    assert (things, str(things[0])) == ([Thing("nobody", "new/a.tar")], "s3://nobody/new/a.tar")
    assert find_touched(SOURCES, things) == ["hidden"]  # nobody can tell where that lies


@pytest.mark.parametrize(
    "body",
    [
        "hello",
        "3",
        "null",
        '"text"',
        "{}",
        '{"Records": [{}]}',
        '{"Records": {}}',
        '{"Records": [{"s3": {"bucket": {"name": ""}, "object": {"key": "x"}}}]}',
        '{"Message": "not json"}',
        '{"detail": {}}',
        '{"sources": "drawn"}',
        '{"sources": [1]}',
        '{"event_type": "create"}',
        '{"repo": {"name": "x"}}',
        "[" * 100_000,
    ],
)
def test_a_wrong_body_is_one_sentence(body: str) -> None:
    with pytest.raises(InputError, match=r"^standard input: .* is not an event of S3") as caught:
        read_body(body)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_a_wrong_body_shows_no_secret() -> None:
    with pytest.raises(InputError) as caught:
        read_body("https://me:hunter2secret@host/x")
    assert "hunter2secret" not in str(caught.value)
