"""The packages that can change a result: their part of the pins, and what is installed otherwise."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

import pytest

from videollava.errors import InputError
from videollava.tracking.packages import (
    COMPUTE,
    LOCK,
    compute_lock,
    differing_packages,
    in_words,
    locked_packages,
    main,
    package_tags,
)

PINS = "".join(f"{name}==1.10\n" for name in COMPUTE)


def pretend(patch: pytest.MonkeyPatch, **installed: str) -> None:
    def version(name: str) -> str:
        if name not in installed:
            raise metadata.PackageNotFoundError(name)
        return installed[name]

    patch.setattr(metadata, "version", version)


def test_the_lock_holds_what_computes_and_keeps_versions_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "requirements.lock").write_text(
        PINS.replace("torch==1.10\n", "").replace("decord==1.10", "decord==0.6.0 ; machine == 'x'")
        + "ruff==3\n"
    )
    with pytest.raises(InputError, match=r"does not pin torch; `make lock`"):
        main([])
    assert main(["torch==2.10"]) == 0
    locked = locked_packages(tmp_path)
    assert list(locked) == list(COMPUTE)
    assert (locked["torch"], locked["decord"], locked["numpy"]) == ("2.10", "0.6.0", "1.10")
    # A pin that is none of these changes nothing.
    assert compute_lock(PINS + "ruff==4\n") == compute_lock(PINS + "ruff==3\n")


def test_what_is_installed_otherwise_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / LOCK).write_text(compute_lock(PINS))
    pretend(monkeypatch, **dict.fromkeys(COMPUTE, "1.10+cu130"))
    assert differing_packages(tmp_path) == {}
    assert package_tags(tmp_path)["version.torch"] == "1.10+cu130"
    assert "packages_differ" not in package_tags(tmp_path)
    there = dict.fromkeys(COMPUTE, "1.10") | {"torch": "1.11+cpu"}
    for name in ("av", "deepspeed"):  # one that is always used, one that nobody has to have
        del there[name]
    pretend(monkeypatch, **there)
    differing = differing_packages(tmp_path)
    assert differing == {"torch": ("1.10", "1.11+cpu"), "av": ("1.10", "")}
    told = "av not installed (compute.lock: 1.10), torch 1.11+cpu (compute.lock: 1.10)"
    assert in_words(differing) == package_tags(tmp_path)["packages_differ"] == told


def test_a_folder_without_the_lock_has_nothing_to_differ_from(tmp_path: Path) -> None:
    assert differing_packages(tmp_path) == {}
    (tmp_path / LOCK).write_text("torch: 1\ntorch: 2\n")
    with pytest.raises(InputError, match="torch' stands twice"):
        differing_packages(tmp_path)
