"""Where objects of DVC lie: folders and S3. Addresses are recorded with a version, credentials never.

Whoever loads a version needs no DVC: the address is enough, and credentials are found as boto3 finds them
(environment, profile, instance role).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from videollava.scrub import scrub

__all__ = ["OBJECTS", "Store", "download", "size_of"]

OBJECTS = "files/md5"


@dataclass(frozen=True)
class Store:
    """A folder or an s3:// address. endpoint: for servers other than AWS. profile: a name in the reader's
    own AWS configuration, passed over where there is none of it.

    note: why nothing can be loaded from it without DVC, "" where it can.
    """

    url: str
    endpoint: str = ""
    region: str = ""
    profile: str = ""
    note: str = ""

    @property
    def is_folder(self) -> bool:
        """Whether it is a folder of this machine (or one mounted on it)."""
        return "://" not in self.url

    @property
    def trouble(self) -> str:
        """Why no file can be had from it, whatever is in it; ""."""
        if self.note or self.is_folder or self.url.startswith("s3://"):
            return self.note
        return "this kind of remote is read by DVC alone"

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Store:
        """Read back what a version recorded, by whatever release."""
        known = {item.name for item in fields(cls)}
        return cls(**{name: str(value) for name, value in config.items() if name in known})


def download(md5: str, place: Store, target: Path) -> str:
    """Bring one object from S3 to `target`; "" or why not."""
    return _ask(md5, place, lambda client, where: client.download_file(**where, Filename=str(target)))[1]


def size_of(md5: str, place: Store) -> tuple[int, str]:
    """Bytes of an object in S3, and "" or why it cannot be had."""
    reply, trouble = _ask(md5, place, lambda client, where: client.head_object(**where))
    return (0, trouble) if trouble else (int(reply["ContentLength"]), "")


def _ask(md5: str, place: Store, question: Any) -> tuple[Any, str]:
    if place.trouble:
        return None, place.trouble
    try:
        from botocore.exceptions import BotoCoreError, ClientError, SSLError
    except ImportError:
        return None, "boto3 is not installed: `pip install boto3`"
    address = urlsplit(place.url, allow_fragments=False)
    # Not address.path: a key may hold "?" and "#".
    key = place.url.removeprefix(f"s3://{address.netloc}").strip("/")
    where = {
        "Bucket": address.netloc,
        "Key": "/".join(part for part in (key, OBJECTS, md5[:2], md5[2:]) if part),
    }
    remedy = ""
    try:
        session = _session(place)
        known = session.get_credentials() is not None
        remedy = (
            ""
            if known
            else "; no credentials are set here (AWS_PROFILE, AWS_ACCESS_KEY_ID), so anybody's were used"
        )
        return question(_client(session, place, known), where), ""
    except SSLError as error:
        return None, f"{scrub(str(error))}; AWS_CA_BUNDLE names your CA's file"
    except (BotoCoreError, ClientError, ValueError) as error:
        return None, scrub(str(error)) + (remedy if isinstance(error, ClientError) else "")


def _session(place: Store) -> Any:
    import boto3
    from botocore.exceptions import ProfileNotFound

    region = place.region or None
    try:
        return boto3.Session(profile_name=place.profile or None, region_name=region)
    except ProfileNotFound:  # the trainer's name for it; the reader has credentials of their own
        return boto3.Session(region_name=region)


def _client(session: Any, place: Store, known: bool) -> Any:
    from botocore import UNSIGNED
    from botocore.config import Config

    # Who has no credentials asks as anybody: public buckets (DVC's allow_anonymous_login) need none.
    config = None if known else Config(signature_version=UNSIGNED)
    return session.client("s3", endpoint_url=place.endpoint or None, config=config)
