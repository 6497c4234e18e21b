"""What other systems say has changed, and which sources of params.yaml that touches.

Read are S3's events (of AWS, also as SNS, SQS and EventBridge pass them on; of MinIO and whatever speaks as AWS does;
of SeaweedFS' filer), the Hugging Face hub's webhooks, and `{"sources": [NAME, ..]}`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, unquote_plus, urlsplit

from videollava.data.acquire.addresses import Address, is_prefix, parse_address
from videollava.data.acquire.declared import addresses, where
from videollava.errors import InputError
from videollava.params import Source
from videollava.scrub import scrub

__all__ = ["Thing", "find_touched", "read_body"]

BUCKETS = "/buckets/"  # of SeaweedFS' filer: below it lies a folder a bucket
WANTED = 'an event of S3 (AWS, MinIO, SeaweedFS), a webhook of the Hugging Face hub, or {"sources": ["NAME"]}'


@dataclass(frozen=True)
class Thing:
    """What changed: an object (place: its bucket; name: its key), a repository of the hub (place "hub": dataset or
    model), or a source by its name (place "").
    """

    place: str
    name: str
    kind: str = "object"

    def __str__(self) -> str:
        return f"s3://{self.place}/{self.name}" if self.kind == "object" else self.name


def read_body(text: str) -> list[Thing]:
    """The things that a body names; none for a test message. InputError where it is of no kind that is known."""
    try:
        return list(_read(json.loads(text)))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        begins = scrub(" ".join(text.split())[:60])
        raise InputError(f"standard input: {begins!r} is not {WANTED}") from error


def find_touched(sources: Mapping[str, Source], things: Sequence[Thing]) -> list[str]:
    """The names of the sources that one of these belongs to. InputError where a source is named that is not there."""
    named = [thing.name for thing in things if thing.kind == "source"]
    if unknown := [name for name in named if name not in sources]:
        raise InputError(
            f"params.yaml: sources: no {unknown[0]!r}; there are: {', '.join(sources) or 'none'}"
        )
    return [
        name
        for name, source in sources.items()
        if name in named or any(_belongs(source, thing) for thing in things)
    ]


def _read(held: Any) -> Iterator[Thing]:
    if isinstance(held, list):
        for one in held:
            yield from _read(one)
    elif "sources" in held:
        yield from (Thing("", _text(name), "source") for name in _list(held["sources"]))
    elif "Records" in held:
        yield from (thing for record in _list(held["Records"]) for thing in _read_record(record))
    elif "Messages" in held:  # `aws sqs receive-message`
        yield from (thing for message in _list(held["Messages"]) for thing in _unpack(message["Body"]))
    elif "Message" in held:  # SNS
        yield from _unpack(held["Message"])
    elif "detail" in held:  # EventBridge, which quotes no key
        yield _object(held["detail"], held["detail"]["object"]["key"])
    elif held.get("Event") == "s3:TestEvent":
        return
    elif "repo" in held:
        repo = held["repo"]
        yield Thing(_text(repo["type"]), _text(repo["name"]), "repository")
    elif "event_type" in held:  # SeaweedFS' filer
        yield from _read_path(_text(held["key"]))
        if held["event_type"] == "rename":
            told = held["message"]
            yield from _read_path(f"{_text(told['new_parent_path'])}/{_text(told['new_entry']['name'])}")
    elif "EventName" in held:  # MinIO, in short
        bucket, _, key = unquote_plus(_text(held["Key"])).partition("/")
        yield Thing(bucket, key)
    else:
        raise ValueError


def _read_record(record: Mapping[str, Any]) -> Iterator[Thing]:
    if "s3" in record:
        yield _object(record["s3"], unquote_plus(_text(record["s3"]["object"]["key"])))
    elif "Sns" in record:
        yield from _unpack(record["Sns"]["Message"])
    else:
        yield from _unpack(record["body"])  # SQS


def _object(held: Mapping[str, Any], key: str) -> Thing:
    return Thing(_text(held["bucket"]["name"]), _text(key))


def _unpack(text: str) -> Iterator[Thing]:
    return _read(json.loads(text))


def _read_path(path: str) -> Iterator[Thing]:
    if path.startswith(BUCKETS):  # else a file that no bucket has
        bucket, _, key = path.removeprefix(BUCKETS).partition("/")
        yield Thing(bucket, key)


def _list(held: Any) -> list[Any]:
    if not isinstance(held, list):
        raise TypeError
    return held


def _text(held: Any) -> str:
    if not isinstance(held, str) or not held:
        raise TypeError
    return held


def _belongs(source: Source, thing: Thing) -> bool:
    if thing.kind == "repository":
        return source.kind == "hub" and (source.repo_type, source.repo) == (thing.place, thing.name)
    if thing.kind != "object" or source.kind != "archive":
        return False
    return any(_is_at(url, where(source), thing) for url, _ in addresses(source))


def _is_at(url: str, origin: str, thing: Thing) -> bool:
    """Whether an object lies at this address or below it; so too where the environment lacks what the address holds:
    a look too many harms nobody.
    """
    try:
        address = parse_address(url, origin)
    except InputError:
        return "${" in url
    if address.scheme == "s3":
        named = any(
            thing.name.startswith(name) if is_prefix(url) else thing.name == name for name in address.names
        )
        return address.host == thing.place and named
    return address.scheme in ("http", "https") and _is_behind(address, thing)


def _is_behind(address: Address, thing: Thing) -> bool:
    """Whether an address of the web is that of an object: http(s)://HOST/BUCKET/KEY or http(s)://BUCKET.HOST/KEY."""
    path = unquote(urlsplit(address.url).path)
    of_host = address.host.startswith(f"{thing.place}.".lower()) and path == f"/{thing.name}"
    return of_host or path == f"/{thing.place}/{thing.name}"
