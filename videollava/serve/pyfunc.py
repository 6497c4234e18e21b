"""The registered model as MLflow loads it (models from code): no weights in here, only where they are.

    model = mlflow.pyfunc.load_model("models:/videollava@champion")
    model.predict([{"question": "what color is the shape?", "images": ["x.png"]}])

`mlflow models serve` answers the same over HTTP. Columns: question (text), images and videos (lists of
paths, each optional). The answers come back in order, as a list of texts.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlflow
from mlflow.pyfunc.model import PythonModel
from pandas import DataFrame

__all__ = ["VideoLlavaModel"]


class VideoLlavaModel(PythonModel):
    """Unfolds the version's files from DVC's cache or remote when loaded, then answers."""

    def load_context(self, context: Any) -> None:
        """Find the files of this version and load them."""
        from videollava.registry.manifest import Manifest, cache_of, materialise, model_cache
        from videollava.registry.store import Store
        from videollava.serve.assistant import load

        config = context.model_config
        here = Path(os.environ.get("VIDEOLLAVA_WORKSPACE", "."))
        places = [*(Store.from_config(place) for place in config["stores"]), cache_of(here)]
        self.assistant = load(materialise(Manifest.from_config(config), places, model_cache(here)))

    def predict(
        self, context: Any, model_input: DataFrame, params: Mapping[str, Any] | None = None
    ) -> list[str]:
        """Answers to a data frame, or to a list of `{"question", "images", "videos"}`."""
        return list(self.assistant.answer_batch(_samples(model_input)))


def _samples(model_input: Any) -> list[dict[str, Any]]:
    rows = model_input.to_dict("records") if hasattr(model_input, "to_dict") else model_input
    rows = [rows] if isinstance(rows, Mapping) else rows
    return [
        {
            "question": str(row["question"]),
            "images": _paths(row.get("images")),
            "videos": _paths(row.get("videos")),
        }
        for row in rows
    ]


def _paths(value: Any) -> list[str]:
    if value is None or isinstance(value, float):  # a data frame's way of saying there is none
        return []
    return [value] if isinstance(value, str) else [str(item) for item in value]


mlflow.models.set_model(VideoLlavaModel())
