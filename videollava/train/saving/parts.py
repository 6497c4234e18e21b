"""Which rank keeps which part of the state, and a snapshot of this rank's: torch.distributed.checkpoint plans both.

What several ranks hold alike is kept by one of them, so that all write about the same. The snapshot is one buffer on
the host (pinned where there is a GPU), used again, laid out as the file will be. `index.json` says what lies where;
torch's own index is a pickle, and unpickling runs what it is told to.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner, DefaultSavePlanner
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import ReadItem, WriteItem

from videollava.train.launch.meeting import Together
from videollava.train.saving.files import Sum, write_tensors, write_text

__all__ = ["INDEX", "Index", "Parts", "Reading"]

INDEX = "index.json"


def file_of(rank: int) -> str:
    """The name of a rank's file."""
    return f"rank-{rank:05d}.safetensors"


class Parts:
    """What this rank writes of a state that keeps its names and shapes, planned at its first snapshot."""

    def __init__(self, together: Together) -> None:
        self._together = together
        self._known: Any = None
        self._items: list[WriteItem] = []
        self._layout: dict[str, tuple[torch.dtype, tuple[int, ...], int]] = {}
        self._index = ""
        self._buffer = torch.empty(0, dtype=torch.uint8)
        self._pinned = False

    def snapshot(self, state: dict[str, Tensor]) -> int:
        """Copy this rank's part of the state aside; its bytes. Every rank calls it, and none trains on meanwhile."""
        planner = _planner(state, self._together.rank)
        shapes = [(name, tuple(value.shape), value.dtype) for name, value in state.items()]
        if any(self._together.gather(shapes != self._known)):
            self._plan(planner)
            self._known = shapes
        on_gpu = False
        for item in self._items:
            found = planner.resolve_data(item)
            assert isinstance(found, Tensor)
            dtype, shape, start = self._layout[item.index.fqn]
            end = start + dtype.itemsize * found.numel()
            self._buffer[start:end].view(dtype).view(shape).copy_(found, non_blocking=True)
            on_gpu = on_gpu or found.is_cuda
        if on_gpu:
            torch.cuda.current_stream().synchronize()
        return len(self._buffer)

    def write(self, folder: Path) -> dict[str, Sum]:
        """The snapshot's files of this rank, and what they sum to."""
        files = {}
        if self._items:
            name = file_of(self._together.rank)
            files[name] = write_tensors(folder / name, self._layout, self._buffer)
        if self._together.first:
            files[INDEX] = write_text(folder / INDEX, self._index)
        return files

    def _plan(self, planner: DefaultSavePlanner) -> None:
        """Agree with the other ranks on who writes what."""
        together = self._together
        local = together.collect(planner.create_local_plan())
        plans, index = None, ""
        if together.first:
            plans, _ = planner.create_global_plan(local)
            index = _index_text([plan.items for plan in plans])
        self._items, self._index = together.hand_out(plans).items, index
        self._lay_out()

    def _lay_out(self) -> None:
        """Where in the buffer each tensor lies: the widest types first, so that each is aligned."""
        self._layout, end = {}, 0
        self._items.sort(key=lambda item: (-_dtype(item).itemsize, item.index.fqn))
        for item in self._items:
            assert item.tensor_data is not None
            assert item.index.fqn not in self._layout
            shape = tuple(item.tensor_data.chunk.sizes)
            self._layout[item.index.fqn] = (_dtype(item), shape, end)
            end += _dtype(item).itemsize * torch.Size(shape).numel()
        if len(self._buffer) != end:
            self.free()
            self._buffer = torch.empty(end, dtype=torch.uint8)
            self._pin()

    def _pin(self) -> None:
        """Lock the buffer's pages: a GPU then copies at full speed. Torch's pinned memory comes in powers of 2."""
        if torch.cuda.is_available() and len(self._buffer):
            told: Any = torch.cuda.cudart().cudaHostRegister(self._buffer.data_ptr(), len(self._buffer), 0)
            self._pinned = int(told) == 0  # where the system forbids it, copies are slower

    def free(self) -> None:
        """Give the buffer back."""
        if self._pinned:
            torch.cuda.cudart().cudaHostUnregister(self._buffer.data_ptr())
            self._pinned = False
        self._buffer = torch.empty(0, dtype=torch.uint8)


