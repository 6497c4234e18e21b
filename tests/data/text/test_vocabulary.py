from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from videollava.data.records.readers import Rejected
from videollava.data.records.record import Record, Turn
from videollava.data.text.prompts import encode
from videollava.data.text.vocabulary import (
    TrainedTokenizer,
    copy_tokenizer,
    load_tokenizer,
    train_tokenizer,
    training_texts,
)
from videollava.errors import InputError

TURNS = (Turn("human", "<image>\nwhich way does the red circle move?"), Turn("gpt", "left then up"))
ENTRIES: list[tuple[str, Record] | Rejected] = [
    ("finetune", Record("a", "mine", TURNS)),
    ("pretrain", Record("b", "mine", (Turn("human", "<image>\nunread"), Turn("gpt", "a red circle moves")))),
    ("test-easy_vqa", Record("c", "mine", (Turn("human", "secret?"), Turn("gpt", "secret")))),
    Rejected("mine", "file", "d", "reason", "detail"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("tokenizer") / "new"
    train_tokenizer(list(training_texts(ENTRIES)) * 3, 400, place)
    return place


def test_only_what_is_trained_on_is_read() -> None:
    text = "".join(training_texts(ENTRIES))
    assert "USER: which way does the red circle move? ASSISTANT: left then up" in text
    assert "a red circle moves" in text
    assert not any(word in text for word in ("secret", "unread", "<image>"))


def test_it_loads_as_a_llama_like_tokenizer(folder: Path) -> None:
    tokenizer = load_tokenizer(folder)
    assert tokenizer.convert_tokens_to_ids(["<unk>", "<s>", "</s>"]) == [0, 1, 2]
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (1, 2, 0)
    text = "which way does it move? 日本 \n émoji 🙂"
    ids = tokenizer(text)["input_ids"]
    assert ids[0] == 1
    assert 0 not in ids
    assert tokenizer.decode(ids, skip_special_tokens=True) == text
    assert len(tokenizer(" circle", add_special_tokens=False)["input_ids"]) == 1
    assert len(tokenizer) <= 400


def test_workers_encode_as_transformers_does(folder: Path) -> None:
    light, full = TrainedTokenizer(folder), load_tokenizer(folder)
    assert len(light) == len(full)
    turns = (*TURNS, Turn("human", "sure? 日本 </s>"), Turn("gpt", "yes"))
    assert encode(turns, ["image"], light) == encode(turns, ["image"], full)


def test_another_process_trains_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; sys.path.insert(0, 'tests/data/text')\n"
        "import test_vocabulary as t\n"
        "t.train_tokenizer(list(t.training_texts(t.ENTRIES)) * 3, 400, Path(sys.argv[1]))\n"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True, cwd=Path(__file__).parents[3])
    for file in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / file).read_bytes() == (folder / file).read_bytes()


def test_a_tokenizer_is_copied(folder: Path, tmp_path: Path) -> None:
    copy_tokenizer(str(folder), tmp_path / "copy")
    assert load_tokenizer(tmp_path / "copy")("red circle") == load_tokenizer(folder)("red circle")


def test_a_wrong_name_or_size(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"index\.vocab_size is 100"):
        train_tokenizer(["text"], 100, tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"no tokenizer there.*index\.tokenizer"):
        load_tokenizer(tmp_path / "empty")
