"""What a sweep closes, on a real server."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from prefect import flow
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import StateType
from prefect.settings import PREFECT_API_URL, PREFECT_LOGGING_TO_API_ENABLED, temporary_settings
from prefect.states import Pending, Scheduled

from flows.team.life import sweep as sweeping


@pytest.mark.slow
def test_a_run_that_its_worker_took_and_never_began_is_closed(
    prefect_api: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    @flow(name="sync")
    def sync() -> None:
        pass

    @flow(name="probe")
    def probe() -> list[str]:
        return sweeping.sweep(print)

    settings = {PREFECT_API_URL: prefect_api, PREFECT_LOGGING_TO_API_ENABLED: False}
    with temporary_settings(settings), SyncPrefectClient(prefect_api) as client:
        client.create_work_pool(WorkPoolCreate(name="swept", type="process"))
        deployment = client.create_deployment(client.create_flow(sync), "swept", work_pool_name="swept")
        taken = client.create_flow_run_from_deployment(deployment, state=Pending(), name="taken")
        later = Scheduled(scheduled_time=datetime.now(UTC) + timedelta(minutes=9))
        early = client.create_flow_run_from_deployment(deployment, state=later, name="early")
        client.set_flow_run_state(early.id, Pending(), force=True)
        assert probe() == []  # it may begin yet
        monkeypatch.setattr(sweeping, "PENDING_LOST", -1.0)
        assert probe() == ["taken"]
        state = client.read_flow_run(taken.id).state
        assert state is not None
        assert state.type == StateType.CRASHED
