"""GGUF, the file format of llama.cpp: metadata and tensors in blocks, read through a memory map.

The header is read here, with every count checked against the file's size; blocks are decoded by the
gguf package (its quants.py). Layout: ggml-org/ggml, docs/gguf.md, versions 2 and 3.
"""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weft.errors import MissingDependency, ModelError, UnsupportedError
from weft.frontend.stored import StoredModel, StoredTensor

MAGIC = b"GGUF"
VERSIONS = (2, 3)
DIMS = 4  # GGML_MAX_DIMS
LARGEST_ALIGNMENT = 1 << 20
SMALLEST_PAIR = 8 + 4 + 1  # bytes of a metadata entry: empty key, type, one byte
SMALLEST_INFO = 8 + 4 + 8 + 4 + 8  # bytes of a tensor's entry: empty name, one dimension
STRING, ARRAY = 8, 9
SCALARS = {
    **{0: "<u1", 1: "<i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", 7: "u1"},
    **{10: "<u8", 11: "<i8", 12: "<f8"},
}
PLAIN = {
    "F32": "<f4",
    "F16": "<f2",
    "F64": "<f8",
    "I8": "<i1",
    "I16": "<i2",
    "I32": "<i4",
    "I64": "<i8",
}


def load_tensors(path: str | Path) -> StoredModel:
    """Metadata and tensors of a GGUF file; a tensor's data are read when it is asked for them.

    Raises ModelError for a damaged or hostile file, UnsupportedError for types that the gguf
    package does not decode, MissingDependency without that package.
    """
    path = Path(path)
    try:
        size = path.stat().st_size
        data = np.memmap(path, np.uint8, "r") if size else np.zeros(0, np.uint8)
    except OSError as error:
        raise ModelError(f"{path}: {error.strerror or error}") from None
    reader = _Reader(path, data)
    try:
        return reader.model()
    except (struct.error, UnicodeDecodeError, ValueError, OverflowError) as error:
        raise ModelError(f"{path}: a damaged GGUF file ({error})") from None


def _package() -> Any:
    try:
        import gguf
    except ImportError:
        raise MissingDependency(
            "reading GGUF needs the gguf package: pip install 'weft[gguf]'"
        ) from None
    return gguf


