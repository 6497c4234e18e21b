"""Where DVC keeps and shares files, asked of DVC: every level of its settings, every way to write a remote."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import chdir
from pathlib import Path
from typing import Any

import pytest
import yaml
from dvc.repo import Repo

import flows.storage
from flows.stages.stage import push_stages, run_stage
from flows.storage import bring, has_remote, share, stores
from videollava import registry
from videollava.errors import InputError
from videollava.params import Tracking, load_params
from videollava.registry import Store

FAR = "[core]\n    remote = far\n"


def remote(url: str, *settings: str, name: str = "far") -> str:
    return "\n".join(
        [f"['remote \"{name}\"']", f"    url = {url}", *(f"    {line}" for line in settings), ""]
    )


@pytest.fixture
def levels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Writes DVC's settings, level by level; the workspace they hold for."""
    for level in ("system", "global"):
        (tmp_path / level).mkdir()
        monkeypatch.setenv(f"DVC_{level.upper()}_CONFIG_DIR", str(tmp_path / level))
    root = tmp_path / "wörk space"
    (root / ".dvc").mkdir(parents=True)

    def write(**texts: str) -> Path:
        places = {
            "system": tmp_path / "system/config",
            "global": tmp_path / "global/config",
            "repo": root / ".dvc/config",
            "local": root / ".dvc/config.local",
        }
        for name, place in places.items():
            place.write_text(texts.get(name, ""))
        return root

    return write


@pytest.mark.parametrize("level", ["system", "global", "repo", "local"])
def test_a_remote_of_any_level_is_found(levels: Any, level: str, tmp_path: Path) -> None:
    root = levels(**{level: FAR + remote("/srv/remote")})
    assert stores(root) == [Store(str(root / ".dvc/cache")), Store("/srv/remote")]
    assert has_remote(root)
    assert not has_remote(levels())


def test_levels_shadow_each_other(levels: Any) -> None:
    far = FAR + remote("/srv/system")
    near = "[core]\n    remote = near\n" + remote("/srv/near", name="near")
    assert stores(levels(system=far, **{"global": near}))[1].url == "/srv/near"
    assert stores(levels(system=far, local=remote("/srv/mine")))[1].url == "/srv/mine"


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("../../far", "{parent}/far"),
        ("'/srv/a b/ü'", "/srv/a b/ü"),
        ("~/far", "{home}/far"),
        ("/srv/100%", "/srv/100%"),
        ("s3://bucket/a b/ü", "s3://bucket/a b/ü"),
        ("s3://key:hunter2@bucket/p", "s3://bucket/p"),
        ("https://me:hunter2@host/x?sig=hunter2", "https://host/x"),
    ],
)
def test_addresses_as_people_write_them(levels: Any, url: str, found: str) -> None:
    root = levels(repo=FAR + remote(url))
    wanted = found.format(parent=root.parent, home=Path.home())
    assert stores(root)[1].url == wanted


def test_profile_region_and_endpoint_are_recorded_and_no_key_is(levels: Any) -> None:
    secrets = [
        "access_key_id = AKIAABCDEFGHIJKLMNOP",
        "secret_access_key = hunter2",
        "session_token = hunter2",
    ]
    root = levels(
        repo=FAR + remote("s3://bucket/p", "region = eu-west-1", "profile = team"),
        local=remote("s3://bucket/p", "endpointurl = https://me:hunter2@minio:9000", *secrets),
    )
    place = stores(root)[1]
    assert place == Store("s3://bucket/p", "https://minio:9000", "eu-west-1", "team")


def test_a_remote_may_refer_to_another(levels: Any) -> None:
    base = remote("s3://bucket/base", "endpointurl = http://minio", name="base")
    root = levels(repo=FAR + base + remote("remote://base/sub dir"))
    assert stores(root)[1] == Store("s3://bucket/base/sub dir", "http://minio")


