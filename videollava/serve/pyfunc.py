"""The registered model as MLflow loads it (models from code): no weights in here, only where they are.

    model = mlflow.pyfunc.load_model("models:/videollava@champion")
    model.predict([{"question": "what color is the shape?", "images": ["https://host/x.png"]}])

`mlflow models serve` answers the same over HTTP. Columns: question (text), images and videos (each optional: one
medium or a list of them). A medium is a data address, an http(s) address of the public internet, or bytes; what a
caller names as a path would be a file of the server, so files are read only below the folders that whoever serves
names in VIDEOLLAVA_MEDIA_ROOTS (separated as in PATH). The answers come back in order, as a list of texts.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlflow
from mlflow.pyfunc.model import PythonModel
from pandas import DataFrame, isna

from videollava.errors import InputError

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
        folder = materialise(Manifest.from_config(config), places, model_cache(here))
        self.assistant = load(folder, media_roots=_roots())

    def predict(
        self, context: Any, model_input: DataFrame, params: Mapping[str, Any] | None = None
    ) -> list[str]:
        """Answers to a data frame, or to a list of `{"question", "images", "videos"}`; InputError names the row."""
        return list(self.assistant.answer_batch(_samples(model_input)))


def _roots() -> list[str]:
    return [root for root in os.environ.get("VIDEOLLAVA_MEDIA_ROOTS", "").split(os.pathsep) if root]


def _samples(model_input: Any) -> list[dict[str, Any]]:
    rows = model_input.to_dict("records") if hasattr(model_input, "to_dict") else model_input
    return [_sample(row, number) for number, row in enumerate([rows] if isinstance(rows, Mapping) else rows)]


def _sample(row: Any, number: int) -> dict[str, Any]:
    """A row without the cells that a data frame fills up with NaN; other columns than ours are refused."""
    if not isinstance(row, Mapping):
        raise InputError(f"row {number}: {type(row).__name__}; give question, images, videos")
    sample = {str(name): value for name, value in row.items() if not _is_nothing(value)}
    unknown = sorted(sample.keys() - {"question", "images", "videos"})
    if unknown:
        raise InputError(f"row {number}: no column {', '.join(unknown)}; there are question, images, videos")
    if not isinstance(sample.get("question"), str):
        raise InputError(f"row {number}: column question: must be text; write the question")
    return {**sample, **{kind: _media(sample.get(kind)) for kind in ("images", "videos")}}


def _media(value: Any) -> Any:
    """The media of a cell: one, or a list that may have empty places; arrays of numbers stay as they are."""
    if value is None:
        return []
    if isinstance(value, str | bytes | bytearray | Mapping):
        return [value]
    several = isinstance(value, list | tuple) or str(getattr(value, "dtype", "")) == "object"
    return [item for item in value if not _is_nothing(item)] if several else value


def _is_nothing(value: Any) -> bool:
    """None, NaN, pandas' NA and NaT, an empty text: a table's ways of saying that there is nothing."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return True
    return not hasattr(value, "__len__") and bool(isna(value))


mlflow.models.set_model(VideoLlavaModel())
