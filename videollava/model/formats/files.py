"""Weight files of a checkpoint folder: safetensors or torch .bin, whole or in shards, one shard at a time."""

from __future__ import annotations

import json
import pickle
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from videollava.errors import InputError
from videollava.model.formats.folders import explain_absence

__all__ = [
    "TOKENIZER_FILES",
    "Spec",
    "Weights",
    "find_weights",
    "read_config",
    "read_header",
    "read_shard",
    "short",
    "unwrap",
    "write_config",
    "write_shard",
    "write_shards",
]

T = TypeVar("T")
Spec = tuple[str, tuple[int, ...]]  # dtype as safetensors names it ("F32"), shape
LFS = b"version https://git-lfs"
SHARD_BYTES = 5 * 1024**3
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json")
WHOLE = ("model.safetensors", "pytorch_model.bin")
# What data parallel, DeepSpeed, torch.compile and PEFT put before every name.
WRAPPERS = ("module.", "_orig_mod.", "base_model.model.")
INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


@dataclass(frozen=True)
class Weights:
    """The weight files of a folder, in order; nothing is read until asked for."""

    files: tuple[Path, ...]

    def shards(self) -> Iterator[dict[str, Tensor]]:
        """One file's tensors after another; let each go before the next is read."""
        for file in self.files:
            yield read_shard(file)

    def specs(self) -> dict[str, Spec]:
        """dtype and shape of every tensor; of safetensors the headers alone are read."""
        found: dict[str, Spec] = {}
        for file in self.files:
            found.update(read_header(file))
        return found

    def read(self) -> dict[str, Tensor]:
        """Every tensor at once: for models that fit."""
        found: dict[str, Tensor] = {}
        for tensors in self.shards():
            found.update(tensors)
        return found

    def tensor(self, name: str) -> Tensor:
        """One tensor alone."""
        file = next(file for file in self.files if name in read_header(file))
        return read_shard(file)[name]

    @property
    def size(self) -> int:
        """Bytes of the files."""
        return sum(file.stat().st_size for file in self.files)


def find_weights(folder: Path, names: Iterable[str] = WHOLE) -> Weights:
    """The weight files of a checkpoint folder, safetensors before torch's.

    InputError where none are, where one the index names is not there, or where two saves lie in one folder.
    """
    for suffix in (".safetensors", ".bin"):
        whole = next((n for n in names if n.endswith(suffix) and (folder / n).is_file()), None)
        index = next((n for n in INDEXES if suffix in n and (folder / n).is_file()), None)
        if whole and index:
            raise InputError(
                f"{folder}: holds both {whole} and {index}, so two saves in one folder: remove the one that "
                "is not meant"
            )
        if whole or index:
            return Weights(_indexed(folder / index) if index else (folder / str(whole),))
    raise InputError(
        f"{folder}: no weights; expected one of {', '.join((*INDEXES, *names))}{explain_absence(folder)}"
    )


def has_weights(folder: Path, names: Iterable[str] = WHOLE) -> bool:
    return any((folder / name).is_file() for name in (*INDEXES, *names))


def _indexed(index: Path) -> tuple[Path, ...]:
    try:
        names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{index}: not an index of weights (no weight_map): {error}") from error
    absent = [name for name in names if not (index.parent / name).is_file()]
    if absent:
        raise InputError(f"{index}: names files that are not there: {short(absent)}; fetch them again")
    return tuple(index.parent / name for name in names)


def unwrap(tensors: Mapping[str, T]) -> dict[str, T]:
    """By the model's own names: without what wrappers put before every one of them."""
    names = list(tensors)
    while any(names and all(name.startswith(prefix) for name in names) for prefix in WRAPPERS):
        prefix = next(prefix for prefix in WRAPPERS if names[0].startswith(prefix))
        names = [name.removeprefix(prefix) for name in names]
    return dict(zip(names, tensors.values(), strict=True))


