"""The Python door and `ask`: every way to give a medium, and sentences for what is none."""

from __future__ import annotations

import io
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from videollava.cli import main
from videollava.data.toy.drawing import encode
from videollava.errors import InputError
from videollava.serve.assistant import Assistant, load

QUESTION = "what color is the shape?"


@pytest.fixture(scope="module")
def assistant(model_folder: Path) -> Assistant:
    return load(model_folder)


def picture(seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (24, 24, 3), np.uint8)
    return Image.fromarray(pixels)


def saved(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def frames() -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).integers(0, 255, (6, 48, 32, 3), np.uint8)


def test_a_picture_in_every_form_gets_one_answer(assistant: Assistant, tmp_path: Path) -> None:
    image = picture()
    path = tmp_path / "x.png"
    path.write_bytes(saved(image))
    ways: list[Any] = [
        image,
        [image],
        str(path),
        path,
        [path],
        (path,),
        path.read_bytes(),
        io.BytesIO(path.read_bytes()),
        np.asarray(image),
        torch.from_numpy(np.array(image)).permute(2, 0, 1),
    ]
    answers = {assistant.answer(QUESTION, images=way, max_new_tokens=6) for way in ways}
    assert len(answers) == 1
    assert answers != {assistant.answer(QUESTION, images=picture(5), max_new_tokens=6)}
    two = assistant.answer(QUESTION, images=[image, str(path)], max_new_tokens=6)
    assert two == assistant.answer(QUESTION, images=(path, np.asarray(image)), max_new_tokens=6)


def test_a_video_in_every_form_gets_one_answer(assistant: Assistant, tmp_path: Path) -> None:
    path = tmp_path / "v.mp4"
    path.write_bytes(encode(frames(), 8))
    files = {
        assistant.answer(QUESTION, videos=way, max_new_tokens=6)
        for way in (str(path), path, [path], path.read_bytes())
    }
    assert len(files) == 1
    stills = {
        assistant.answer(QUESTION, videos=way, max_new_tokens=6)
        for way in (
            frames(),
            [frames()],
            list(frames()),
            [Image.fromarray(frame) for frame in frames()],
            [[Image.fromarray(frame) for frame in frames()]],
            torch.from_numpy(frames()).permute(0, 3, 1, 2),
        )
    }
    assert len(stills) == 1


@pytest.mark.parametrize(
    ("media", "reason"),
    [
        ({"images": 3}, "sample 0, images: int is no image"),
        ({"images": [None]}, "sample 0, image 1: NoneType is no image"),
        ({"images": ["gone.png"]}, r"sample 0, image 1: gone\.png: not found"),
        ({"images": "gone.png"}, r"sample 0, image 1: gone\.png: not found"),
        ({"images": [b"hello"]}, r"image 1: cannot be read as image \(it is text\)"),
        ({"videos": [b"#EXTM3U\nhttp://127.0.0.1:9/a.ts\n"]}, "it is a play list of other addresses"),
        ({"videos": picture()}, "sample 0, video 1: a picture is no video; give it as an image"),
        ({"images": [picture()] * 17}, "sample 0: 17 media, at most 16 fit a prompt"),
        ({"images": "http://127.0.0.1:9/a.png"}, "not on the public internet"),
    ],
)
def test_what_is_no_medium_is_a_sentence(assistant: Assistant, media: Any, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        assistant.answer(QUESTION, **media)


def test_samples_that_are_none(assistant: Assistant) -> None:
    with pytest.raises(InputError, match="sample 1: give question, images, videos; found str"):
        assistant.answer_batch([{"question": QUESTION}, "what?"])  # type: ignore[list-item]
    with pytest.raises(InputError, match="sample 0: give question, images, videos; found image, question"):
        assistant.answer_batch([{"question": QUESTION, "image": "x.png"}])

    for nothing in (None, "what?", {"question": QUESTION}, 5):
        with pytest.raises(InputError, match="samples: give a list of question, images, videos; found"):
            assistant.answer_batch(nothing)  # type: ignore[arg-type]
    assert assistant.answer_batch(sample for sample in [{"question": QUESTION}]) == [
        assistant.answer(QUESTION)
    ]


@pytest.mark.parametrize(
    "choices", [{"max_new_tokens": 0}, {"max_new_tokens": -1}, {"temperature": -1.0}, {"temperature": np.nan}]
)
def test_numbers_that_no_answer_has(assistant: Assistant, choices: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(choices))):
        assistant.answer(QUESTION, **choices)
    whole = {"max_new_tokens": np.int64(3), "temperature": np.float32(0)}  # as arrays hold them
    assert assistant.answer(QUESTION, **whole) == assistant.answer(QUESTION, max_new_tokens=3)


@pytest.mark.parametrize("device", ["cuda:99", "abacus", ""])
def test_a_device_that_is_not_there(model_folder: Path, device: str) -> None:
    with pytest.raises(InputError, match=r"not on this machine; there are cpu"):
        load(model_folder, device=device)


def test_ask_takes_addresses_where_private_networks_are_allowed(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    heard: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            heard.append(self.path)
            data = saved(picture()) if self.path == "/x.png" else f"#EXTM3U\n{url}/a.ts\n".encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            pass

    running = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=running.serve_forever, args=(0.01,))
    thread.start()
    url = f"http://127.0.0.1:{running.server_port}"
    ask = ["ask", QUESTION, "--model", str(model_folder)]
    try:
        assert main([*ask, "--image", f"{url}/x.png"]) == 2
        assert "not on the public internet" in capsys.readouterr().err
        assert heard == []
        monkeypatch.setenv("VIDEOLLAVA_PRIVATE_ADDRESSES", "1")
        assert main([*ask, "--image", f"{url}/x.png"]) == 0
        assert main([*ask, "--video", f"{url}/list.mp4"]) == 2
        assert "a play list of other addresses" in capsys.readouterr().err
        (tmp_path / "v.mp4").write_text(f"#EXTM3U\n#EXTINF:1,\n{url}/b.ts\n")
        assert main([*ask, "--video", str(tmp_path / "v.mp4")]) == 2
        assert heard == ["/x.png", "/list.mp4"]
    finally:
        running.shutdown()
        thread.join()
        running.server_close()
