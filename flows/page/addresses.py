"""Addresses of what a page points at: MLflow's pages of a run, and the page of a commit where git is hosted."""

from __future__ import annotations

import re
from pathlib import Path

from flows.places.git import ask_git
from videollava.errors import InputError
from videollava.params import Tracking
from videollava.scrub import scrub
from videollava.tracking.store import connect, tracking_uri
from videollava.tracking.troubles import is_from_store

__all__ = ["commit_page", "run_page"]

HOSTED = re.compile(
    r"(?:https?://(?:[^@/]*@)?|ssh://git@|git@)(?P<host>[^/:]+\.[^/:]+)(?::\d+)?[/:](?P<path>.+?)(?:\.git)?/?"
)


def run_page(root: Path, tracking: Tracking, run: str) -> str:
    """MLflow's page of a run, without user and password; "" where it is no server, or does not answer."""
    uri = tracking_uri(root, tracking)
    if not uri.startswith("http"):
        return ""
    try:
        experiment = connect(root, tracking).experiment
    except Exception as error:  # the version is made; a link less is no reason to fail
        if not isinstance(error, InputError) and not is_from_store(error):
            raise
        return ""
    return f"{scrub(uri).replace('***@', '').rstrip('/')}/#/experiments/{experiment}/runs/{run}"


def commit_page(home: Path, commit: str) -> str:
    """A commit on the web, where a remote of git's that has it is hosted with pages; else ""."""
    there = (ask_git(home, "branch", "--remotes", "--contains", commit) or "") if commit else ""
    for branch in there.split():
        remote = branch.partition("/")[0]
        if found := HOSTED.fullmatch(ask_git(home, "remote", "get-url", remote) or ""):
            return f"https://{found['host']}/{found['path']}/commit/{commit}"
    return ""