def read_shard(file: Path) -> dict[str, Tensor]:
    """Tensors of one file by the model's own names, mapped into memory where the format allows it.

    Torch files are read with weights_only=True, so no code in them runs.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    _refuse_pointer(file)
    try:
        if file.suffix == ".safetensors":
            return unwrap(_with_shared(dict(load_file(file)), file))
        found = _read_torch(file)
    except (SafetensorError, RuntimeError, EOFError, OSError) as error:
        raise InputError(f"{file}: damaged or not a weight file: {error}") from error
    except pickle.UnpicklingError as error:
        raise InputError(f"{file}: holds more than tensors and is refused: {error}") from error
    if not isinstance(found, dict) or not all(isinstance(value, Tensor) for value in found.values()):
        raise InputError(f"{file}: not a plain state dict of tensors; save model.state_dict() alone")
    return unwrap(found)


def _with_shared(tensors: dict[str, Any], file: Path) -> dict[str, Any]:
    """Also what `safetensors.torch.save_model` left out because it shares another tensor's memory.

    Its header's metadata says which tensor that is.
    """
    with file.open("rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        metadata = json.loads(stream.read(length)).get("__metadata__") or {}
    shared = {name: kept for name, kept in metadata.items() if kept in tensors and name not in tensors}
    return tensors | {name: tensors[kept] for name, kept in shared.items()}


def _read_torch(file: Path) -> Any:
    import zipfile

    # Files older than torch 1.6 are no zip archives and cannot be mapped.
    return torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))


def read_header(file: Path) -> dict[str, Spec]:
    """dtype and shape of each tensor of a file; a damaged safetensors file is refused."""
    if file.suffix != ".safetensors":
        return {name: (DTYPES[t.dtype], tuple(t.shape)) for name, t in read_shard(file).items()}
    _refuse_pointer(file)
    size = file.stat().st_size
    try:
        with file.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            if length > size:
                raise ValueError("its header is longer than the file")
            header = json.loads(stream.read(length))
        metadata = header.pop("__metadata__", None) or {}
        specs = {name: (item["dtype"], tuple(item["shape"])) for name, item in header.items()}
        specs |= {name: specs[kept] for name, kept in metadata.items() if kept in specs and name not in specs}
        end = max((item["data_offsets"][1] for item in header.values()), default=0)
    except (ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
        raise InputError(f"{file}: damaged or not a safetensors file: {error}") from error
    if size != 8 + length + end:
        raise InputError(
            f"{file}: {size} bytes where its header says {8 + length + end}: fetch or save it again"
        )
    return unwrap(specs)


def _refuse_pointer(file: Path) -> None:
    with file.open("rb") as stream:
        if stream.read(len(LFS)) == LFS:
            raise InputError(f"{file}: a Git LFS pointer, not the weights: run `git lfs pull` in its folder")


def write_shard(tensors: Mapping[str, Tensor], file: Path) -> None:
    """Write one safetensors file, tensor by tensor: no second copy of the shard is ever in memory."""
    # The format's own order: widest types first, so that every tensor is aligned.
    names = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name in names:
        start, end = end, end + count_bytes(tensors[name])
        shape = list(tensors[name].shape)
        header[name] = {"dtype": DTYPES[tensors[name].dtype], "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with file.open("wb") as stream:
        stream.write(struct.pack("<Q", len(text)) + text)
        for name in names:
            flat = tensors[name].detach().cpu().contiguous().reshape(-1)
            stream.write(flat.view(torch.uint8).numpy().data)


def write_shards(tensors: Mapping[str, Tensor], folder: Path, limit: int = SHARD_BYTES) -> None:
    """Write model.safetensors, or shards of at most `limit` bytes with their index."""
    parts: list[dict[str, Tensor]] = [{}]
    size = 0
    for name, tensor in tensors.items():
        if parts[-1] and size + count_bytes(tensor) > limit:
            parts.append({})
            size = 0
        parts[-1][name] = tensor
        size += count_bytes(tensor)
    write_stream(parts, folder)


def write_stream(parts: Iterable[Mapping[str, Tensor]], folder: Path) -> None:
    """Write one file for each part as it comes; several get an index. Empty parts are left out."""
    files: list[tuple[Path, list[str]]] = []
    size = 0
    for part in parts:
        if part:
            files.append((folder / f"part-{len(files) + 1}.tmp", list(part)))
            write_shard(part, files[-1][0])
            size += sum(map(count_bytes, part.values()))
    if len(files) == 1:
        files[0][0].rename(folder / WHOLE[0])
        return
    places: dict[str, str] = {}
    for number, (file, names) in enumerate(files, 1):
        name = f"model-{number:05d}-of-{len(files):05d}.safetensors"
        file.rename(folder / name)
        places.update(dict.fromkeys(names, name))
    write_config({"metadata": {"total_size": size}, "weight_map": places}, folder, INDEXES[0])


def count_bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def read_config(folder: Path, name: str = "config.json") -> dict[str, Any]:
    """The JSON object `name` of a checkpoint folder."""
    file = folder / name
    if not file.is_file():
        raise InputError(f"{folder}: no {name}: not a checkpoint folder{explain_absence(folder)}")
    try:
        config = json.loads(file.read_text("utf-8-sig"))  # editors of Windows put a mark before it
    except ValueError as error:
        raise InputError(f"{file}: not valid JSON: {error}") from error
    if not isinstance(config, dict):
        raise InputError(f"{file}: must be a JSON object")
    return config


def write_config(config: Mapping[str, Any], folder: Path, name: str = "config.json") -> None:
    (folder / name).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def short(names: Iterable[str], limit: int = 8) -> str:
    """Names for a message: the first few and how many more."""
    listed = sorted(names)
    more = f" and {len(listed) - limit} more" if len(listed) > limit else ""
    return ", ".join(listed[:limit]) + more
