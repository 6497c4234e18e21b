"""`python -m flows.pools`: have the Prefect server's work pools, their slots and queues be as pools.yaml says.

Again and again with the same result; what the file does not name is left alone. Slots are the pool's concurrency
limit, which is counted from the runs' states in the server's database: no lease is lost with a restarted server.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.servers.server import find_standing
from videollava.errors import InputError
from videollava.machine.pools import FILE, PRIORITIES, Pool, load_pools

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import WorkPool

__all__ = ["main", "settle", "settle_pool"]


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line, settle the pools; the exit status (1: --check found differences)."""
    parser = argparse.ArgumentParser(prog="python -m flows.pools", description=__doc__)
    parser.add_argument("--file", type=Path, default=Path(FILE), help=f"default: {FILE}")
    parser.add_argument(
        "--check", action="store_true", help="only say what differs; status 1 where something does"
    )
    options = parser.parse_args(arguments)
    try:
        pools = load_pools(Path.cwd(), options.file)
        with _client() as client:
            done = settle(client, pools, options.file.parent, change=not options.check)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print("\n".join(done) if done else f"{len(pools)} pools are as {options.file} says")
    return 1 if done and options.check else 0


def settle(
    client: SyncPrefectClient, pools: Mapping[str, Pool], folder: Path, change: bool = True
) -> list[str]:
    """Make or update each pool and its queues; what was done (what differs, without `change`), in words.

    folder: that templates are named from. InputError where a pool is there with another type, or a template cannot be
    read.
    """
    return [line for name, pool in pools.items() for line in settle_pool(client, name, pool, folder, change)]


def settle_pool(
    client: SyncPrefectClient, name: str, pool: Pool, folder: Path, change: bool = True
) -> Iterator[str]:
    """One of them."""
    found = _find(client, name)
    if found is None:
        yield f"{name}: made ({pool.type}, {_slots(pool.slots)})"
    else:
        if found.type != pool.type:
            raise InputError(
                f"{name}: is a pool of type {found.type} there, and a pool keeps its type: say so in {FILE}, or "
                f"`prefect work-pool delete {name}` first"
            )
        if found.concurrency_limit != pool.slots:
            yield f"{name}: {_slots(found.concurrency_limit)} -> {pool.slots}"
    template = _template(pool, folder / FILE, name)
    if found is not None and template not in ({}, found.base_job_template):
        yield f"{name}: another base job template"
    if change:
        _write(client, name, pool, template, found is None)
    if change or found is not None:
        yield from _settle_queues(client, name, pool, change)


def _write(client: SyncPrefectClient, name: str, pool: Pool, template: dict[str, Any], new: bool) -> None:
    from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate

    wanted: dict[str, Any] = {"concurrency_limit": pool.slots}
    if template:
        wanted["base_job_template"] = template
    if not new:
        client.update_work_pool(name, WorkPoolUpdate(**wanted))
        return
    if not template and pool.type == "process":  # others' a worker brings when it starts
        from prefect.workers.process import ProcessWorker

        wanted["base_job_template"] = ProcessWorker.get_default_base_job_template()
    client.create_work_pool(WorkPoolCreate(name=name, type=pool.type, **wanted))


def _settle_queues(client: SyncPrefectClient, name: str, pool: Pool, change: bool) -> Iterator[str]:
    there = {queue.name: queue for queue in client.read_work_queues(work_pool_name=name)}
    for place, queue in enumerate(PRIORITIES, 1):
        wanted: dict[str, Any] = {"priority": place, "concurrency_limit": pool.queues.get(queue)}
        if queue not in there:
            yield f"{name}/{queue}: made"
            if change:
                client.create_work_queue(queue, work_pool_name=name, **wanted)
            continue
        found = there[queue]
        differing = {key: value for key, value in wanted.items() if getattr(found, key) != value}
        for key, value in differing.items():
            yield f"{name}/{queue}: {key.replace('concurrency_limit', 'slots')} {getattr(found, key)} -> {value}"
        if differing and change:
            client.update_work_queue(found.id, **differing)


def _find(client: SyncPrefectClient, name: str) -> WorkPool | None:
    from prefect.exceptions import ObjectNotFound

    try:
        return client.read_work_pool(name)
    except ObjectNotFound:
        return None


def _template(pool: Pool, file: Path, name: str) -> dict[str, Any]:
    """The base job template that the file wants; empty: the type's own, and edits of it on the page stay."""
    if not pool.template:
        return {}
    path = file.parent / pool.template
    try:
        return dict(json.loads(path.read_text()))
    except (OSError, ValueError) as error:
        raise InputError(f"{file}: {name}.template: {path} cannot be read: {error}") from error


def _slots(count: int | None) -> str:
    return "no limit" if count is None else f"{count} slot{'s' if count != 1 else ''}"


@contextmanager
def _client() -> Iterator[SyncPrefectClient]:
    """Prefect's, for the server that is there."""
    find_standing()
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        yield client


if __name__ == "__main__":
    raise SystemExit(main())
