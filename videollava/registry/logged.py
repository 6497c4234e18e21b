"""What MLflow keeps of a version: its logged model, with the list of its files, its code and what that needs."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from videollava.registry.manifest import Manifest
from videollava.registry.store import Store
from videollava.registry.whole.requirements import pin_requirements

__all__ = ["log_model"]

PYFUNC = Path(__file__).parent.parent / "serve" / "pyfunc.py"


def log_model(
    store: Any,
    name: str,
    run_id: str,
    manifest: Manifest,
    places: Sequence[Store],
    files: Mapping[str, Path],
    tags: Mapping[str, str],
) -> Any:
    """MLflow's ModelInfo of a new logged model. files: what it carries by name, `code` the wheel that it answers by."""
    pins, wheel = pin_requirements(), files["code"]
    code = {"code": wheel.name, "requirements": pins}
    with warnings.catch_warnings():
        # It warns about its own type hints on import, and asks for an example that it would load the model
        # for.
        warnings.simplefilter("ignore")
        import mlflow.pyfunc
        from mlflow.models import Model

        # Made here, not by Model.log, which would put it into the process's current experiment.
        logged = store.client.create_logged_model(
            store.experiment, name=name, source_run_id=run_id, tags=dict(tags)
        )
        try:
            return Model.log(
                artifact_path=None,
                name=name,
                model_id=logged.model_id,
                flavor=mlflow.pyfunc,
                run_id=run_id,
                python_model=str(PYFUNC),
                artifacts={key: str(file) for key, file in files.items()},
                model_config=manifest.config(places) | code,
                signature=_signature(),
                # pip reads the path from the model's folder, where MLflow starts it.
                pip_requirements=[f"artifacts/{wheel.name}", *pins],
                metadata={"key": manifest.key, "manifest_sha256": manifest.sha256},
            )
        except Exception:
            with suppress(Exception):  # the refusal is what counts; half a model is nobody's
                store.client.delete_logged_model(logged.model_id)
            raise


def _signature() -> Any:
    """What the pyfunc takes and gives, shown in the registry and checked by `mlflow models serve`."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema
    from mlflow.types.schema import AnyType

    paths = AnyType()  # a list, one path or nothing: a stricter type refuses the empty cells of a mixed batch
    columns = [
        ColSpec("string", "question"),
        ColSpec(paths, "images", required=False),
        ColSpec(paths, "videos", required=False),
    ]
    return ModelSignature(Schema(columns), Schema([ColSpec("string", "answer")]))
