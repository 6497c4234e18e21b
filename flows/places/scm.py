"""DVC where there is no git: an unpacked archive, or a folder that a git above ignores."""

from __future__ import annotations

from pathlib import Path

from videollava.errors import InputError

__all__ = ["settle_scm"]

OURS = "# no git here: written by a retraining, and taken away by one that finds git"


def settle_scm(root: Path) -> str:
    """Have DVC in `root` do without git where there is none (core.no_scm in .dvc/config.local, here or further up),
    and with it where there is; what that means, in words, "" where all is as usual.

    What a person set stays as it is.
    """
    from configobj import ConfigObj, ConfigObjError
    from dvc.exceptions import NotDvcRepoError
    from dvc.repo import Repo

    lacking = _lacking(root)
    try:
        file = Path(Repo.find_dvc_dir(str(root))) / "config.local"  # here or further up, as for DVC itself
    except NotDvcRepoError as error:
        raise InputError(
            f"{root}: no .dvc folder in there; was the archive unpacked without hidden files?"
        ) from error
    try:
        config = ConfigObj(str(file) if file.is_file() else None, encoding="utf-8")
    except (ConfigObjError, UnicodeError, OSError) as error:
        raise InputError(f"{file}: cannot be read: {error}") from error
    core = config.setdefault("core", {})
    mine = OURS in core.comments.get("no_scm", [])
    if lacking and "no_scm" not in core:
        core["no_scm"] = "true"
        core.comments["no_scm"] = [OURS]
    elif not lacking and mine:
        del core["no_scm"]
    else:
        return lacking
    if not core:
        del config["core"]
    aside = file.with_name("config.local.tmp")
    with aside.open("wb") as stream:
        config.write(stream)
    aside.chmod(file.stat().st_mode if file.is_file() else 0o600)  # it may hold keys of a remote
    aside.replace(file)
    return lacking


def _lacking(root: Path) -> str:
    from dvc.scm import SCM, NoSCMError, SCMError

    try:
        with_git = SCM(str(root), search_parent_directories=True)
    except (NoSCMError, SCMError):
        return (
            f"{root} is no git repository (an unpacked archive?): stages run and are registered without a commit, "
            "so a result cannot be traced to its code; `git clone` the project for that"
        )
    try:
        if with_git.is_ignored(str(root / "dvc.yaml")):
            return f"git ignores {root}: stages run and are registered without a commit"
    finally:
        with_git.close()
    return ""
