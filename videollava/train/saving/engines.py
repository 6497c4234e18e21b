"""What is kept of a run, by engine: torch's state by name and in parts, or the parts that DeepSpeed writes itself."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from videollava.errors import InputError
from videollava.train.launch.meeting import Together
from videollava.train.saving.files import Sum, Summing
from videollava.train.saving.parts import INDEX, Index, Parts, Reading
from videollava.train.saving.places import Whole
from videollava.train.saving.state import collect, make_room, state_bytes

__all__ = ["DeepSpeedState", "Kept", "TorchState"]

TAG = "state"
STATE_BYTES = 14  # DeepSpeed's of a learned weight: itself in bfloat16, in float32, and two moments


class Kept(Protocol):
    """The state of an engine: copied aside, written, read. Every rank calls all of it."""

    beside: bool  # what was copied aside can be written while training goes on

    def about(self) -> dict[str, Any]:
        """What a checkpoint must have been made with, to be read here."""

    def nbytes(self) -> int:
        """A checkpoint's size, of all ranks."""

    def snapshot(self) -> None:
        """Copy this rank's part aside; training waits."""

    def write(self, folder: Path) -> dict[str, Sum]:
        """This rank's files. OSError where they can't be written."""

    def first_files(self, whole: Whole) -> list[str]:
        """Files that `needs` is told from."""

    def needs(self, whole: Whole, folder: Path) -> list[str]:
        """Files that this rank reads; InputError where the checkpoint is of another model."""

    def read(self, folder: Path) -> None:
        """Put what these files say into model and optimiser."""

    def free(self) -> None:
        """Nothing more is written."""


class Beside(Protocol):
    """What is kept with the weights and the optimiser's state, by names of its own."""

    def state(self) -> dict[str, Tensor]:
        """As it is now, no copies."""

    def make_room(self, about: Mapping[str, Any]) -> dict[str, Tensor]:
        """What of a checkpoint that says `about` is to be read into."""


class TorchState:
    """Weights that learn, the optimiser's state, and what goes with them (`also`), by name: any ranks read it."""

    beside = True

    def __init__(
        self, model: nn.Module, optimizer: Any, together: Together, also: Beside | None = None
    ) -> None:
        self._model, self._optimizer, self._also = model, optimizer, also
        self._parts = Parts(together)
        self._reading: Reading | None = None

    def about(self) -> dict[str, Any]:
        return {"engine": "torch"}

    def nbytes(self) -> int:
        return state_bytes(self._model) * 4 // 3 if self._also else state_bytes(self._model)

    def snapshot(self) -> None:
        also = self._also.state() if self._also else {}
        self._parts.snapshot(collect(self._model, self._optimizer) | also)

    def write(self, folder: Path) -> dict[str, Sum]:
        return self._parts.write(folder)

    def first_files(self, whole: Whole) -> list[str]:
        return [INDEX]

    def needs(self, whole: Whole, folder: Path) -> list[str]:
        index = Index.read(folder)
        state = make_room(self._model, self._optimizer, index.kept(), whole.where)
        state |= self._also.make_room(whole.about) if self._also else {}
        self._reading = Reading(index, state)
        return self._reading.files

    def read(self, folder: Path) -> None:
        assert self._reading is not None
        self._reading.read(folder)
        self._reading = None

    def free(self) -> None:
        self._parts.free()


class DeepSpeedState:
    """The files that DeepSpeed's engine writes, for as many ranks as wrote them."""

    beside = False

    def __init__(self, engine: Any, strategy: str, together: Together) -> None:
        self._engine, self._strategy, self._together = engine, strategy, together

    def about(self) -> dict[str, Any]:
        return {"engine": self._strategy, "ranks": self._together.ranks}

    def nbytes(self) -> int:
        learned = (p for p in self._engine.module.parameters() if p.requires_grad)
        return STATE_BYTES * sum(getattr(p, "ds_numel", p.numel()) for p in learned)

    def snapshot(self) -> None:
        """It writes what it holds."""

    def write(self, folder: Path) -> dict[str, Sum]:
        sums: dict[str, Sum] = {}
        failures: list[Exception] = []

        def save(state_dict: Any, path: Any, **_: Any) -> None:  # by these names, from ZeRO-3
            try:
                with Summing(Path(path)) as file:
                    torch.save(state_dict, file)  # type: ignore[arg-type]
                sums[str(Path(path).relative_to(folder))] = file.sum
            except Exception as error:  # raised only when ranks wait for each other no more
                failures.append(error)

        # Rank 0 alone would copy scripts beside the parts, and leave the others waiting where it can't.
        with (
            _in_place_of(self._engine.checkpoint_engine, save=save),
            _in_place_of(self._engine, _copy_recovery_script=lambda *_: None),
        ):
            self._engine.save_checkpoint(
                str(folder), tag=TAG, save_latest=False, exclude_frozen_parameters=True
            )
        if failures:
            raise failures[0]
        return sums

    def first_files(self, whole: Whole) -> list[str]:
        return []

    def needs(self, whole: Whole, folder: Path) -> list[str]:
        by_rank = whole.about["by_rank"]
        return sorted({*by_rank[0], *by_rank[self._together.rank]})

    def read(self, folder: Path) -> None:
        with _in_place_of(self._engine.checkpoint_engine, load=_read):
            found, _ = self._engine.load_checkpoint(str(folder), tag=TAG, load_module_strict=False)
        if found is None:
            raise InputError(
                f"{folder}: holds no DeepSpeed state; remove it to go on from the checkpoint before"
            )

    def free(self) -> None:
        """It holds nothing of its own."""


@contextmanager
def _in_place_of(thing: Any, **methods: Any) -> Iterator[None]:
    """Inside, `thing` has other methods."""
    for name, method in methods.items():
        setattr(thing, name, method)
    try:
        yield
    finally:
        for name in methods:
            delattr(thing, name)


def _read(path: str, map_location: Any = None) -> Any:
    """Weights and moments only, no code."""
    with torch.serialization.safe_globals(list(_known_classes())):
        return torch.load(path, map_location=map_location, weights_only=True)


def _known_classes() -> Iterable[Any]:
    """What DeepSpeed puts into its checkpoints besides tensors and plain values."""
    from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler, LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    return LossScaler, DynamicLossScaler, ZeroStageEnum, fragment_address