@pytest.mark.parametrize("setting", ["version_aware = true", "worktree = true"])
def test_a_remote_that_keeps_names_is_pushed_to_and_not_loaded_from(levels: Any, setting: str) -> None:
    root = levels(repo=FAR + remote("s3://bucket/p", setting))
    assert "cloud-versioned" in stores(root)[1].trouble
    assert has_remote(root)
    assert "read by DVC alone" in stores(levels(repo=FAR + remote("https://host/x")))[1].trouble


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (FAR, "core.remote. is 'far', but .*doesn't exist; defined: none"),
        (FAR + remote("/srv", name="near"), "defined: near"),
        (FAR + remote("remote://base/x"), "remote 'base' doesn't exist"),
        (FAR + remote("gs://bucket"), "requires 'dvc-gs' to be installed"),
        (FAR + remote("file:///srv/remote"), "write the plain path: `dvc remote modify far url /srv/remote`"),
        ("[core\n", "settings cannot be read"),
        ("[core]\n    nosuch = 1\n", "extra keys not allowed"),
        (FAR + "['remote \"far\"']\n    region = x\n", "expected 'url'"),
        (FAR + remote("/srv/%(x)s"), "interpolation"),
    ],
)
def test_settings_that_cannot_be_right_are_said(levels: Any, settings: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        stores(levels(repo=settings))


def test_no_dvc_folder_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no .dvc folder in there"):
        stores(tmp_path)


def test_a_project_in_a_folder_of_a_larger_repository(levels: Any) -> None:
    root = levels(repo=FAR + remote("../far"))
    (root / "models/video").mkdir(parents=True)
    assert (
        stores(root / "models/video")
        == stores(root)
        == [Store(str(root / ".dvc/cache")), Store(str(root / "far"))]
    )


def test_a_cache_elsewhere(levels: Any) -> None:
    root = levels(**{"global": "[cache]\n    dir = /srv/cache\n    shared = group\n"})
    assert stores(root) == [Store("/srv/cache")]
    root = levels(repo="[cache]\n    dir = ../../shared cache\n")
    assert stores(root) == [Store(str(root.parent / "shared cache"))]


def test_a_clone_shares_what_its_home_says(levels: Any, tmp_path: Path) -> None:
    near = "[core]\n    remote = near\n" + remote("../../near", name="near")
    keys = remote("s3://bucket/p", "secret_access_key = hunter2", name="other")
    root = levels(repo=near, local="[cache]\n    dir = ../../my cäche\n" + keys, system=FAR + remote("/srv"))
    clone = tmp_path / "clone"
    (clone / ".dvc").mkdir(parents=True)
    (clone / ".dvc/config").write_text("")
    for _ in range(2):
        share(root, clone)
        assert stores(clone) == stores(root)
    assert (clone / ".dvc/config.local").stat().st_mode & 0o077 == 0
    assert (
        "hunter2" in (clone / ".dvc/config.local").read_text()
    )  # DVC pushes from there with the same rights
    assert (root / ".dvc/config").read_text() == near


def test_a_remote_in_the_global_settings_is_pushed_to_and_versions_load_from_it(
    workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = tmp_path / "global"
    settings.mkdir()
    (settings / "config").write_text(FAR + remote(str(tmp_path / "far")))
    monkeypatch.setenv("DVC_GLOBAL_CONFIG_DIR", str(settings))
    other = tmp_path / "other"
    subprocess.run(["git", "clone", "--quiet", str(workspace), str(other)], check=True)
    assert run_stage(workspace, "evaluate", lambda _: None).outcome == "ran"
    said: list[str] = []
    assert push_stages(workspace, ["finetune"], said.append) == ""
    assert said == ["finetune: pushed to the remote"]
    assert run_stage(other, "finetune", lambda _: None).outcome == "restored"
    params = load_params(workspace / "params.yaml")
    version, _ = registry.register(workspace, params, places=stores(workspace))
    # Elsewhere, where nobody has DVC or its settings: what the version recorded is enough.
    shutil.rmtree(workspace / ".dvc")
    monkeypatch.delenv("DVC_GLOBAL_CONFIG_DIR")
    _, places = registry.version_manifest(workspace, params.tracking, "1")
    assert [place.url for place in places] == [str(workspace / ".dvc/cache"), str(tmp_path / "far")]
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    uri = f"sqlite:///{workspace}/.mlflow/mlflow.db"
    monkeypatch.setenv("VIDEOLLAVA_CACHE", str(elsewhere))
    code = (
        "import sys; sys.modules['dvc'] = sys.modules['flows'] = None\n"
        "from pathlib import Path; from videollava.params import Tracking; from videollava.registry import resolve\n"
        f"print(resolve('models:/videollava/1', Path('.'), Tracking(uri={uri!r})))"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=elsewhere, capture_output=True, text=True, check=True)
    assert (Path(done.stdout.strip()) / "model.safetensors").read_text() == "weights after 2"
    assert version.key


def test_dvc_brings_an_old_version_from_a_remote_set_later(workspace: Path, tmp_path: Path) -> None:
    run_stage(workspace, "evaluate", lambda _: None)
    params = load_params(workspace / "params.yaml")
    registry.register(workspace, params, places=stores(workspace))
    config = workspace / ".dvc/config"
    config.write_text(config.read_text() + "    remote = far\n" + remote(str(tmp_path / "far")))
    push_stages(workspace, ["finetune"], lambda _: None)
    shutil.rmtree(workspace / ".dvc/cache")
    with pytest.raises(InputError, match=r"cannot be had.*python -m flows.storage"):
        registry.resolve("models:/videollava/1", workspace, Tracking())
    assert (bring(workspace, "1") / "model.safetensors").read_text() == "weights after 2"
    assert registry.resolve("models:/videollava/1", workspace, Tracking()).is_dir()
    with pytest.raises(InputError, match="not in the registry"):
        bring(workspace, "7")
    manifest, places = registry.version_manifest(workspace, Tracking(), "1")
    assert "hunter2" not in json.dumps(manifest.config(places))


def test_dvc_brings_the_encoders_of_a_version(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """From a remote that only DVC reads: its address is kept from who looks by themselves."""
    (finished / "models/encoders/image").mkdir(parents=True)
    (finished / "models/encoders/image/config.json").write_text('{"of": "pictures"}')
    graph = yaml.safe_load((finished / "dvc.yaml").read_text())
    graph["stages"]["align"] = {"cmd": "true", "deps": ["data/raw"], "outs": ["models/encoders"]}
    (finished / "dvc.yaml").write_text(yaml.safe_dump(graph))
    with chdir(finished), Repo(".") as repo:
        repo.commit("align", force=True)
    params = load_params(finished / "params.yaml")
    version, _ = registry.register(finished, params)
    config = finished / ".dvc/config"
    config.write_text(config.read_text() + "    remote = far\n" + remote(str(tmp_path / "far")))
    assert push_stages(finished, ["align"], lambda _: None) == ""
    shutil.rmtree(finished / ".dvc/cache")
    monkeypatch.setattr(flows.storage, "stores", lambda root: stores(root)[:1])
    monkeypatch.setattr(flows.storage, "has_remote", lambda _: True)
    with pytest.raises(InputError, match=r"its encoders cannot be had: .* --encoders"):
        registry.resolve_encoders(version.reference, finished, params.tracking)
    monkeypatch.chdir(finished)
    assert flows.storage._main(["1", "--encoders"]) == 0
    folder = Path(capsys.readouterr().out.splitlines()[-1])
    assert json.loads((folder / "image/config.json").read_text()) == {"of": "pictures"}
