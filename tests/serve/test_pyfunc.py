"""What MLflow hands over: rows of a data frame, cells that are empty, and media that a caller may name."""

from __future__ import annotations

import base64
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from videollava.errors import InputError
from videollava.serve.rows import read_rows


@pytest.fixture(scope="module")
def pyfunc() -> Iterator[Any]:
    """The module, imported as MLflow does; it registers a model when it is."""
    pytest.importorskip("mlflow")
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import videollava.serve.pyfunc as module
    yield module
    sys.modules.pop("videollava.serve.pyfunc", None)


def test_rows_and_their_empty_cells() -> None:
    import numpy as np
    import pandas

    assert read_rows({"question": "q"}) == [{"question": "q", "images": [], "videos": []}]
    assert read_rows([{"question": "q", "images": "a.png"}])[0]["images"] == ["a.png"]
    frame = pandas.DataFrame(
        {
            "question": ["a", "b", "c", "d", "e"],
            "images": [["x", None], None, "y", b"bytes", np.array(["p", "q"], object)],
            "videos": [float("nan"), "c.mp4", pandas.NA, "", pandas.NaT],
        }
    )
    samples = read_rows(frame.to_dict("records"))
    assert [sample["images"] for sample in samples] == [["x"], [], ["y"], [b"bytes"], ["p", "q"]]
    assert [sample["videos"] for sample in samples] == [[], ["c.mp4"], [], [], []]
    pixels = np.zeros((4, 4, 3), np.uint8)
    assert read_rows([{"question": "q", "images": pixels}])[0]["images"] is pixels


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ([{"images": "a"}], "row 0: column question: must be text"),
        ([{"question": float("nan")}], "row 0: column question: must be text"),
        ([{"question": "q"}, {"question": 3}], "row 1: column question"),
        ([{"question": "q", "image": "a.png"}], "row 0: no column image; there are question, images, videos"),
        (["what?"], "row 0: str; give question"),
    ],
)
def test_rows_that_are_none(rows: Any, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        read_rows(rows)


def test_folders_that_whoever_serves_names(pyfunc: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VIDEOLLAVA_MEDIA_ROOTS", raising=False)
    assert pyfunc._roots() == []
    monkeypatch.setenv("VIDEOLLAVA_MEDIA_ROOTS", f"/a{os.pathsep}/b{os.pathsep}")
    assert pyfunc._roots() == ["/a", "/b"]


def test_a_served_model_reads_what_is_sent_and_no_file(
    pyfunc: Any, model_folder: Path, tmp_path: Path
) -> None:
    from PIL import Image

    from videollava.serve.assistant import load

    served = pyfunc.VideoLlavaModel()
    assistant = load(model_folder, media_roots=[])
    served.answer = lambda rows: assistant.answer_batch(read_rows(rows))
    Image.new("RGB", (20, 20), (200, 30, 30)).save(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    sent = f"data:image/png;base64,{base64.b64encode(data).decode()}"
    ask = {"question": "what color is the shape?"}
    rows = [{**ask, "images": given} for given in (data, sent, [sent])]
    answers = served.predict(None, rows)
    assert len(set(answers)) == 1
    assert answers[0] == load(model_folder).answer(ask["question"], images=tmp_path / "a.png")
    for path in (str(tmp_path / "a.png"), (tmp_path / "a.png").as_uri(), "/etc/hostname"):
        with pytest.raises(InputError, match=r"sample 0, image 1: .*files of the server are not read"):
            served.predict(None, [{**ask, "images": path}])
    with pytest.raises(InputError, match="not on the public internet"):
        served.predict(None, [{**ask, "images": "http://169.254.169.254/latest/meta-data"}])
