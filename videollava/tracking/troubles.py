"""What a tracking store's refusals mean, in one sentence with the remedy."""

from __future__ import annotations

import re
from dataclasses import dataclass

from videollava.errors import InputError
from videollava.scrub import scrub

__all__ = ["Trouble", "explain", "is_from_store"]

LONGEST = 300
SHORT = 120
# Packages whose exceptions come from a store: the tracking server's, its database's, its artifacts'.
SPEAKERS = {
    "azure",
    "boto3",
    "botocore",
    "databricks",
    "google",
    "mlflow",
    "psycopg2",
    "pymysql",
    "requests",
    "s3transfer",
    "sqlalchemy",
    "urllib3",
}
CREDENTIALS = (
    "it wants (other) credentials: set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, "
    "or MLFLOW_TRACKING_TOKEN"
)
# The first pattern that is found names the remedy. True: it may pass by itself.
MEANINGS: tuple[tuple[str, str, bool], ...] = (
    (
        r"experiment .* must be in the 'active' state",
        "the experiment was deleted there: restore it (on the page, or `mlflow experiments restore "
        "--experiment-id ID`), or set tracking.experiment to another name",
        False,
    ),
    (r"file ?store|MLFLOW_ALLOW_FILE_STORE", "use sqlite:///PATH/mlflow.db or a server's address", False),
    (
        r"hostname mismatch|IP address mismatch|doesn't match|is not valid for",
        "its certificate is for another name: write that name in tracking.uri (or MLFLOW_TRACKING_URI)",
        False,
    ),
    (
        r"certificate has expired|certificate is not yet valid",
        "whoever runs it has to renew its certificate",
        False,
    ),
    (
        r"WRONG_VERSION_NUMBER|RECORD_LAYER_FAILURE|HTTP_REQUEST",
        "it speaks no TLS there: http:// instead of https://, or another port?",
        False,
    ),
    (
        r"HTTP request was sent to HTTPS port|HTTP request to an HTTPS server",
        "it speaks TLS: https://",
        False,
    ),
    (
        r"NO_CERTIFICATE_OR_CRL|no certificate or crl|NO_START_LINE",
        "the file that MLFLOW_TRACKING_SERVER_CERT_PATH names holds no certificate (PEM)",
        False,
    ),
    (
        r"reserved character\(s\)|codec can't encode",
        "MLFLOW_TRACKING_TOKEN, or the user or password, holds what no header may: a line's end, other letters",
        False,
    ),
    (
        r"CERTIFICATE_VERIFY_FAILED|SSLError|SSL: ",
        "set MLFLOW_TRACKING_SERVER_CERT_PATH to your CA's file",
        False,
    ),
    (
        r"\b407\b|Proxy Authentication Required",
        "the proxy wants credentials: see HTTPS_PROXY and NO_PROXY",
        False,
    ),
    (r"\b401\b|UNAUTHENTICATED|Unauthorized|not authenticated", CREDENTIALS, False),
    (
        r"InvalidAccessKeyId|SignatureDoesNotMatch|NoCredentials|Unable to locate credentials|ExpiredToken",
        "the store of its artifacts wants other credentials: see AWS_PROFILE, AWS_ACCESS_KEY_ID",
        False,
    ),
    (r"\b403\b|PERMISSION_DENIED|Forbidden|AccessDenied", "this account may not do that there", False),
    (
        r"read-?only|permission denied|unable to open database file|\b405\b|METHOD_NOT_ALLOWED",
        "it may not be written by this account",
        False,
    ),
    (r"No space left|database or disk is full", "its disk is full", False),
    (r"out-of-date database schema|mlflow db upgrade", "`mlflow db upgrade URI` brings it up to date", False),
    (
        r"ENDPOINT_NOT_FOUND|not in a valid JSON format|error code 404|unsupported URI|Could not find a registered"
        r"|\d redirects|InvalidUrl|No (?:schema|host) supplied|Could not parse",
        "is tracking.uri (or MLFLOW_TRACKING_URI) the address of an MLflow server?",
        False,
    ),
    (r"No module named", "install its driver", False),
    (
        r"Connection|connect|Max retries|timed? ?out|resolve|\b50[0234]\b|\b429\b|TEMPORARILY_UNAVAILABLE|locked",
        "is it running, and reachable from here?",
        True,
    ),
)


@dataclass(frozen=True)
class Trouble:
    """text: what the store said and the remedy. passing: it may be over by itself (an outage)."""

    text: str
    passing: bool


def explain(error: BaseException) -> Trouble:
    """What an exception out of a store means. Nothing secret is in the text."""
    if isinstance(error, InputError):
        return Trouble(str(error), False)
    said, root = _said(error), _said(_root(error))
    shown = root if len(root) < len(said) and len(said) > SHORT and len(root) <= LONGEST else said
    for pattern, remedy, passing in MEANINGS:
        if re.search(pattern, f"{type(error).__name__} {said} {root}", re.IGNORECASE):
            return Trouble(f"{_short(shown)}; {remedy}", passing)
    return Trouble(_short(shown), False)


def is_from_store(error: BaseException) -> bool:
    """Whether it was raised by what speaks to a store, not by a mistake in this code."""
    roots = {kind.__module__.partition(".")[0] for kind in type(error).__mro__}
    return isinstance(error, OSError) or bool(roots & SPEAKERS)


def _root(error: BaseException) -> BaseException:
    """What it began with: HTTP and database libraries wrap a short reason in several long ones."""
    seen = {id(error)}
    while (inner := error.__cause__ or error.__context__) is not None and id(inner) not in seen:
        if not isinstance(inner, Exception) or type(inner).__module__.startswith("videollava"):
            break  # what ended the stage, whose journal was sent on as it ended
        seen.add(id(inner))
        error = inner
    return error


def _said(error: BaseException) -> str:
    return " ".join(scrub(str(error)).split()) or type(error).__name__


def _short(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}.."
