"""The page on a real server: one artifact that is written anew, whatever the end; and the table beside it."""

from __future__ import annotations

from pathlib import Path

import pytest
from prefect import flow
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
from prefect.settings import PREFECT_API_URL, PREFECT_LOGGING_TO_API_ENABLED, temporary_settings

from flows.page.live import open_report
from flows.session import open_session
from flows.stages.stage import StageFailed, StageResult
from videollava.params import load_params
from videollava.tracking.journal import read_events


@pytest.mark.slow
def test_a_failed_retraining_has_its_page_and_a_row(
    finished: Path, prefect_api: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("VIDEOLLAVA_FOLLOWED")
    file = finished / "params.yaml"
    file.write_text(file.read_text().replace("epochs: 2", "epochs: 5"))
    params = load_params(file)
    seen: list[str] = []

    def page(client: SyncPrefectClient, key: str) -> str:
        wanted = ArtifactFilter(key=ArtifactFilterKey(any_=[key]))
        (found,) = client.read_artifacts(artifact_filter=wanted)
        return str(found.data)

    @flow(name="page")
    def retrain() -> None:
        with (
            open_session(finished, params, "Ada") as session,
            open_report(session, finished, "Ada", ["finetune.epochs=5"]),
            SyncPrefectClient(prefect_api) as client,
        ):
            seen.append(page(client, "retraining"))
            session.note(StageResult("fetch", "unchanged", 0.1))
            session.send(["finetune"], "11111111-1111-4111-8111-111111111111")
            seen.append(page(client, "retraining"))
            raise StageFailed("finetune", 1, ["OSError: no <such> thing"])

    settings = {PREFECT_API_URL: prefect_api, PREFECT_LOGGING_TO_API_ENABLED: False}
    with temporary_settings(settings), SyncPrefectClient(prefect_api) as client:
        with pytest.raises(StageFailed):
            retrain()
        last, table = page(client, "retraining"), page(client, "retrainings")
    assert seen[0].startswith("# videollava: retraining, at fetch\n")
    assert "| finetune | - | finetune.epochs: 2 -> 5 |" in seen[0]
    assert seen[1].startswith("# videollava: retraining, at finetune\n")
    address = prefect_api.removesuffix("/api")
    assert f"[finetune]({address}/runs/flow-run/11111111-1111-4111-8111-111111111111) | sent |" in seen[1]
    assert last.startswith("# videollava: failed in finetune\n")
    assert "OSError: no <such> thing" in last
    assert "**Asked** profile tiny, finetune.epochs=5" in last
    assert "| failed |" in table
    assert "| Ada |" in table
    (journal,) = (finished / "runs" / "retrain").glob("*.jsonl")
    events = read_events(journal)[0]
    notes = [
        event["values"]["mlflow.note.content"]
        for event in events
        if "mlflow.note.content" in event.get("values", {})
    ]
    assert notes == [last]
    assert any(event.get("path", "").endswith("retrainings.html") for event in events)
