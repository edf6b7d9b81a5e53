"""Folders of the transformers library: config.json and *.safetensors, with or without an index.

Nothing is executed and nothing outside the folder is read; the safetensors library checks headers.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weft.errors import ModelError, UnsupportedError
from weft.frontend.stored import StoredModel, StoredTensor

JSON_LIMIT = 1 << 24  # bytes of config.json and of an index
TYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "<i1",
    "U8": "<u1",
    "BOOL": "<u1",
}


def load_folder(path: str | Path) -> StoredModel:
    """Tensors of a folder, or of one .safetensors file; data are read when asked for.

    Raises ModelError for anything damaged, missing or pointing out of the folder.
    """
    path = Path(path)
    folder = path if path.is_dir() else path.parent
    files = _files(path)
    config = read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
    tensors: dict[str, StoredTensor] = {}
    for file in files:
        for tensor in _tensors(file):
            if tensor.name in tensors:
                raise ModelError(f"{file}: tensor {tensor.name!r} is in another file, too")
            tensors[tensor.name] = tensor
    _check_index(folder, tensors)
    names = config.get("architectures") or [config.get("model_type", "unknown")]
    if not isinstance(names, list) or not names:
        raise ModelError(f"{folder}/config.json: architectures = {names!r}; a list is expected")
    metadata = {k: v for k, v in config.items() if isinstance(v, (str, int, float, bool))}
    metadata["is_decoder"] = bool(config.get("is_decoder")) or "CausalLM" in str(names[0])
    return StoredModel(path, "safetensors", str(names[0]), metadata, tensors)


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    index = path / "model.safetensors.index.json"
    if not index.is_file():
        found = sorted(path.glob("*.safetensors"))
        if not found:
            raise ModelError(f"{path}: a folder without *.safetensors")
        return found
    names = _weight_map(index)
    return [_inside(path, name) for name in sorted(set(names.values()))]


def _inside(folder: Path, name: str) -> Path:
    """A file of the folder. Raises ModelError for a name that leads elsewhere."""
    if Path(name).name != name or name in ("", ".", "..") or "\\" in name:
        raise ModelError(f"{folder}: the index names {name!r}, which is not a file of the folder")
    if not (folder / name).is_file():
        raise ModelError(f"{folder}: the index names {name!r}, which is not there")
    return folder / name


def _weight_map(index: Path) -> dict[str, str]:
    names = read_json(index).get("weight_map")
    if not isinstance(names, dict) or not all(isinstance(v, str) for v in names.values()):
        raise ModelError(f"{index}: no weight_map of tensors to files")
    return names


def _check_index(folder: Path, tensors: dict[str, StoredTensor]) -> None:
    index = folder / "model.safetensors.index.json"
    if not index.is_file() or not folder.is_dir():
        return
    missing = [name for name in _weight_map(index) if name not in tensors]
    if missing:
        raise ModelError(f"{index}: {len(missing)} tensors are missing, {missing[0]!r} is one")


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises ModelError for anything else."""
    try:
        if path.stat().st_size > JSON_LIMIT:
            raise ModelError(f"{path} has {path.stat().st_size} bytes; at most {JSON_LIMIT}")
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelError(f"{path}: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path}: not JSON ({error})") from None
    if not isinstance(found, dict):
        raise ModelError(f"{path}: an object is expected")
    return found


def _tensors(file: Path) -> list[StoredTensor]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(file), framework="numpy") as opened:  # checks sizes and offsets
            names = list(opened.keys())
        data = np.memmap(file, np.uint8, "r")
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelError(f"{file}: not a safetensors file, or a damaged one ({error})") from None
    length = int(data[:8].view("<u8")[0])
    header = json.loads(data[8 : 8 + length].tobytes())
    return [_tensor(file, name, header[name], data[8 + length :]) for name in names]


def _tensor(file: Path, name: str, entry: dict[str, Any], data: NDArray[np.uint8]) -> StoredTensor:
    kind, shape = str(entry["dtype"]), tuple(int(d) for d in entry["shape"])
    if kind not in TYPES:
        raise UnsupportedError(f"{file}: tensor {name!r} has type {kind}; {sorted(TYPES)} are read")
    start, end = (int(v) for v in entry["data_offsets"])
    per_row = (end - start) // max(1, shape[0] if shape else 1)

    def rows(first: int, last: int) -> NDArray[np.float32]:
        raw = data[start + first * per_row : start + last * per_row]
        form = TYPES[kind]
        if form[0] != "<":
            import ml_dtypes

            form = getattr(ml_dtypes, form)
        with np.errstate(all="ignore"):
            values = np.frombuffer(raw.tobytes(), form).astype(np.float32)
        return values.reshape(last - first, *shape[1:])

    return StoredTensor(name, shape, kind, end - start, rows)
