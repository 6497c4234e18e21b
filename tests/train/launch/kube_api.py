"""A stand-in for a Kubernetes cluster: the API server's paths over real HTTP (kube_cluster is what is behind them)."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import kubernetes_validate
from kube_cluster import Api, Refusal, now

__all__ = ["Api", "Refusal", "cluster"]

# plural: (path of its group, kind)
KINDS = {
    "pods": ("/api/v1", "Pod"),
    "services": ("/api/v1", "Service"),
    "events": ("/api/v1", "Event"),
    "jobs": ("/apis/batch/v1", "Job"),
    "jobsets": ("/apis/jobset.x-k8s.io/v1alpha2", "JobSet"),
}
VERBS = ["create", "delete", "get", "list", "watch"]
PATH = re.compile(r"(/api/v1|/apis/[^/]+/[^/]+)/namespaces/([^/]+)/(\w+)(?:/([^/]+))?(/log)?$")


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    api: Api

    def log_message(self, *_: Any) -> None:
        pass

    def _answer(self, body: Any, code: int = 200) -> None:
        data = json.dumps(body).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _handle(self) -> None:
        size = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(size)) if size else {}
        url = urlsplit(self.path)
        self.api.calls.append(f"{self.command} {url.path}")
        try:
            if self.api.down:
                raise Refusal(
                    503, "ServiceUnavailable", "the server is currently unable to handle the request"
                )
            self._route(url.path, {key: values[-1] for key, values in parse_qs(url.query).items()}, body)
        except Refusal as no:
            status = {
                "kind": "Status",
                "apiVersion": "v1",
                "status": "Failure",
                "message": no.message,
                "reason": no.reason,
                "code": no.code,
            }
            self._answer(status, no.code)
        except kubernetes_validate.ValidationError as error:
            message = f"{body.get('kind')} in version is invalid: {error.message}"
            status = {
                "kind": "Status",
                "apiVersion": "v1",
                "status": "Failure",
                "message": message,
                "reason": "Invalid",
                "code": 422,
            }
            self._answer(status, 422)

    do_GET = do_POST = do_DELETE = _handle

    def _route(self, path: str, query: dict[str, str], body: dict[str, Any]) -> None:
        if found := PATH.match(path):
            _, _, plural, name, log = found.groups()
            if log:
                return self._log(str(name), query)
            return self._answer(self._resource(plural, name, query, body))
        return self._answer(discover(path))

    def _resource(self, plural: str, name: str | None, query: dict[str, str], body: dict[str, Any]) -> Any:
        api = self.api
        if self.command == "POST":
            return api.create(plural, body)
        if self.command == "DELETE":
            return api.delete(plural, str(name), body)
        with api.lock:
            if name:
                if (plural, name) not in api.objects:
                    raise Refusal(404, "NotFound", f'{plural} "{name}" not found')
                return json.loads(json.dumps(api.objects[plural, name]))
            items = [one for (kind, _), one in api.objects.items() if kind == plural and selected(one, query)]
            group, kind = KINDS[plural]
            version = group.removeprefix("/apis/").removeprefix("/api/")
            return json.loads(
                json.dumps(
                    {
                        "kind": f"{kind}List",
                        "apiVersion": version,
                        "metadata": {"resourceVersion": "1"},
                        "items": items,
                    }
                )
            )

    def _log(self, name: str, query: dict[str, str]) -> None:
        """Lines with the time they were seen here; `cuts` streams end after three of them."""
        file, since = self.api.log_of(name), query.get("sinceTime", "")
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.end_headers()
        self.close_connection = True
        cut, self.api.cuts = (3 if self.api.cuts else 0), max(0, self.api.cuts - 1)
        sent = 0
        with open(file, "rb") as stream, suppress(BrokenPipeError):
            while True:
                line = stream.readline()
                if line:
                    stamp = stamps.setdefault((name, stream.tell()), now())
                    if stamp[:19] >= since[:19]:
                        self.wfile.write((f"{stamp} ".encode() if "timestamps" in query else b"") + line)
                        self.wfile.flush()
                        sent += 1
                    if cut and sent >= cut:
                        return
                    continue
                running = self.api.processes[name]
                if query.get("follow") != "true" or running.poll() is not None:
                    return
                time.sleep(0.02)


stamps: dict[tuple[str, int], str] = {}


def selected(one: dict[str, Any], query: dict[str, str]) -> bool:
    labels = one["metadata"].get("labels", {})
    fields = {
        "type": one.get("type"),
        "reason": one.get("reason"),
        "involvedObject.kind": one.get("involvedObject", {}).get("kind"),
    }
    wanted = [(labels, query.get("labelSelector", "")), (fields, query.get("fieldSelector", ""))]
    return all(
        have.get(term.partition("=")[0]) == term.partition("=")[2]
        for have, terms in wanted
        for term in terms.split(",")
        if term
    )


def discover(path: str) -> dict[str, Any]:
    groups = {"batch": "v1", "jobset.x-k8s.io": "v1alpha2"}
    if path == "/version":
        return {"major": "1", "minor": "35", "gitVersion": "v1.35.0"}
    if path == "/api":
        return {"kind": "APIVersions", "versions": ["v1"]}
    if path == "/apis":
        versions = [
            {
                "name": name,
                "versions": [{"groupVersion": f"{name}/{v}", "version": v}],
                "preferredVersion": {"groupVersion": f"{name}/{v}", "version": v},
            }
            for name, v in groups.items()
        ]
        return {"kind": "APIGroupList", "apiVersion": "v1", "groups": versions}
    if path == "/openapi/v3":
        places = [group for group, _ in KINDS.values()]
        return {"paths": {place[1:]: {"serverRelativeURL": f"/openapi/v3{place}"} for place in places}}
    if path.startswith("/openapi/v3/"):
        return {
            "openapi": "3.0.0",
            "info": {"title": "", "version": ""},
            "paths": dict(operations(path.removeprefix("/openapi/v3"))),
        }
    resources = [
        {"name": plural, "singularName": kind.lower(), "namespaced": True, "kind": kind, "verbs": VERBS}
        for plural, (group, kind) in KINDS.items() if group == path
    ]  # fmt: skip
    if not resources:
        raise Refusal(404, "NotFound", "the server could not find the requested resource")
    version = path.removeprefix("/apis/").removeprefix("/api/")
    return {"kind": "APIResourceList", "groupVersion": version, "resources": resources}


def operations(place: str) -> Iterator[tuple[str, Any]]:
    """That fields are checked by the server: what kubectl looks for before it creates."""
    for plural, (group, kind) in KINDS.items():
        if group == place:
            *_, name, version = ["", *place.split("/")]
            about = {"group": "" if name == "api" else name, "version": version, "kind": kind}
            patch = {
                "x-kubernetes-group-version-kind": about,
                "parameters": [{"name": "fieldValidation", "in": "query", "schema": {"type": "string"}}],
                "responses": {},
            }
            yield f"{place}/namespaces/{{namespace}}/{plural}/{{name}}", {"patch": patch}


@contextmanager
def cluster(folder: Path) -> Iterator[Api]:
    """It runs, and `folder`/kubeconfig leads to it."""
    folder.mkdir(parents=True)
    api = Api(folder)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"api": api}))
    server.daemon_threads = True
    for work in (lambda: server.serve_forever(0.05), api.work):
        threading.Thread(target=work, daemon=True).start()
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "here",
        "clusters": [{"name": "here", "cluster": {"server": f"http://127.0.0.1:{server.server_address[1]}"}}],
        "users": [{"name": "me", "user": {}}],
        "contexts": [{"name": "here", "context": {"cluster": "here", "user": "me", "namespace": "team"}}],
    }
    (folder / "kubeconfig").write_text(json.dumps(config))
    try:
        yield api
    finally:
        api.stop()
        server.shutdown()
        server.server_close()
