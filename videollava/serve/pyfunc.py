"""The registered model as MLflow loads it (models from code): no weights in here, only where they are.

    model = mlflow.pyfunc.load_model("models:/videollava@champion")
    model.predict([{"question": "what color is the shape?", "images": ["https://host/x.png"]}])

`mlflow models serve` answers the same over HTTP. Columns: question (text), images and videos (each optional: one
medium or a list of them). A medium is a data address, an http(s) address of the public internet, or bytes; what a
caller names as a path would be a file of the server, so files are read only below the folders that whoever serves
names in VIDEOLLAVA_MEDIA_ROOTS (separated as in PATH). The answers come back in order, as a list of texts.

The version's own code answers, the wheel among its artifacts: in this process where the same is installed here, else
in one of its own. So nothing of videollava is imported in this file.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import zipimport
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlflow
from mlflow.pyfunc.model import PythonModel
from pandas import DataFrame

__all__ = ["VideoLlavaModel"]

STARTER = "videollava/registry/whole"


class VideoLlavaModel(PythonModel):
    """Unfolds the version's files from DVC's cache or remote when loaded, then answers."""

    def load_context(self, context: Any) -> None:
        """Find the files of this version and load them."""
        wheel = Path(context.artifacts["code"])
        here = Path(os.environ.get("VIDEOLLAVA_WORKSPACE", "."))
        starter = _starter(wheel)
        if starter.is_here(starter.wheel_digest(wheel.name)):
            from videollava.registry.whole.answering import open_model

            self.answer = open_model(context.model_config, here, _roots())
        else:
            self.answer = starter.Apart(wheel, context.model_config, here, _roots()).ask

    def predict(
        self, context: Any, model_input: DataFrame, params: Mapping[str, Any] | None = None
    ) -> list[str]:
        """Answers to a data frame, or to a list of `{"question", "images", "videos"}`; an error names the row."""
        rows = model_input.to_dict("records") if hasattr(model_input, "to_dict") else model_input
        return list(self.answer([rows] if isinstance(rows, Mapping) else rows))


def _starter(wheel: Path) -> Any:
    """apart.py out of the wheel, under a name of its own: this process may have another videollava."""
    spec = zipimport.zipimporter(str(wheel / STARTER)).find_spec("apart")
    if spec is None or spec.loader is None:
        raise ValueError(f"{wheel.name}: not the code of a version")
    module = importlib.util.module_from_spec(spec)
    sys.modules[f"apart_{wheel.stem}"] = module
    spec.loader.exec_module(module)
    return module


def _roots() -> list[str]:
    return [root for root in os.environ.get("VIDEOLLAVA_MEDIA_ROOTS", "").split(os.pathsep) if root]


mlflow.models.set_model(VideoLlavaModel())
