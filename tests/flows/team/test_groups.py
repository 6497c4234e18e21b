"""Which stages go out together, and keys that are equal where the work is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from flows.stages.runcache import cache_key
from flows.team.entries import put_entries, read_entries, take_entries
from flows.team.keys import group_keys, open_inputs
from flows.team.pools import Group, group_stages
from videollava.errors import InputError
from videollava.machine import Pools, load_machine


def group_key(root: Path, stages: Sequence[str], entries: Mapping[str, Any]) -> str:
    return group_keys(root, stages, entries)[-1]


ORDER = ["fetch@a", "fetch@b", "shards@a", "index", "bases", "align", "pretrain", "finetune", "evaluate"]


def test_neighbouring_stages_of_a_pool_are_one_group() -> None:
    pools = Pools(data="here", gpu="big", eval="big")
    assert [*group_stages(ORDER, pools)] == [Group("here", tuple(ORDER[:4])), Group("big", tuple(ORDER[4:]))]
    apart = [*group_stages(ORDER, pools.replace(eval="small", data=""))]
    assert [(group.pool, group.title) for group in apart] == [
        ("", "fetch@a to index"),
        ("big", "bases to finetune"),
        ("small", "evaluate"),
    ]
    assert [*group_stages([], pools)] == []


def test_without_pools_every_stage_is_done_here(tmp_path: Path) -> None:
    assert load_machine(tmp_path).pools == Pools()
    assert {Pools().of(stage) for stage in ORDER} == {""}
    (tmp_path / "machine.yaml").write_text("pools: {data: d, gpus: g}\n")
    with pytest.raises(InputError, match="gpus"):
        load_machine(tmp_path)


def test_a_key_is_of_what_stages_read_and_of_nothing_else(finished: Path) -> None:
    entries = take_entries(finished)
    both = ("finetune", "evaluate")
    key = group_key(finished, both, entries)
    assert len(key) == 24
    # Outputs that the group makes itself, data that are not here, what nobody reads: all the same work.
    assert group_key(finished, both, {"fetch": entries["fetch"]}) == key
    (finished / "data/raw/toy").unlink()
    (finished / "README").write_text("another")
    assert group_key(finished, both, entries) == key
    # Groups that begin with the same stage share its key, whatever comes after it.
    first, whole = group_keys(finished, both, entries)
    assert (first, whole) == (group_key(finished, ("finetune",), entries), key)

    other = {
        **entries,
        "fetch": {**entries["fetch"], "outs": [{**entries["fetch"]["outs"][0], "md5": "0.dir"}]},
    }
    keys = {key, group_key(finished, both, other)}
    params = (finished / "params.yaml").read_text()
    (finished / "params.yaml").write_text(params.replace("epochs: 2", "epochs: 3"))
    keys.add(group_key(finished, both, entries))
    (finished / "params.yaml").write_text(params)
    (finished / "stage.py").write_text((finished / "stage.py").read_text() + "\n")
    keys.add(group_key(finished, both, entries))
    assert len(keys) == 4


def test_a_stages_own_key_is_the_one_that_dvc_keeps_its_run_under(finished: Path) -> None:
    entries = take_entries(finished)
    runs = finished / ".dvc/cache/runs"
    with open_inputs(finished) as inputs:
        for name, entry in entries.items():
            told = inputs.entry(name, entries)
            assert told is not None
            assert cache_key(told) == cache_key(entry)
            assert (runs / cache_key(told)[:2] / cache_key(told)).is_dir()
        assert inputs.entry("finetune", {}) is None  # it reads what nobody is known to have made


def test_entries_go_from_one_lock_into_anothers(finished: Path, tmp_path: Path) -> None:
    there = tmp_path / "there"
    there.mkdir()
    assert take_entries(there) == {}
    mine = take_entries(finished)
    put_entries(there, {"fetch": mine["fetch"]})
    put_entries(there, {name: mine[name] for name in ("finetune", "evaluate")})
    assert take_entries(there) == mine
    assert (there / "dvc.lock").read_bytes() == (finished / "dvc.lock").read_bytes()
    assert take_entries(there, ["fetch", "none"]) == {"fetch": mine["fetch"]}
    (there / "dvc.lock").write_text(
        "schema: '2.0'\nstages:\n  one:\n    params: {params.yaml: {rate: 1e-05}}\n"
    )
    put_entries(there, {})
    assert read_entries((there / "dvc.lock").read_text())["one"]["params"]["params.yaml"]["rate"] == 1e-05
