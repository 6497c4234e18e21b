"""Servers that speak otherwise, and registries that others guard: said in a sentence, before anything is lost."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

import pytest
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import PERMISSION_DENIED

from videollava.errors import InputError
from videollava.params import Tracking
from videollava.registry import list_versions, prepare
from videollava.tracking.troubles import explain

AT = Tracking()


def test_what_a_server_s_certificate_or_scheme_is_wrong_in_is_said(workspace: Path, server: Any) -> None:
    plain = server((200, "text/plain", "ok")).replace("http", "https")
    with pytest.raises(InputError, match=r"refuses.*speaks no TLS there"):
        list_versions(workspace, Tracking(uri=plain))
    with pytest.raises(InputError, match=r"refuses.*is tracking.uri"):
        list_versions(workspace, Tracking(uri=f" {server((404, 'text/plain', 'no'))}\n"))
    for said, words in (
        (
            "certificate verify failed: IP address mismatch, certificate is not valid for '10.1'",
            "for another name",
        ),
        ("certificate verify failed: certificate has expired (_ssl.c:1006)", "renew its certificate"),
        ("certificate verify failed: unable to get local issuer certificate", "CERT_PATH to your CA's file"),
        ("[X509: NO_CERTIFICATE_OR_CRL_FOUND] no certificate or crl found", "holds no certificate"),
    ):
        trouble = explain(ssl.SSLError(said))
        assert words in trouble.text
        assert not trouble.passing


def test_a_token_with_a_line_s_end_in_it_is_named_and_not_shown(
    workspace: Path, server: Any, monkeypatch: Any
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "hunter2\nhunter2")
    with pytest.raises(InputError, match=r"MLFLOW_TRACKING_TOKEN.*holds what no header may") as caught:
        list_versions(workspace, Tracking(uri=server((200, "text/plain", "ok"))))
    assert "hunter2" not in str(caught.value)


def test_a_model_that_others_made_and_guard_is_said_before_the_training(
    workspace: Path, monkeypatch: Any
) -> None:
    def refuse(*_: object) -> None:
        raise MlflowException("Permission denied", error_code=PERMISSION_DENIED)

    prepare(workspace, AT)
    monkeypatch.setattr("mlflow.MlflowClient.set_registered_model_tag", refuse)
    with pytest.raises(InputError, match=r"refuses: .*Permission denied"):
        prepare(workspace, AT)
