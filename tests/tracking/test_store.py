"""Objects in S3 as a reader with other credentials than the trainer's finds them, or with none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from videollava.registry.store import Store, download, size_of

MD5 = "0123456789abcdef0123456789abcdef"


@pytest.fixture(autouse=True)
def no_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))


def test_a_public_bucket_needs_no_credentials(server: Any, tmp_path: Path) -> None:
    place = Store("s3://models/dvc", server((200, "text/plain", "weights")), "us-east-1")
    assert size_of(MD5, place) == (7, "")
    assert download(MD5, place, tmp_path / "object") == ""
    assert (tmp_path / "object").read_text() == "weights"


def test_a_private_one_says_that_there_were_none(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    place = Store("s3://models/dvc", server((403, "text/plain", "")), "us-east-1")
    size, trouble = size_of(MD5, place)
    assert size == 0
    assert "403" in trouble
    assert "no credentials are set here" in trouble
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "theirs")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2hunter2")
    assert "no credentials" not in size_of(MD5, place)[1]


def test_a_certificate_that_is_not_trusted_names_the_setting(server: Any) -> None:
    plain = server((200, "text/plain", "weights")).replace("http", "https")
    assert "AWS_CA_BUNDLE" in size_of(MD5, Store("s3://models/dvc", plain, "us-east-1"))[1]
