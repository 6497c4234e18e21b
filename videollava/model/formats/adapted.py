"""An adapter on its base model, whatever the formats of the two: PEFT on ours, on transformers', on the original."""

from __future__ import annotations

import copy
import dataclasses
import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from videollava.errors import InputError
from videollava.model.formats import hf, original
from videollava.model.formats.files import TOKENIZER_FILES, find_weights, has_weights, read_config
from videollava.model.formats.lora import ADAPTER_FILES, OTHERS, Adapter, base_name, read_adapter
from videollava.model.formats.tables import HEAD, TABLE, is_said_tied, say_tied
from videollava.model.video_llava import VideoLlavaConfig

__all__ = ["Adapted", "generation_folder", "holds_adapter", "open_adapted", "our_name"]

log = logging.getLogger(__name__)

THEIRS = re.compile(r"^model\.(?:layers\.|embed_tokens\.|norm\.|mm_projector\.)")  # the original's own names


class Base(Protocol):
    """The model under an adapter; `shards` gives its weights in our names."""

    @property
    def config(self) -> Any: ...
    @property
    def tokenizer(self) -> Path | None: ...
    def shards(self) -> Iterator[dict[str, Tensor]]: ...


@dataclass(frozen=True)
class Adapted:
    """A base with an adapter merged into its weights as they pass; names are ours."""

    base: Base
    adapter: Adapter
    config: Any
    folder: Path

    @property
    def tokenizer(self) -> Path | None:
        """The one saved beside the adapter, which knows what was added in training, or else the base's."""
        own = any((self.folder / name).is_file() for name in TOKENIZER_FILES)
        return self.folder if own else self.base.tokenizer

    def shards(self) -> Iterator[dict[str, Tensor]]:
        return self._pass(self.adapter.apply)

    def plain(self) -> Iterator[dict[str, Tensor]]:
        """The base's weights without the low-rank updates, with the adapter's whole weights."""
        return self._pass(lambda name, tensor: self.adapter.whole.get(name, tensor).to(tensor.dtype))

    def _pass(self, change: Callable[[str, Tensor], Tensor]) -> Iterator[dict[str, Tensor]]:
        """Every weight changed; whole ones that the base has not got (a projector on a language model) come last."""
        parted = is_said_tied(self.base.config) and not is_said_tied(self.config)
        seen: set[str] = set()
        for tensors in self.base.shards():
            if parted and TABLE in tensors:
                tensors[HEAD] = tensors[TABLE]
            seen |= tensors.keys()
            yield {name: change(name, tensor) for name, tensor in tensors.items()}
        added = {name: tensor for name, tensor in self.adapter.whole.items() if name not in seen}
        if added:
            yield added


def generation_folder(opened: Base) -> Path | None:
    """Where a checkpoint's generation_config.json may be: an adapter brings none."""
    return opened.base.tokenizer if isinstance(opened, Adapted) else opened.tokenizer


def holds_adapter(folder: Path) -> bool:
    """Whether this is an adapter's folder; InputError where a whole model lies in it too."""
    if not (folder / "adapter_config.json").is_file():
        return False
    if not has_weights(folder):
        return True
    if any(".lora_" in name for name in find_weights(folder).specs()):
        raise InputError(
            f"{folder}: its whole weights have LoRA among them, as zero_to_fp32.py writes them: save those with lora_ "
            f"in their names as {ADAPTER_FILES[1]}, those of the projector as {OTHERS}, and move the rest away"
        )
    raise InputError(
        f"{folder}: holds a whole model and an adapter (adapter_config.json): put the adapter into a folder of its "
        "own, and give the one you mean"
    )


def our_name(name: str) -> str:
    """A weight's name in any model that adapters are made on, as ours."""
    return hf.rename(original.rename(name))


def open_adapted(
    folder: Path,
    base: Path | str | None,
    open_base: Callable[[Path], Base],
    expected: Callable[[Any], Mapping[str, Sequence[int]]],
) -> Adapted:
    """Open an adapter's folder with its base.

    base: its base model, by default the one that adapter_config.json names. expected: the shapes of all weights of a
    model by its config.
    """
    described = (folder / "config.json").is_file() and original.is_original(read_config(folder))
    below: Base
    if described:
        below = original.open_source(folder, base)
        _refuse_without_projector(folder, below)
    else:
        _refuse_interrupted(folder)
        place = original.find_base(folder, {}, base)
        _refuse_language_model(folder, place)
        below = open_base(place)
    adapter = read_adapter(folder)
    if not isinstance(below.config, VideoLlavaConfig):
        raise InputError(
            f"{folder}: its base is an encoder alone ({below.config.model_type}), not a whole model"
        )
    ours = _join_tied(_fit_tables(adapter.renamed(our_name), below.config), below.config)
    config = _part_tables(ours, below.config)
    if isinstance(below, hf.Source):
        config = _take_vocabulary(ours, config)
    ours.require(expected(config))
    return Adapted(below, ours, config, folder)


