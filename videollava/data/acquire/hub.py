"""Data sets and models of the Hugging Face hub: what a revision is, which files it has, where they are had from.

In locks a file is `hf://datasets/ORG/NAME@COMMIT/PATH` (a model's without `datasets/`), as huggingface_hub's own file
system writes it: the hub's address, or a mirror's, is the environment's (HF_ENDPOINT), and the token's as well.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from typing import Any, Literal, TypeVar

from videollava.data.acquire.attempts import ask_patiently
from videollava.data.acquire.replies import TRANSIENT, Seen, TransientError
from videollava.errors import InputError

__all__ = ["RepoType", "hub_address", "list_hub", "resolve_hub"]

RepoType = Literal["dataset", "model"]
RETRIES = 3
_COMMIT = re.compile(r"[0-9a-f]{40}")
_FILE = re.compile(r"hf://(?P<kind>datasets/)?(?P<repo>[^@]+)@(?P<commit>[0-9a-f]+)/(?P<path>.+)", re.DOTALL)
T = TypeVar("T")


def resolve_hub(
    repo: str, revision: str = "main", kind: RepoType = "model", *, origin: str = "", retries: int = RETRIES
) -> str:
    """The commit that a revision (a branch, a tag, a commit) of a repository is now.

    Raises InputError where there is none, or it may not be read; `origin` names the parameter in errors.
    """
    if _COMMIT.fullmatch(revision):
        return revision

    def ask() -> Any:
        return _api().repo_info(repo, revision=revision, repo_type=kind, timeout=60.0)

    return str(_asked(ask, repo, revision, origin, retries).sha)


def list_hub(
    repo: str, commit: str, kind: RepoType, patterns: tuple[str, ...], *, origin: str, retries: int = RETRIES
) -> Iterator[Seen]:
    """The files of a commit whose paths fit one of the patterns (all without any), in their order.

    Sums are known of what the hub keeps in its large file storage. Raises InputError where none fits.
    """
    from huggingface_hub.hf_api import RepoFile
    from huggingface_hub.utils import filter_repo_objects

    def ask() -> list[Any]:
        return list(_api().list_repo_tree(repo, recursive=True, revision=commit, repo_type=kind))

    entries = [entry for entry in _asked(ask, repo, commit, origin, retries) if isinstance(entry, RepoFile)]
    fitting = list(
        filter_repo_objects(entries, allow_patterns=list(patterns) or None, key=lambda entry: entry.path)
    )
    if not fitting:
        paths = ", ".join(entry.path for entry in entries[:5])
        raise InputError(
            f"{origin}: {repo}: no file fits {', '.join(patterns) or 'it'}; it has {len(entries)} files: {paths}"
        )
    folder = "datasets/" if kind == "dataset" else ""
    for entry in sorted(fitting, key=lambda entry: entry.path):
        if entry.path.rpartition("/")[2] in (".gitattributes", ".gitignore"):
            continue
        digest = entry.lfs.sha256 if entry.lfs else ""
        yield Seen(entry.path, entry.size, commit, digest, f"hf://{folder}{repo}@{commit}/{entry.path}")


def hub_address(url: str) -> str:
    """Where a file of the hub is had from; other addresses are that already."""
    found = _FILE.fullmatch(url)
    if found is None:
        return url
    from huggingface_hub import hf_hub_url

    kind = "dataset" if found["kind"] else "model"
    return str(
        hf_hub_url(
            found["repo"], found["path"], repo_type=kind, revision=found["commit"], endpoint=_endpoint()
        )
    )


def _endpoint() -> str | None:
    return os.environ.get("HF_ENDPOINT", "").rstrip("/") or None


def _api() -> Any:
    from huggingface_hub import HfApi

    return HfApi(endpoint=_endpoint())


def _asked(call: Callable[[], T], repo: str, revision: str, origin: str, retries: int) -> T:
    """What the hub says, its refusals in words."""
    import httpx
    from huggingface_hub import errors

    what = f"{origin}: {repo}" if origin else repo

    def ask() -> T:
        try:
            return call()
        except errors.GatedRepoError as error:
            raise InputError(
                f"{what}: it is given to who accepts its terms: accept them on its page, and set HF_TOKEN to a token "
                "that may read it"
            ) from error
        except errors.RevisionNotFoundError as error:
            raise InputError(
                f"{what}: it has no revision {revision!r}; name a branch, tag or commit"
            ) from error
        except errors.RepositoryNotFoundError as error:
            raise InputError(
                f"{what}: the hub has no such repository that you may read; check its name and `repo_type`, and where "
                "it is private set HF_TOKEN"
            ) from error
        except errors.HfHubHTTPError as error:
            status = error.response.status_code if error.response is not None else 0
            if status in TRANSIENT:
                raise TransientError(f"HTTP {status} of the hub") from error
            raise InputError(f"{what}: the hub answers {' '.join(str(error).split())[:200]}") from error
        except errors.OfflineModeIsEnabled as error:
            raise InputError(f"{what}: HF_HUB_OFFLINE is set, and the hub must be asked; unset it") from error
        except errors.HFValidationError as error:
            raise InputError(f"{what}: {' '.join(str(error).split())}") from error
        except httpx.HTTPError as error:
            raise TransientError(str(error) or type(error).__name__) from error

    return ask_patiently(ask, f"{repo}@{revision}", origin or "the hub", retries)
