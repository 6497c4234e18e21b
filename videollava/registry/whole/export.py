"""A version as a folder that needs no registry, DVC or network: weights, tokenizer, code, card, licences, sums."""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
import zipfile
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import videollava
from videollava.errors import InputError
from videollava.params import Tracking
from videollava.registry.store import Store
from videollava.registry.versions import find_version, resolve, version_artifact, version_code
from videollava.registry.whole.apart import code_files
from videollava.registry.whole.wheel import pack_code

__all__ = ["export"]

SUMS = "SHA256SUMS"
HEAD = """\
---
library_name: videollava
pipeline_tag: image-text-to-text
license: other
license_name: see-licences
license_link: LICENCES.md
---

"""
HOW = """
## How to load it

In this folder, with what requirements.txt names installed (`pip install -r requirements.txt` does, the code too):

```python
import sys
sys.path.insert(0, "{wheel}")
from videollava import load
model = load(".")
print(model.answer("what is to be seen?", images=["picture.png"]))
```

Or `python -m videollava ask "what is to be seen?" --image picture.png --model .`; `sha256sum -c {sums}` finds damage.
This was {reference} of its registry.
"""
LICENCES = """\
# Licences

- The code in `code/`: Apache-2.0, its text in `LICENSE`.
- The weights: as what they are made from allows. "Data" and "What training starts from" in README.md name each source
  and base with what is known of its licence; "not stated" means that nobody has written it down, not that it is free.
"""


def export(
    reference: str, target: Path, workspace: Path, tracking: Tracking, places: Sequence[Store] = ()
) -> list[str]:
    """Write a registered version into the new or empty folder `target`; what a person should know of it.

    It is written beside and moved in place whole. InputError where `target` holds anything, or a file, the code or
    the licence of the version cannot be had.
    """
    if target.is_symlink() or (target.is_dir() and any(target.iterdir())):
        raise InputError(f"{target}: is there already and holds something; name a new folder")
    if Path.cwd().is_relative_to(target.resolve()):
        raise InputError(f"{target}: is the folder of now, which would be replaced; name a new one in it")
    version = find_version(workspace, tracking, reference)
    folder = resolve(version.reference, workspace, tracking, places)
    aside = _begin_aside(target)
    try:
        aside.mkdir(parents=True)
        _copy_model(folder, aside)
        notes = _add_code(version.reference, workspace, tracking, aside)
        notes += _add_card(version.reference, workspace, tracking, aside)
        _write_sums(aside)
        if target.is_dir():
            target.rmdir()
        aside.rename(target)
    except OSError as error:
        raise InputError(f"{target}: not written: {error}; nothing is left of it") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return notes


def _begin_aside(target: Path) -> Path:
    """Where it is written first; what killed exports to `target` left beside it on this machine is taken away."""
    head = f".{target.name}.{socket.gethostname()}."
    beside = sorted(target.parent.iterdir()) if target.parent.is_dir() else []
    for half in beside:
        number = half.name.removeprefix(head).removesuffix(".tmp")
        if half.name == f"{head}{number}.tmp" and number.isdecimal() and not _is_running(int(number)):
            shutil.rmtree(half, ignore_errors=True)
    return target.with_name(f"{head}{os.getpid()}.tmp")


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's
        return True
    return True


def _copy_model(folder: Path, aside: Path) -> None:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    if not any(path.suffix == ".safetensors" for path in files):
        raise InputError(f"{folder}: no safetensors in it; `videollava convert` writes them")
    for path in files:
        copy = aside / path.relative_to(folder)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)  # what links point to, writable


def _add_code(reference: str, workspace: Path, tracking: Tracking, aside: Path) -> list[str]:
    """code/<wheel>, requirements.txt and the code's LICENSE."""
    wheel, pins, bring = version_code(workspace, tracking, reference)
    notes = []
    with TemporaryDirectory() as brought:
        if wheel:
            file = bring(Path(brought))
        else:
            file = pack_code(Path(videollava.__file__).parent, workspace)
            notes.append(f"{reference} carries no code of its own: that of this checkout was taken")
        (aside / "code").mkdir()
        shutil.copyfile(file, aside / "code" / file.name)
    lines = [f"./code/{file.name}", *pins]
    (aside / "requirements.txt").write_text("\n".join(lines) + "\n")
    with zipfile.ZipFile(aside / "code" / file.name) as packed:
        texts = [name for name in packed.namelist() if name.endswith(".dist-info/licenses/LICENSE")]
        if texts:
            (aside / "LICENSE").write_bytes(packed.read(texts[0]))
        else:
            notes.append(f"{file.name} holds no licence text: add LICENSE (Apache-2.0) before you pass it on")
    return notes


def _add_card(reference: str, workspace: Path, tracking: Tracking, aside: Path) -> list[str]:
    """README.md: the version's card as it was when it was made, and how to load it; LICENCES.md."""
    with TemporaryDirectory() as brought:
        file = version_artifact(workspace, tracking, reference, "card.md", Path(brought))
        card = file.read_text() if file else f"# {reference}\n"
    (wheel,) = (aside / "code").iterdir()
    how = HOW.format(wheel=f"code/{wheel.name}", sums=SUMS, reference=reference)
    (aside / "README.md").write_text(HEAD + card + how)
    (aside / "LICENCES.md").write_text(LICENCES)
    return [] if file else [f"{reference} has no card (an earlier release made it)"]


def _write_sums(aside: Path) -> None:
    lines = []
    for path in code_files(aside):
        with path.open("rb") as stream:
            lines.append(f"{hashlib.file_digest(stream, 'sha256').hexdigest()}  {path.relative_to(aside)}\n")
    (aside / SUMS).write_text("".join(lines))
