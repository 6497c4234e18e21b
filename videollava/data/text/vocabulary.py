"""The tokenizer: trained on the training text (tiny profile), or copied from a folder or a hub."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from videollava.data.records.marks import replace_marks, replace_words
from videollava.data.records.readers import Rejected
from videollava.data.records.record import Record
from videollava.errors import InputError
from videollava.origin import PACKAGE, find_packaged

__all__ = [
    "TRAINED",
    "PlainTokenizer",
    "TrainedTokenizer",
    "copy_tokenizer",
    "load_tokenizer",
    "train_tokenizer",
    "training_texts",
    "write_plain",
]

SPECIAL = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
TRAINED = "PreTrainedTokenizerFast"
IDS = "ids.json"


def train_tokenizer(texts: Iterable[str], vocab_size: int, folder: Path) -> None:
    """Train a byte-level BPE tokenizer with Llama's special tokens and save it as a transformers folder.

    `<unk>`, `<s>` and `</s>` are 0, 1, 2; `<s>` comes first in every text; padding is `<unk>`, as in LLaVA.
    The same texts give the same files.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    alphabet = pre_tokenizers.ByteLevel.alphabet()
    least = len(alphabet) + len(SPECIAL)
    if vocab_size < least:
        raise InputError(
            f"params.yaml: index.vocab_size is {vocab_size}; bytes and special tokens alone take {least}"
        )
    tokenizer = Tokenizer(models.BPE(unk_token=SPECIAL["unk_token"]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL.values()),
        initial_alphabet=sorted(alphabet),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
    )
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    # What transformers would write, without the seconds that importing it takes.
    settings = {
        **SPECIAL,
        "pad_token": SPECIAL["unk_token"],
        "tokenizer_class": TRAINED,
        "padding_side": "right",
        "clean_up_tokenization_spaces": False,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n")


def training_texts(entries: Iterable[tuple[str, Record] | Rejected]) -> Iterator[str]:
    """The text that the language model is trained on, as the templates write it; test splits are left out."""
    from videollava.data.text.prompts import TEMPLATES

    v1 = TEMPLATES["v1"]
    for entry in entries:
        if isinstance(entry, Rejected) or entry[0].startswith("test-"):
            continue
        split, record = entry
        if split in ("align", "pretrain"):  # captions: their questions are never read
            yield replace_words(record.turns[-1].text)
            continue
        opening = f"{v1.system} {v1.user}"
        for turn in record.turns:
            text = replace_marks(turn.text).strip("\n")
            yield f"{opening} {text} {v1.assistant}" if turn.role == "human" else f" {text}"
            opening = v1.user


def copy_tokenizer(name: str, folder: Path) -> None:
    """Copy the tokenizer of a folder, of a hub id or of an installed package's language model."""
    load_tokenizer(name).save_pretrained(folder)


def load_tokenizer(name: Path | str) -> Any:
    """A transformers tokenizer from a folder, a hub id or the GGUF file of `package:NAME`; InputError where there is
    none.
    """
    place = Path(name)
    if (place / "tokenizer.model").is_file() and not (place / "tokenizer.json").is_file():
        from videollava.data.text.llama_tokenizer import load_llama_tokenizer

        return load_llama_tokenizer(place)
    from transformers import AutoTokenizer

    try:
        if str(name).startswith(PACKAGE):
            folder, file = find_packaged(str(name))
            return AutoTokenizer.from_pretrained(folder, gguf_file=file)
        return AutoTokenizer.from_pretrained(str(name))
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"{name}: no tokenizer there ({reason}); params.yaml: index.tokenizer takes train, "
            "a folder or a hub id"
        ) from error


def write_plain(tokenizer: Any, folder: Path) -> bool:
    """Write what PlainTokenizer reads of a tokenizer of transformers; False where that takes transformers itself."""
    if not getattr(tokenizer, "is_fast", False):
        return False
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"))
    ids = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id")}
    (folder / IDS).write_text(json.dumps(ids))
    return True


class PlainTokenizer:
    """A tokenizer as far as prompts.encode needs one: no transformers, which takes seconds and 200 MiB to import."""

    is_fast = True

    def __init__(self, folder: Path) -> None:
        from tokenizers import Tokenizer

        self.backend_tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        ids = json.loads((folder / IDS).read_text())
        self.bos_token_id: int | None = ids["bos_token_id"]
        self.eos_token_id: int | None = ids["eos_token_id"]

    def __len__(self) -> int:
        return int(self.backend_tokenizer.get_vocab_size())


class TrainedTokenizer:
    """A tokenizer of train_tokenizer, as far as prompts.encode needs one, without importing transformers."""

    is_fast = True

    def __init__(self, folder: Path) -> None:
        from tokenizers import Tokenizer

        self.backend_tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.eos_token = SPECIAL["eos_token"]
        self.bos_token_id = self.backend_tokenizer.token_to_id(SPECIAL["bos_token"])
        self.eos_token_id = self.backend_tokenizer.token_to_id(self.eos_token)

    def __len__(self) -> int:
        return int(self.backend_tokenizer.get_vocab_size())
