"""What params.yaml says of how a source is had, checked, and what of it decides the source's files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from videollava.data.acquire.addresses import file_name, is_address, is_prefix, shown
from videollava.data.acquire.located import MANIFEST
from videollava.errors import InputError
from videollava.params import Params, Source

__all__ = ["RESERVED", "addresses", "asked", "check_source", "choose", "folder_of", "where"]

RESERVED = (".part", ".version", ".pieces")  # ends of names beside a file that is coming
FIELDS = {
    "package": {"package"},
    "generated": {"train", "test", "seed"},
    "archive": {"urls", "annotations", "sha256"},
    "folder": {"path"},
    "hub": {"repo", "revision", "files", "repo_type"},
}


def where(source: Source) -> str:
    """How errors name a source."""
    return f"params.yaml: sources.{source.name}"


def choose(params: Params, name: str) -> list[Source]:
    """The source of this name, checked; all without one. InputError where there is none, or one is declared wrongly."""
    if not params.sources:
        raise InputError("params.yaml: sources is empty; name at least one source")
    if name and name not in params.sources:
        raise InputError(f"params.yaml: sources: no {name!r}; there are: {', '.join(params.sources)}")
    chosen = [params.sources[name]] if name else list(params.sources.values())
    for source in chosen:
        check_source(source)
    return chosen


def folder_of(source: Source, workspace: Path) -> Path:
    """The folder of a source of kind folder."""
    return workspace / Path(source.path).expanduser()


def asked(source: Source) -> dict[str, Any]:
    """What decides which files a source has: other values ask for another look."""
    values = source.model_dump(mode="json", include={"kind"} | FIELDS[source.kind])
    if source.kind == "archive":  # without what is secret in them: another signature is no other file
        values |= {"urls": [shown(url) for url in source.urls], "annotations": shown(source.annotations)}
    return {name: value for name, value in values.items() if value not in ("", [], ())}


def addresses(source: Source) -> list[tuple[str, str]]:
    """The addresses of a source of kind archive, each with its sha256 ("": none declared); annotations come last."""
    urls = [*source.urls, *([source.annotations] if is_address(source.annotations) else [])]
    return list(zip(urls, source.sha256 or [""] * len(urls), strict=True))


def check_source(source: Source) -> None:
    """Raise InputError where a source is not declared as its kind wants it."""
    checks = {"archive": _check_archive, "folder": _check_folder, "hub": _check_hub}
    if source.kind in checks:
        checks[source.kind](source)
    elif source.kind == "package" and not source.package:
        raise InputError(f"{where(source)}: kind package needs `package`, the name that pip installs")
    elif source.kind == "generated" and (source.train < 1 or source.test < 0):
        raise InputError(
            f"{where(source)}: kind generated needs `train` (and `test`), how many clips to draw"
        )


def _check_archive(source: Source) -> None:
    place = where(source)
    if not source.urls and not is_address(source.annotations):
        raise InputError(f"{place}: kind archive needs `urls`")
    urls = [*source.urls, *([source.annotations] if is_address(source.annotations) else [])]
    if source.sha256 and len(source.sha256) != len(urls):
        raise InputError(
            f"{place}: {len(urls)} addresses but {len(source.sha256)} sha256; give one for each of `urls` "
            "(and then for `annotations`, where that is an address), or none: the first download notes them"
        )
    names = [file_name(url, place) for url in urls if not is_prefix(url)]
    for url, digest in addresses(source):
        if is_prefix(url):
            if digest or url == source.annotations:
                raise InputError(
                    f"{place}: {shown(url)}: it ends in / and means every object below it; leave `sha256` out, and "
                    "give `annotations` the address of a file"
                )
            continue
        name = file_name(url, place)
        if not name or names.count(name) > 1 or name == MANIFEST:
            raise InputError(f"{place}: {shown(url)}: every address must end in a file name of its own")
        if digest and (len(digest) != 64 or set(digest.lower()) - set("0123456789abcdef")):
            raise InputError(f"{place}: {shown(url)}: sha256 {digest!r} is not 64 hex digits")


def _check_folder(source: Source) -> None:
    if not source.path:
        raise InputError(f"{where(source)}: kind folder needs `path`, the folder that holds the data")


def _check_hub(source: Source) -> None:
    if not source.repo:
        raise InputError(f"{where(source)}: kind hub needs `repo`, such as liuhaotian/LLaVA-Instruct-150K")
