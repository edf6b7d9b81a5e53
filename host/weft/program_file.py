"""Program ↔ one safetensors file: blobs, plus a JSON manifest in the file's metadata.

Loading reads numbers and text only; nothing in a file is ever executed. Whatever is wrong with a
file becomes a ProgramError that names the part.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np

from weft import isa
from weft.config import Overlay
from weft.errors import ProgramError, WeftError
from weft.formats import parse
from weft.graph import Array, Graph, Quant, Tensor
from weft.graph_file import node_entry, node_of
from weft.program import (
    AcceleratorSegment,
    Cache,
    HostSegment,
    Layer,
    Layout,
    Program,
    Region,
    Rule,
    Segment,
    TensorInfo,
    Unfold,
)

FORMAT = "weft-program-1"
ASSET = "asset."  # how the names of blobs that are assets begin


def save(program: Program, path: str | Path) -> None:
    """Writes the program to `path` (a temporary name first, then a rename)."""
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    blobs: dict[str, Array] = {"weights": np.ascontiguousarray(program.weights)}
    manifest = {
        "format": FORMAT,
        "name": program.name,
        "overlay": asdict(program.overlay),
        "overlay_digest": program.overlay_digest,
        "batch": program.batch,
        "memory_rows": program.memory_rows,
        "layers": [asdict(layer) for layer in program.layers],
        "inputs": [asdict(info) for info in program.inputs],
        "outputs": [asdict(info) for info in program.outputs],
        "regions": {name: _plain(region) for name, region in program.regions.items()},
        "segments": [_segment(s, i, blobs) for i, s in enumerate(program.segments)],
        "notes": dict(program.notes),
        "tokens": dict(program.tokens),
        "lengths": program.lengths,
        "cache": None if program.cache is None else asdict(program.cache),
        "rules": [list(asdict(rule).values()) for rule in program.rules],
        "states": dict(program.states),
        "entries": {name: list(numbers) for name, numbers in program.entries.items()},
    }
    if program.model is not None:
        blobs["model"] = program.model
    blobs |= {ASSET + name: np.ascontiguousarray(a) for name, a in program.assets.items()}
    with replacing(path) as temporary:
        try:
            save_file(blobs, str(temporary), {"weft": json.dumps(manifest)})
        except SafetensorError as error:  # a full disk, for one
            raise WeftError(f"{path}: cannot write ({error})") from None


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A temporary name beside `path` that becomes `path` if the block ends without an error."""
    path = Path(path)
    if not path.parent.is_dir():
        raise WeftError(f"{path}: the folder {path.parent} does not exist; create it first")
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    except OSError as error:
        raise WeftError(f"{path}: cannot write there ({error.strerror})") from None
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)
        temporary.replace(path)
    except OSError as error:
        raise WeftError(f"{path}: cannot write ({error.strerror})") from None
    finally:
        temporary.unlink(missing_ok=True)


