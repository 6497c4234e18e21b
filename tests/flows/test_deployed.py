"""What may be asked of a retraining from afar: typed, bounded, and neither a folder nor the gate."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from flows.deployed import evaluate, promote, retrain
from videollava.params import Params, load_params, profile_names
from videollava.params.changes import Changes, as_overrides

REPOSITORY = Path(__file__).resolve().parents[2]
# Deploys to a server of its own, as `prefect deploy` does, and asks it for runs.
ASK = """
import json, sys
from prefect.client.orchestration import get_client
from prefect.exceptions import PrefectHTTPStatusError
from flows.deployed import retrain

asked = json.loads(sys.argv[1])
told = {}
with get_client(sync_client=True) as client:
    deployment = client.create_deployment(
        client.create_flow(retrain), "retrain", parameter_openapi_schema=retrain.parameters.model_dump()
    )
    for name, parameters in asked.items():
        try:
            run = client.create_flow_run_from_deployment(deployment, parameters=parameters)
            told[name] = run.parameters
        except PrefectHTTPStatusError as error:
            told[name] = error.response.text
    told["schema"] = client.read_deployment(deployment).parameter_openapi_schema
print(json.dumps(told))
"""
WRONG = {
    "below": {"changes": {"finetune": {"epochs": -1}}},
    "unknown": {"changes": {"finetune": {"epoch": 3}}},
    "kind": {"changes": {"model": {"frames": "eight"}}},
    "gate": {"changes": {"gate": {"minimum_gain": -100}}},
    "tracking": {"changes": {"tracking": {"uri": "http://elsewhere"}}},
    "profile": {"profile": "no-such"},
}


def test_nobody_names_a_folder_or_goes_past_the_gate_from_afar() -> None:
    for flow in (evaluate, promote, retrain):
        assert not {"workspace", "force", "overrides", "root"} & flow.parameters.properties.keys(), flow.name
    assert set(promote.parameters.properties) == {"version", "because", "who"}
    file = yaml.safe_load((REPOSITORY / "prefect.yaml").read_text())
    assert {entry["entrypoint"].partition(":")[0] for entry in file["deployments"]} == {"flows/deployed.py"}


def test_changes_become_overrides_and_nothing_else_does(tmp_path: Path) -> None:
    changes = Changes.model_validate(
        {
            "seed": 3,
            "finetune": {"learning_rate": 1e-4, "lora": {"r": 8}, "epochs": None},
            "sources": {"mine": {"kind": "folder", "format": "auto", "path": "my data"}},
            "index": {"sources": {"mine": {"test": 0.2}}},
        }
    )
    assert sorted(as_overrides(changes)) == [
        "finetune.learning_rate=0.0001",
        "finetune.lora.r=8",
        'index.sources={"mine": {"test": 0.2}}',
        "seed=3",
        'sources={"mine": {"kind": "folder", "format": "auto", "path": "my data"}}',
    ]
    file = tmp_path / "params.yaml"
    file.write_text((REPOSITORY / "videollava/profiles/tiny.yaml").read_text())
    params = load_params(file, as_overrides(changes))
    assert (params.finetune.lora.r, params.seed, params.sources["mine"].path) == (8, 3, "my data")
    assert as_overrides(Changes()) == []


@pytest.mark.parametrize("name", sorted(WRONG.keys() - {"profile"}))
def test_what_is_wrong_is_refused_at_once(name: str) -> None:
    with pytest.raises(ValidationError):
        Changes.model_validate(WRONG[name]["changes"])


def test_every_section_but_those_that_decide_may_be_changed() -> None:
    assert set(Changes.model_fields) == set(Params.model_fields) - {"profile", "gate", "tracking"}
    asked = retrain.parameters.properties
    assert set(asked) == {"profile", "changes", "promote", "commit", "push", "who", "priority"}
    assert asked["profile"]["enum"] == ["", *profile_names()]
    (deployed,) = [
        one
        for one in yaml.safe_load((REPOSITORY / "prefect.yaml").read_text())["deployments"]
        if one["name"] == "retrain"
    ]
    assert deployed["entrypoint"] == "flows/deployed.py:retrain"
    assert retrain.validate_parameters(deployed["parameters"])["changes"] == Changes()


@pytest.mark.slow
def test_a_real_server_shows_the_schema_and_refuses_wrong_values(tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "PYTHONPATH": str(REPOSITORY),
        "PREFECT_HOME": str(tmp_path),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "true",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180",
    }
    for name in ("PREFECT_API_URL", "PREFECT_PROFILE"):
        environment.pop(name, None)
    right = {"changes": {"finetune": {"epochs": 3}, "seed": 1}, "promote": False}
    done = subprocess.run(
        [sys.executable, "-c", ASK, json.dumps({"right": right, **WRONG})],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["right"]["changes"] == right["changes"]
    for name in WRONG:
        assert "Validation failed" in told[name], told[name]
    assert "-1 is less than the minimum of 1" in told["below"]
    epochs = told["schema"]["definitions"]["ChangesTrain"]["properties"]["epochs"]
    assert epochs["anyOf"][0] == {"minimum": 1, "type": "integer"}
    assert epochs["description"] == "passes over the records"
