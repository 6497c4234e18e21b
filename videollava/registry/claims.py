"""The same outputs are one version, however often they are registered, at once or after a kill.

Making a version takes several calls, and MLflow has none that makes a thing unless it is there. So each try marks what
it makes with a hash of the outputs; the lowest number of that mark is the version, and whoever comes by takes away the
rest: later numbers that nobody has confirmed, logged models that no version is of.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from videollava.registry.ledger import again
from videollava.registry.manifest import folder_key
from videollava.registry.refusals import is_missing
from videollava.tracking.lineage import digest, locked_outputs, read_lineage

__all__ = ["Claim"]

UNSETTLED = "unsettled"  # a version's tag until it is known to be the only one of its outputs


@dataclass(frozen=True)
class Claim:
    """digest: of the outputs that a version is made of, all that dvc.lock names: code that was accepted makes no other.
    key: the model folder's DVC hash; lock: dvc.lock's, which tells the versions of earlier releases.
    """

    key: str
    lock: str
    digest: str

    @classmethod
    def of(cls, workspace: Path) -> Claim:
        """The claim on what lies in the workspace."""
        key, outputs = folder_key(workspace), locked_outputs(workspace)
        return cls(key, read_lineage(workspace).lock, digest([key, outputs]))

    @property
    def tags(self) -> dict[str, str]:
        """What a try's version and logged model are marked with."""
        return {"made": self.digest, UNSETTLED: "true"}

    def find(self, store: Any, model: str) -> int | None:
        """The number of the version that is made of the outputs."""
        return min((int(item.version) for item in self._versions(store, model)), default=None)

    def settle(self, store: Any, model: str) -> int:
        """The number of the outputs' version, once it is the only one, confirmed, with no half of another left."""
        first, *others = sorted(self._versions(store, model), key=lambda item: int(item.version))
        for item in others:
            if UNSETTLED in item.tags and not self._is_named(store, model, item.version):
                _ignore_missing(store.client.delete_model_version, model, item.version)
        used = {str(item.source) for item in self._versions(store, model)}
        for logged in self._logged(store):
            if f"models:/{logged.model_id}" not in used:
                _ignore_missing(store.client.delete_logged_model, logged.model_id)
        if UNSETTLED in first.tags:
            _ignore_missing(store.client.delete_model_version_tag, model, first.version, UNSETTLED)
        return int(first.version)

    def _versions(self, store: Any, model: str) -> list[Any]:
        """MLflow's versions of these outputs. Those of earlier releases carry no mark: key and lock tell as well."""
        marks = (
            f"tags.`made` = '{self.digest}'",
            f"tags.`key` = '{self.key}' and tags.`lock_hash` = '{self.lock}'",
        )
        found = {}
        for mark in marks:
            words = f"name = '{model}' and {mark}"
            for item in _pages(partial(_search, store.client, words)):
                found[str(item.version)] = item
        return list(found.values())

    def _logged(self, store: Any) -> list[Any]:
        words = f"tags.`made` = '{self.digest}'"
        search = store.client.search_logged_models
        return list(
            _pages(lambda token: search([str(store.experiment)], words, max_results=50, page_token=token))
        )

    def _is_named(self, store: Any, model: str, number: str) -> bool:
        """Whether an alias names it: what somebody uses is not taken away."""
        return str(number) in {str(n) for n in store.client.get_registered_model(model).aliases.values()}


def _search(client: Any, words: str, token: str | None) -> Any:
    return client.search_model_versions(words, 200, page_token=token)


def _pages(ask: Any) -> Iterator[Any]:
    token = None
    while True:
        page = ask(token)
        yield from page
        token = page.token
        if not token:
            return


def _ignore_missing(call: Any, *arguments: Any) -> None:
    from mlflow.exceptions import MlflowException

    try:
        again(call, *arguments)
    except MlflowException as error:  # another process was first
        if not is_missing(error):
            raise
