"""Files that hold weights and no graph (GGUF, folders of safetensors): tensors read one by one.

`weft inspect` shows what is in them and how well weft's formats hold it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weft.errors import InputError, ModelError, unknown
from weft.formats import parse
from weft.graph import Shape

SAMPLE = 1 << 18  # elements of a tensor that its error is measured on
# weft's format for a file's type; int8 for what is not here.
NEAREST: dict[str, str] = {
    "Q2_K": "uint2:g32",
    "Q3_K": "int3:g32",
    "Q4_0": "int4:g32",
    "Q4_1": "uint4:g32",
    "Q4_K": "uint4:g32",
    "Q5_0": "int5:g32",
    "Q5_1": "uint5:g32",
    "Q5_K": "uint5:g32",
    "Q6_K": "int6:g32",
    "MXFP4": "mxfp4",
    "BF16": "bf16",
}


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file: numpy's shape, the file's type name, the bytes it takes there.

    `rows` reads a range of the first dimension as float32 [rows, ...].
    """

    name: str
    shape: Shape
    kind: str
    nbytes: int
    rows: Callable[[int, int], NDArray[np.float32]] = field(repr=False, compare=False)

    @property
    def size(self) -> int:
        """Number of elements."""
        return int(np.prod(self.shape, dtype=object)) if self.shape else 1

    def read(self) -> NDArray[np.float32]:
        """All of it, as float32."""
        return self.rows(0, self.shape[0] if self.shape else 1).reshape(self.shape)


@dataclass(frozen=True)
class StoredModel:
    """What a file or folder of weights says: architecture, metadata, tensors by name."""

    path: Path
    source: str
    architecture: str
    metadata: Mapping[str, Any]
    tensors: Mapping[str, StoredTensor]

    def __iter__(self) -> Iterator[StoredTensor]:
        return iter(self.tensors.values())

    def __getitem__(self, name: str) -> StoredTensor:
        if name not in self.tensors:
            raise ModelError(unknown("tensor", name, self.tensors))
        return self.tensors[name]

    @property
    def verdict(self) -> str:
        """What weft can run of it."""
        if self.source == "GGUF" or self.metadata.get("is_decoder"):
            return (
                "weights can be read and converted; it generates text where its architecture is "
                "one of Llama's family or GPT-2: weft compile, weft generate"
            )
        return (
            "weights can be read and converted; to run it, load it with its library and pass the "
            "module: weft.compile(module, example_inputs=...), or export it to ONNX"
        )


def nearest_format(tensor: StoredTensor) -> str:
    """Name of the weft format that weights of this tensor would get."""
    return NEAREST.get(tensor.kind, "int8")


def conversion_error(tensor: StoredTensor) -> tuple[str, float] | None:
    """(weft's nearest format, relative error of it); None for what stays float (fewer than two
    dimensions).

    The error is the root mean square of the difference over that of the values, measured on about
    SAMPLE elements from rows all over the tensor. Raises InputError for NaN and infinities.
    """
    if len(tensor.shape) < 2 or not tensor.size:
        return None
    per_row = tensor.size // tensor.shape[0]
    count = min(tensor.shape[0], max(1, SAMPLE // per_row))
    name = nearest_format(tensor)
    chosen = parse(name)
    noise = power = 0.0
    for row in np.unique(np.linspace(0, tensor.shape[0] - 1, count).astype(int)):
        x = tensor.rows(int(row), int(row) + 1).reshape(1, 1, -1)
        quant = chosen.fit(x, 0)
        back = chosen.quantize(x, quant) * quant.scale.reshape(-1, 1, 1)
        noise += float(np.square(x - back, dtype=np.float64).sum())
        power += float(np.square(x, dtype=np.float64).sum())
    return name, (noise / power) ** 0.5 if power else 0.0


def is_stored(path: Path) -> bool:
    """Whether `path` holds weights without a graph."""
    if path.is_dir():
        return any(path.glob("*.safetensors"))
    return path.suffix in (".gguf", ".safetensors")


def load(path: Path) -> StoredModel:
    """The tensors of a .gguf file, a .safetensors file, or a folder of those.

    Raises ModelError for a damaged or hostile one.
    """
    if path.suffix == ".gguf":
        from weft.frontend.gguf import load_tensors

        return load_tensors(path)
    from weft.frontend.safetensors_folder import load_folder

    return load_folder(path)


def rows(model: StoredModel) -> list[dict[str, Any]]:
    """One entry per tensor: name, type, shape, bytes, nearest format and its error."""
    found = []
    for tensor in model:
        try:
            nearest = conversion_error(tensor) or ("float32", 0.0)
        except InputError:
            nearest = ("float32 (NaN or infinite values)", 0.0)
        found.append(
            {
                "name": tensor.name,
                "type": tensor.kind,
                "shape": list(tensor.shape),
                "bytes": tensor.nbytes,
                "format": nearest[0],
                "error": nearest[1],
            }
        )
    return found