class _Reader:
    """A position in the file."""

    def __init__(self, path: Path, data: NDArray[np.uint8]) -> None:
        self.path, self.data, self.at = path, data, 0

    def model(self) -> StoredModel:
        """Everything but the tensors' data."""
        if self.take(4, "magic") != MAGIC:
            raise ModelError(f"{self.path}: not a GGUF file")
        version = self.number("<I", "version")
        if version not in VERSIONS:
            raise UnsupportedError(
                f"{self.path}: GGUF version {version} (or another byte order); {VERSIONS} are read"
            )
        tensors = self.count("tensors", SMALLEST_INFO)
        pairs = self.count("metadata entries", SMALLEST_PAIR)
        metadata: dict[str, Any] = {}
        for _ in range(pairs):
            key = self.string("a metadata key")
            if key in metadata:
                raise ModelError(f"{self.path}: metadata {key!r} occurs twice")
            metadata[key] = self.value(self.number("<I", key), key)
        infos = [self.info() for _ in range(tensors)]
        start = self.data_start(metadata)
        found: dict[str, StoredTensor] = {}
        for name, dims, kind, offset in infos:
            if name in found:
                raise ModelError(f"{self.path}: tensor {name!r} occurs twice")
            found[name] = self.tensor(name, dims, kind, start + offset)
        architecture = str(metadata.get("general.architecture", "unknown"))
        return StoredModel(self.path, "GGUF", architecture, metadata, found)

    def take(self, count: int, what: str) -> bytes:
        """The next `count` bytes."""
        if count > len(self.data) - self.at:
            raise ModelError(
                f"{self.path}: {what} at byte {self.at} needs {count} bytes, the file has "
                f"{len(self.data) - self.at} more: truncated, or not what it says"
            )
        part = self.data[self.at : self.at + count].tobytes()
        self.at += count
        return part

    def number(self, form: str, what: str) -> int:
        """One number."""
        return int(struct.unpack(form, self.take(struct.calcsize(form), what))[0])

    def count(self, what: str, each: int) -> int:
        """A count of things of at least `each` bytes."""
        found = self.number("<Q", f"the number of {what}")
        if found > (len(self.data) - self.at) // each:
            raise ModelError(
                f"{self.path}: {found} {what} of at least {each} bytes are more than the "
                f"{len(self.data) - self.at} bytes that follow"
            )
        return found

    def string(self, what: str) -> str:
        """A string."""
        return self.take(self.count(f"bytes of {what}", 1), what).decode()

    def value(self, kind: int, key: str) -> Any:
        """A metadata value: a number, a string, or a list (of numbers: an array)."""
        if kind == STRING:
            return self.string(key)
        if kind in SCALARS:
            form = np.dtype(SCALARS[kind])
            scalar = np.frombuffer(self.take(form.itemsize, key), form)[0]
            return bool(scalar) if kind == 7 else scalar.item()
        if kind != ARRAY:
            raise ModelError(f"{self.path}: metadata {key!r} has type {kind}, which is unknown")
        inner = self.number("<I", key)
        if inner == STRING:
            return [self.string(key) for _ in range(self.count(f"strings of {key!r}", 8))]
        if inner not in SCALARS:
            raise ModelError(f"{self.path}: metadata {key!r} is an array of type {inner}")
        form = np.dtype(SCALARS[inner])
        count = self.count(f"elements of {key!r}", form.itemsize)
        return np.frombuffer(self.take(count * form.itemsize, key), form)

    def info(self) -> tuple[str, tuple[int, ...], int, int]:
        """(name, dims in numpy's order, type, offset) of a tensor."""
        name = self.string("a tensor's name")
        rank = self.number("<I", name)
        if rank > DIMS:
            raise ModelError(f"{self.path}: tensor {name!r} has {rank} dimensions; at most {DIMS}")
        dims = tuple(self.number("<Q", name) for _ in range(rank))[::-1]
        return name, dims, self.number("<I", name), self.number("<Q", name)

    def data_start(self, metadata: dict[str, Any]) -> int:
        """Where tensor data begin."""
        alignment = metadata.get("general.alignment", 32)
        good = isinstance(alignment, int) and 1 <= alignment <= LARGEST_ALIGNMENT
        if not good or alignment & (alignment - 1):
            raise ModelError(f"{self.path}: an alignment of {alignment!r}")
        step = int(alignment)
        return -(-self.at // step) * step

    def tensor(self, name: str, dims: tuple[int, ...], kind: int, start: int) -> StoredTensor:
        """A tensor, its size checked against the file's."""
        package = _package()
        try:
            known = package.GGMLQuantizationType(kind)
        except ValueError:
            raise UnsupportedError(
                f"{self.path}: tensor {name!r} has type {kind}, which the gguf package "
                "does not know; a newer one may"
            ) from None
        block, nbytes = package.GGML_QUANT_SIZES[known]
        elements, last = math.prod(dims), dims[-1] if dims else 1
        if not elements or last % block:
            raise ModelError(
                f"{self.path}: tensor {name!r} of shape {dims}: {known.name} comes in blocks of "
                f"{block}"
            )
        total = elements // block * nbytes
        if start + total > len(self.data):
            raise ModelError(
                f"{self.path}: tensor {name!r} of shape {dims}, {known.name}, takes bytes "
                f"{start}..{start + total} of {len(self.data)}: truncated, or not what it says"
            )
        per_row = total // (dims[0] if dims else 1)

        def rows(first: int, last: int) -> NDArray[np.float32]:
            raw = self.data[start + first * per_row : start + last * per_row]
            return _decoded(raw, known, (last - first, *dims[1:]), name)

        if len(dims) < 2 and block > 1:  # one row of blocks can't be cut
            return StoredTensor(
                name,
                dims,
                known.name,
                total,
                lambda first, last: _decoded(
                    self.data[start : start + total], known, (1, *dims), name
                ).reshape(dims)[first:last],
            )
        return StoredTensor(name, dims, known.name, total, rows)


def _decoded(
    raw: NDArray[np.uint8], kind: Any, shape: tuple[int, ...], name: str
) -> NDArray[np.float32]:
    """Real values of a tensor's bytes."""
    if kind.name in PLAIN:
        with np.errstate(all="ignore"):
            return raw.view(PLAIN[kind.name]).astype(np.float32).reshape(shape)
    from gguf import quants

    width = raw.size // math.prod(shape[:-1])
    try:
        with np.errstate(all="ignore"):  # scales may be infinite in a damaged file
            y = quants.dequantize(raw.reshape(-1, width), kind)
    except NotImplementedError as error:
        raise UnsupportedError(f"tensor {name!r}: {error}") from None
    return np.asarray(y, np.float32).reshape(shape)