def _dtype(item: WriteItem) -> torch.dtype:
    assert item.tensor_data is not None
    return item.tensor_data.properties.dtype


def _planner(state: dict[str, Tensor], rank: int) -> DefaultSavePlanner:
    planner = DefaultSavePlanner(flatten_state_dict=False, flatten_sharded_tensors=False)
    planner.set_up_planner(state, is_coordinator=rank == 0)
    return planner


def _index_text(items_by_rank: list[list[WriteItem]]) -> str:
    tensors: dict[str, Any] = {}
    for rank, items in enumerate(items_by_rank):
        for item in items:
            data = item.tensor_data
            assert data is not None
            name = str(data.properties.dtype).removeprefix("torch.")
            told = tensors.setdefault(item.index.fqn, {"dtype": name, "shape": list(data.size), "parts": []})
            told["parts"].append(
                {"at": list(data.chunk.offsets), "shape": list(data.chunk.sizes), "file": file_of(rank)}
            )
    return json.dumps({"tensors": tensors})


@dataclass(frozen=True)
class Index:
    """What a checkpoint holds: of each tensor type, whole shape, and in which file which part of it lies."""

    tensors: Mapping[str, Mapping[str, Any]]

    @classmethod
    def read(cls, folder: Path) -> Index:
        """From a folder that holds it."""
        return cls(json.loads((folder / INDEX).read_text())["tensors"])

    def kept(self) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
        """Type and shape by name."""
        return {
            name: (getattr(torch, told["dtype"]), tuple(told["shape"])) for name, told in self.tensors.items()
        }

    def metadata(self) -> Metadata:
        """As torch.distributed.checkpoint plans a reading by."""
        return Metadata(
            {
                name: TensorStorageMetadata(
                    TensorProperties(getattr(torch, told["dtype"])),
                    torch.Size(told["shape"]),
                    [
                        ChunkStorageMetadata(torch.Size(part["at"]), torch.Size(part["shape"]))
                        for part in told["parts"]
                    ],
                )
                for name, told in self.tensors.items()
            }
        )


class Reading:
    """What this rank reads of a checkpoint into `state`, in place: of each tensor the part that it holds."""

    def __init__(self, index: Index, state: dict[str, Tensor]) -> None:
        self._index = index
        self._planner = DefaultLoadPlanner(flatten_state_dict=False, flatten_sharded_tensors=False)
        self._planner.set_up_planner(state, index.metadata(), is_coordinator=True)
        self._items: dict[str, list[ReadItem]] = {}
        for item in self._planner.create_local_plan().items:
            self._items.setdefault(self._file(item), []).append(item)

    @property
    def files(self) -> list[str]:
        """Those this rank needs."""
        return sorted(self._items)

    def read(self, folder: Path) -> None:
        """From a folder with these files."""
        from safetensors import safe_open

        for name, items in self._items.items():
            with safe_open(folder / name, framework="pt") as file:
                for item in items:
                    source = file.get_slice(item.storage_index.fqn)
                    ranges = tuple(
                        slice(at, at + length)
                        for at, length in zip(item.storage_offsets, item.lengths, strict=True)
                    )
                    found = source[ranges] if ranges else file.get_tensor(item.storage_index.fqn)
                    target = self._planner.resolve_tensor(item).detach()
                    target.copy_(found)
                    self._planner.commit_tensor(item, target)

    def _file(self, item: ReadItem) -> str:
        number = item.storage_index.index
        assert number is not None
        return str(self._index.tensors[item.storage_index.fqn]["parts"][number]["file"])