def load(path: str | Path) -> Program:
    """Reads a program. Raises ProgramError for anything but a complete, consistent file."""
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    if not path.is_file():
        raise ProgramError(f"{path}: no such file")
    try:
        with safe_open(str(path), framework="numpy") as file:
            text = (file.metadata() or {}).get("weft")
            blobs = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ProgramError(f"{path}: not a program file, or a damaged one ({error})") from None
    if text is None:
        raise ProgramError(f"{path}: a safetensors file, but not one that weft wrote")
    try:
        return _parse(json.loads(text), blobs)
    except ProgramError as error:
        raise ProgramError(f"{path}: {error}") from None
    except (WeftError, KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise ProgramError(f"{path}: damaged manifest ({type(error).__name__}: {error})") from None


def _plain(value: Any) -> Any:
    """A dataclass as JSON-ready dicts and lists."""
    if isinstance(value, Quant):
        scale = np.asarray(value.scale, np.float32)
        return {
            "scale": scale.tolist(),
            "zero_point": int(value.zero_point),
            "axis": value.axis,
            **({} if value.format == "int8" else {"format": value.format}),
        }
    if is_dataclass(value):
        return {f.name: _plain(getattr(value, f.name)) for f in fields(value)}
    return value


def _segment(segment: Segment, number: int, blobs: dict[str, Array]) -> dict[str, Any]:
    if isinstance(segment, AcceleratorSegment):
        blobs[f"segment{number}.words"] = np.ascontiguousarray(segment.words)
        blobs[f"segment{number}.layers"] = np.ascontiguousarray(segment.layers)
        return {"kind": "accelerator", "inputs": segment.inputs, "outputs": segment.outputs}
    graph = segment.graph
    tensors = []
    for index, tensor in enumerate(graph.tensors.values()):
        entry: dict[str, Any] = {
            "name": tensor.name,
            "shape": tensor.shape,
            "dtype": tensor.dtype,
        }
        if tensor.quant:
            entry["quant"] = _plain(tensor.quant)
        if tensor.data is not None:
            entry["blob"] = blob = f"segment{number}.{index}"
            blobs[blob] = np.asarray(tensor.data, order="C")  # scalars stay scalars
        tensors.append(entry)
    return {
        "kind": "host",
        "reason": segment.reason,
        "name": graph.name,
        "inputs": graph.inputs,
        "outputs": graph.outputs,
        "tensors": tensors,
        "nodes": [node_entry(node) for node in graph],
    }


def _parse(manifest: dict[str, Any], blobs: dict[str, Array]) -> Program:
    if manifest.get("format") != FORMAT:
        raise ProgramError(f"format {manifest.get('format')!r}, this weft reads {FORMAT!r}")
    facts = manifest["overlay"]
    for key in ("engines", "formats", "units", "softmax", "norm"):
        facts[key] = tuple(facts[key])
    facts["boards"] = tuple(facts.get("boards", ()))
    overlay = Overlay(**facts).verify()
    if overlay.digest() != manifest["overlay_digest"]:
        raise ProgramError(
            f"compiled for overlay {overlay.name!r} with digest {manifest['overlay_digest']}, "
            f"which this weft builds as {overlay.digest()}; compile the model again"
        )
    program = Program(
        name=str(manifest["name"]),
        overlay=overlay,
        batch=int(manifest["batch"]),
        segments=tuple(_load_segment(s, i, blobs) for i, s in enumerate(manifest["segments"])),
        layers=tuple(_layer(layer) for layer in manifest["layers"]),
        weights=_blob(blobs, "weights", np.int8, 2),
        regions={name: _region(entry) for name, entry in manifest["regions"].items()},
        memory_rows=int(manifest["memory_rows"]),
        inputs=tuple(_info(entry) for entry in manifest["inputs"]),
        outputs=tuple(_info(entry) for entry in manifest["outputs"]),
        notes=manifest["notes"],
        model=_blob(blobs, "model", np.uint8, 1) if "model" in blobs else None,
        tokens={str(name): str(root) for name, root in manifest.get("tokens", {}).items()},
        rules=tuple(_rule(entry) for entry in manifest.get("rules", ())),
        lengths=str(manifest.get("lengths", "")),
        cache=_cache(manifest.get("cache")),
        states={str(name): str(state) for name, state in manifest.get("states", {}).items()},
        entries={str(n): tuple(map(int, e)) for n, e in manifest.get("entries", {}).items()},
        assets={n.removeprefix(ASSET): b for n, b in blobs.items() if n.startswith(ASSET)},
    )
    return program.verify()


def _blob(blobs: dict[str, Array], name: str, dtype: Any, ndim: int) -> Array:
    if name not in blobs:
        raise ProgramError(f"blob {name!r} is missing")
    blob = blobs[name]
    if blob.dtype != dtype or blob.ndim != ndim:
        raise ProgramError(
            f"blob {name!r} is {blob.dtype} with {blob.ndim} dimensions, "
            f"expected {np.dtype(dtype)} with {ndim}"
        )
    return blob


def _layer(entry: dict[str, Any]) -> Layer:
    return Layer(**{**entry, "tokens": tuple(map(str, entry.get("tokens", ())))})


def _cache(entry: dict[str, Any] | None) -> Cache | None:
    if entry is None:
        return None
    names = tuple(map(str, entry["names"]))
    return Cache(
        int(entry["tokens"]),
        int(entry["capacity"]),
        names,
        int(entry["slots"]),
        int(entry.get("source", 0)),
        int(entry.get("bits", 8)),
    )


def _rule(entry: list[Any]) -> Rule:
    segment, instruction, name, root, *numbers = entry
    return Rule(int(segment), int(instruction), str(name), str(root), *map(int, numbers))


def _info(entry: dict[str, Any]) -> TensorInfo:
    return TensorInfo(str(entry["name"]), tuple(map(int, entry["shape"])), str(entry["dtype"]))


def _quant(entry: dict[str, Any]) -> Quant:
    scale = np.asarray(entry["scale"], np.float32)
    if not (np.isfinite(scale).all() and (scale > 0).all()):
        raise ProgramError(f"scale {entry['scale']} is not positive and finite")
    name = str(entry.get("format", "int8"))
    parse(name)
    return Quant(scale, int(entry["zero_point"]), entry["axis"], name)


def _region(entry: dict[str, Any]) -> Region:
    layout = entry["layout"]
    dims = tuple(tuple(str(axis) for axis in dim) for dim in layout["dims"])
    unfold = Unfold(**entry["unfold"]) if entry["unfold"] else None
    channels, height, width = (int(layout[name]) for name in ("channels", "height", "width"))
    bits = int(layout.get("bits", 8))
    if bits not in (1, 2, 4, 8, 16):
        raise ProgramError(f"codes of {bits} bits; there are 1, 2, 4, 8 and 16")
    place = Layout(channels, height, width, dims, bits)
    return Region(int(entry["row"]), place, _quant(entry["quant"]), unfold)


def _load_segment(entry: dict[str, Any], number: int, blobs: dict[str, Array]) -> Segment:
    inputs, outputs = tuple(map(str, entry["inputs"])), tuple(map(str, entry["outputs"]))
    if entry["kind"] == "accelerator":
        words = _blob(blobs, f"segment{number}.words", np.int32, 2)
        layers = _blob(blobs, f"segment{number}.layers", np.int32, 1)
        if words.shape != (len(layers), isa.WORDS):
            raise ProgramError(f"segment {number}: instructions of shape {words.shape}")
        return AcceleratorSegment(words, layers, inputs, outputs)
    tensors = {}
    for t in entry["tensors"]:
        data = blobs[t["blob"]] if "blob" in t else None
        quant = _quant(t["quant"]) if "quant" in t else None
        shape = tuple(int(d) for d in t["shape"])
        tensors[t["name"]] = Tensor(t["name"], shape, t["dtype"], data, quant)
    nodes = tuple(node_of(n) for n in entry["nodes"])
    graph = Graph(str(entry["name"]), tensors, nodes, inputs, outputs).verify()
    return HostSegment(graph, str(entry["reason"]))