def _fit_tables(adapter: Adapter, config: Any) -> Adapter:
    """Whole tables without the rows that transformers' layout adds for the placeholders."""
    rows = int(config.text_config.vocab_size)
    for name in (TABLE, HEAD):
        given = adapter.whole.get(name)
        if given is not None and len(given) == hf.extended_rows(config):
            adapter.whole[name] = given[:rows]
    return adapter


def _join_tied(adapter: Adapter, config: Any) -> Adapter:
    """Table and head of one weight once, where peft saved it whole under both names (ensure_weight_tying).

    Low-rank updates of both are merged apart: the sum is the same, and head and table are two weights from then on.
    """
    if not (adapter.together and is_said_tied(config) and adapter.touches(HEAD)):
        return adapter
    low_rank = any(f"{module}.weight" == HEAD for module in adapter.pairs)
    if low_rank or not adapter.changes_alike(TABLE, HEAD):
        return dataclasses.replace(adapter, together=False)
    whole = {name: tensor for name, tensor in adapter.whole.items() if name != HEAD}
    return dataclasses.replace(adapter, whole=whole)


def _take_vocabulary(adapter: Adapter, config: Any) -> Any:
    """The vocabulary that was resized in training, where the adapter holds all tables of it.

    Only transformers' layout keeps its placeholders inside the table, so that added tokens have ids of their own.
    """
    said, tables = config.text_config.vocab_size, (TABLE,) if is_said_tied(config) else (TABLE, HEAD)
    rows = {len(adapter.whole[name]) if name in adapter.whole else said for name in tables}
    if len(rows) != 1 or rows == {said}:
        return config
    resized = copy.deepcopy(config)
    (resized.text_config.vocab_size,) = rows
    log.warning("%s: its vocabulary has %d rows, the base's %d: resized", adapter.origin, *rows, said)
    return resized


def _part_tables(adapter: Adapter, config: Any) -> Any:
    """The merged model's config: a head that is the table is so no longer where only one of them is adapted."""
    touched = adapter.touches(TABLE) or adapter.touches(HEAD)
    if not (touched and is_said_tied(config)) or adapter.together:
        return config
    parted = copy.deepcopy(config)
    say_tied(parted, False)
    return parted


def _names(folder: Path) -> list[str]:
    """What an adapter's folder holds weights of, by the base model's names."""
    names = [base_name(name) for name in find_weights(folder, ADAPTER_FILES).specs()]
    return [*names, "mm_projector"] if (folder / OTHERS).is_file() else names


def _refuse_interrupted(folder: Path) -> None:
    """An adapter on the original's names without its projector: what a run leaves that did not end."""
    names = _names(folder)
    if any(THEIRS.match(name) for name in names) and not any("projector" in name for name in names):
        raise _interrupted(folder, "an adapter of the original's trainer")


def _refuse_without_projector(folder: Path, below: original.Source) -> None:
    """An original LoRA folder whose projector is neither in it nor in its base."""
    if below.projector or any("projector" in name for name in _names(folder)):
        return
    if not any("mm_projector" in name for name in below.main.specs()):
        raise _interrupted(folder, "an adapter of the original's trainer on a language model alone")
    log.warning("%s: no %s in it, so the projector is the base model's", folder, OTHERS)


def _refuse_language_model(folder: Path, place: Path) -> None:
    """A base that is the language model alone, where no config says what lies around it."""
    given = read_config(place) if (place / "config.json").is_file() else {}
    kinds = [str(name) for name in given.get("architectures") or ()]
    alone = any(name.endswith("ForCausalLM") for name in kinds) and not original.is_original(given)
    if alone and given.get("model_type") != "videollava":
        raise _interrupted(folder, f"an adapter on a language model alone ({place})")


def _interrupted(folder: Path, what: str) -> InputError:
    """What is missing of an original run's LoRA folder, and where it usually is."""
    lacking = [name for name in ("config.json", OTHERS) if not (folder / name).is_file()]
    above = [name for name in lacking if (folder.parent / name).is_file()]
    where = f"the original writes them into the run's folder ({folder.parent}) when the run ends, and there "
    where += (
        f"{' and '.join(above)} can be had, of the run's last step"
        if above
        else "they are not: it did not end"
    )
    state = next((part.name for part in sorted(folder.glob("global_step*"))), None)
    if state:
        where += f"; the projector of this step is in {state} (`python zero_to_fp32.py . .` writes the weights out)"
    missing = " and without ".join(f"{name} (the projector)" if name == OTHERS else name for name in lacking)
    return InputError(
        f"{folder}: {what}, without {missing}: {where}. Let the run end, or put what is missing beside the adapter"
    )
