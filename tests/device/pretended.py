"""A device that exists in name only, so that code meant for a GPU is held to its rules on any machine.

Tensors on it report `npu:0` and hold an ordinary CPU tensor, on which every operation is really computed: results can
be compared with the CPU's. An operation that gets tensors of both devices raises Mixed, as CUDA does; one that makes
the host wait for the device, a copy to it that is not asked to be `non_blocking` too, is counted by the function that
asked for it. It rests on torch's experimental backends in
Python (torch.utils.backend_registration) and on a dispatch mode. Import it before the process's first backward pass:
autograd makes its queues, one a device, then. Kernels, memory, streams, speed and autocast are beyond it.
"""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter, tree_map
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend

__all__ = ["DEVICE", "Mixed", "pretended", "waits"]

DEVICE = "npu"
PACKAGE = f"{Path(__file__).parents[2] / 'videollava'}/"
TRANSFERS = {"aten::_to_copy", "aten::copy_", "aten::_copy_from", "aten::to"}
# CUDA takes indices from the CPU too, and copies them behind the scenes.
TAKES_CPU_INDICES = {"aten::index", "aten::index_put_", "aten::_index_put_impl_", "aten::_unsafe_index"}
# Their result, or its size, is known to the host only when the device has come to it.
READS_BACK = {
    "aten::_local_scalar_dense",
    "aten::nonzero",
    "aten::masked_select",
    "aten::equal",
    "aten::unique_dim",
}

_waits: Counter[str] = Counter()


class Mixed(RuntimeError):
    """Tensors of two devices in one operation."""


class Elsewhere(torch.Tensor):
    """A tensor on the pretended device; `held` has its values."""

    held: torch.Tensor

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> Elsewhere:
        made: Elsewhere = torch.Tensor._make_wrapper_subclass(
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            layout=held.layout,
            device=torch.device(DEVICE, 0),
        )
        made.held = held
        return made

    def tolist(self) -> Any:
        _count_wait()
        return self.held.tolist()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _compute(func, args, kwargs or {})


class _Everywhere(TorchDispatchMode):
    """Sees factories too: `torch.zeros(..., device=DEVICE)` has no tensor to dispatch on."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _compute(func, args, kwargs or {})


class _Literals(TorchFunctionMode):
    """`torch.tensor(values, device=DEVICE)` copies below the dispatch mode: made on the CPU first."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.tensor and kwargs.get("device") is not None:
            device = kwargs.pop("device")
            return func(*args, **kwargs).to(device)
        return func(*args, **kwargs)


class _Backend(_DummyBackendModule):
    def is_available(self) -> bool:
        return True

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16]


def _compute(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    name = func._schema.name
    given = [item for item in tree_iter((args, kwargs)) if isinstance(item, torch.Tensor)]
    elsewhere = any(isinstance(item, Elsewhere) for item in given)
    # By name in most operations; in its place in aten::to, which inference mode does not take apart.
    devices = [item for item in args if isinstance(item, torch.device)]
    named = kwargs.get("device") or next(iter(devices), None)
    wanted = None if named is None else torch.device(named)
    if elsewhere:
        _check(name, given)
        if name in READS_BACK or _is_chosen_by_mask(func, args):
            _count_wait()
    if name in TRANSFERS and _waits_for_copy(name, given, wanted, args, kwargs):
        _count_wait()
    if wanted is not None:
        args = tuple(torch.device("cpu") if isinstance(item, torch.device) else item for item in args)
        kwargs = {key: value for key, value in kwargs.items() if key not in ("device", "pin_memory")}
    result = func(*tree_map(_values, args), **tree_map(_values, kwargs))
    if func._schema.is_mutable:
        same = {id(_values(item)): item for item in given}
        return tree_map(
            lambda item: same.get(id(item), item) if isinstance(item, torch.Tensor) else item, result
        )
    stays = elsewhere if wanted is None else wanted.type == DEVICE
    return tree_map(_moved, result) if stays else result


def _is_chosen_by_mask(func: Any, args: Any) -> bool:
    """How many are chosen, or repeated, is known when the device has counted."""
    name = func._schema.name
    if name == "aten::repeat_interleave":
        return func._overloadname == "Tensor"
    if name not in TAKES_CPU_INDICES or len(args) < 2:
        return False
    return any(isinstance(index, Elsewhere) and index.dtype == torch.bool for index in tree_iter(args[1]))


def _waits_for_copy(name: str, given: list[torch.Tensor], wanted: Any, args: Any, kwargs: Any) -> bool:
    """Copies back always wait here; copies to the device do unless they are asked not to."""
    source = given[-1] if name in ("aten::copy_", "aten::_copy_from") else given[0]
    target = given[0].device if name == "aten::copy_" else wanted
    if target is None or source.device.type == target.type:
        return False
    asked = kwargs.get("non_blocking", False) or any(item is True for item in args)
    return target.type == "cpu" or not asked


def _check(name: str, given: list[torch.Tensor]) -> None:
    # A number in a tensor without dimensions may come from the CPU, as on CUDA.
    strangers = [tuple(item.shape) for item in given if not isinstance(item, Elsewhere) and item.ndim]
    if strangers and name not in TRANSFERS | TAKES_CPU_INDICES:
        raise Mixed(f"{name}: tensors of {DEVICE}, and of cpu with shapes {strangers}")


def _values(item: Any) -> Any:
    return item.held if isinstance(item, Elsewhere) else item


def _moved(item: Any) -> Any:
    return Elsewhere(item) if isinstance(item, torch.Tensor) else item


def _count_wait() -> None:
    """Note the innermost line of our package on the stack."""
    ours = [frame for frame in traceback.extract_stack() if frame.filename.startswith(PACKAGE)]
    where = f"{ours[-1].filename.removeprefix(PACKAGE)}:{ours[-1].name}" if ours else "outside the package"
    _waits[where] += 1


_setup_privateuseone_for_python_backend(DEVICE, backend_module=_Backend())


@contextmanager
def pretended() -> Iterator[torch.device]:
    """The device is there, for `.to(...)` and factories; parameters become its tensors in place."""
    before = torch.__future__.get_swap_module_params_on_conversion()
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        with _Everywhere(), _Literals():
            yield torch.device(DEVICE, 0)
    finally:
        torch.__future__.set_swap_module_params_on_conversion(before)


@contextmanager
def waits() -> Iterator[Counter[str]]:
    """Counts, by file and function of ours, how often the host waited for the device."""
    _waits.clear()
    yield _waits
