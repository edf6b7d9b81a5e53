"""From a model file to a program: load, fuse, quantize, lower."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

import numpy as np

from weft.config import Overlay, load_overlay
from weft.errors import InputError, UsageError
from weft.graph import Array, Graph
from weft.program import Program

if TYPE_CHECKING:
    from weft.lower import Placement
    from weft.plan import Plan

DEFAULT_REQUANT = "single_round"  # of float models

Progress = Callable[[str], None]
Calibration = Array | Mapping[str, Array] | str | Path


def load_model(
    model: Graph | str | Path | Any,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    *,
    requant: str | None = None,
    example_inputs: Any = None,
) -> Graph:
    """The fused graph of an ONNX or TFLite file, a PyTorch module, or a Graph.

    `shapes` gives the shape, batch dimension included, of inputs that the file leaves open;
    `requant` says whose int8 kernels a TFLite model follows: float_even LiteRT's interpreter (the
    default), double_round TFLite's reference kernels; `example_inputs` are what a module is traced
    with. Raises ModelError, ShapeError, UnsupportedError; UsageError for another `requant` of an
    int8 TFLite model.
    """
    from weft.passes.fuse import fuse

    if not isinstance(model, Graph):
        from weft.frontend import sources

        model = sources.load(model, shapes, requant=requant, example_inputs=example_inputs)
    return fuse(model)


def is_quantized(graph: Graph) -> bool:
    """Whether activations of the graph carry scales, or are fixed-point codes on the host."""
    return graph.is_quantized or any(node.op.startswith("Fixed") for node in graph)


def compile(
    model: Graph | str | Path | Any,
    overlay: Overlay | str | Path = "lab",
    *,
    calibration: Calibration | None = None,
    calibrator: str = "minmax",
    requant: str | None = None,
    batch: int | None = None,
    symmetric: bool = False,
    dynamic: bool = False,
    weights: str = "int8",
    activations: str = "int8",
    weight_method: str = "nearest",
    plan: Plan | str | Path | None = None,
    keep_first_last: bool = False,
    equalize: bool = False,
    smooth: float | None = None,
    correct_bias: bool = False,
    sparsity: str | None = None,
    criterion: str = "magnitude",
    permute: bool = False,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    example_inputs: Any = None,
    export_qdq: str | Path | None = None,
    progress: Progress | None = None,
) -> Program:
    """The program of a model on an overlay: a file, a Graph, or a PyTorch module.

    A float model is quantized: `calibration` holds typical inputs (an array [n, ...], a dict of
    them by input name, or the path of an .npz file); `calibrator` names how ranges follow from
    them, `requant` the rounding (single_round if None), `symmetric` asks for zero points of 0,
    `dynamic` for ranges that need no data. A model that is quantized already keeps its scales and
    rounds as its own runtime does;
    `requant="double_round"` makes an int8 TFLite model round as TFLite's reference kernels.
    `batch` is how many samples a device run holds (as many as fit, if None). A PyTorch module is
    traced with `example_inputs`. `export_qdq` names an ONNX file that gets the quantized network
    in QDQ form. `progress` hears the name of each stage.

    `weights`, `activations` and `weight_method` choose number formats and how weights are rounded,
    `plan` (a Plan or its file) the exceptions layer by layer; these and the rest are the
    arguments of `weft.passes.quantize.quantize`.

    `sparsity` ("2:4", "csc:0.9", ...; also in plans) prunes the layers first, by `criterion`, with
    `permute` after an ordering of channels: see `weft.passes.prune.prune`. A model that is
    quantized already is pruned by magnitude.

    Raises UsageError (unknown names, no calibration), ModelError and CapacityError.
    """
    from weft.lower import lower
    from weft.passes.quantize import quantize
    from weft.plan import read

    tell = progress or (lambda stage: None)
    tell("loading the model")
    hardware = overlay if isinstance(overlay, Overlay) else load_overlay(overlay)
    graph = load_model(model, shapes, requant=requant, example_inputs=example_inputs)
    chosen = None if plan is None else read(plan)
    graph = _pruned(graph, chosen, sparsity, criterion, permute, calibration, tell)
    if not is_quantized(graph):
        graph = quantize(
            graph,
            _typical_inputs(graph, calibration, needed=not dynamic),
            calibrator=calibrator,
            requant=requant or DEFAULT_REQUANT,
            symmetric=symmetric,
            dynamic=dynamic,
            weights=weights,
            activations=activations,
            weight_method=weight_method,
            plan=chosen,
            keep_first_last=keep_first_last,
            equalize=equalize,
            smooth=smooth,
            correct_bias=correct_bias,
            progress=lambda done, total: tell(f"quantizing, {done} of {total} samples"),
        )
    elif plan is not None or (weights, activations) != ("int8", "int8"):
        raise UsageError(
            f"model {graph.name!r} is quantized already and keeps its formats: number formats and "
            "plans are for float models"
        )
    if export_qdq is not None:
        from weft.export_qdq import export_qdq as write

        write(graph, export_qdq)
    tell(f"lowering to overlay {hardware.name}")
    return lower(graph, hardware, batch=batch)


def _pruned(
    graph: Graph,
    plan: Plan | None,
    sparsity: str | None,
    criterion: str,
    permute: bool,
    calibration: Calibration | None,
    tell: Progress,
) -> Graph:
    """The graph with the zeros that the arguments and the plan ask for; itself if they don't."""
    from weft.pruning.criteria import NEED_DATA
    from weft.pruning.criteria import criterion as check

    check(criterion)
    default = (plan.sparsity if plan else None) or sparsity
    own = {name: layer.sparsity for name, layer in plan.layers.items()} if plan else {}
    layers = {name: text for name, text in own.items() if text is not None}
    if default is None and not layers:
        if permute or criterion != "magnitude":
            what = "permute" if permute else f"criterion {criterion!r}"
            raise UsageError(f"{what} is about pruning: say how sparse, for example sparsity 2:4")
        return graph
    from weft.passes.prune import prune

    data = None
    if criterion in NEED_DATA and calibration is not None:
        data = calibration_arrays(graph, calibration)
    return prune(
        graph,
        default or "dense",
        criterion=criterion,
        calibration=data,
        layers=layers,
        permute=permute,
        progress=lambda done, total: tell(f"pruning, {done} of {total} layers"),
    )


def preflight(
    model: Graph | str | Path,
    overlay: Overlay | str | Path = "lab",
    shapes: Mapping[str, tuple[int, ...]] | None = None,
) -> list[Placement]:
    """Where each node of a model would run, on which engine, and why."""
    from weft import lower

    hardware = overlay if isinstance(overlay, Overlay) else load_overlay(overlay)
    return lower.preflight(load_model(model, shapes), hardware)


def _typical_inputs(
    graph: Graph, calibration: Calibration | None, needed: bool
) -> dict[str, Array]:
    if calibration is not None:
        return calibration_arrays(graph, calibration)
    if needed:
        raise UsageError(
            f"model {graph.name!r} is float: give typical inputs to quantize it with, "
            "calibration=x in Python, --calibrate DATA.npz on the command line"
        )
    return {}


def calibration_arrays(graph: Graph, calibration: Calibration) -> dict[str, Array]:
    """Calibration data by input name, from one array, a dict or a file."""
    if isinstance(calibration, (str, Path)):
        return named_arrays(read_arrays(calibration), graph.inputs, str(calibration))
    if isinstance(calibration, Mapping):
        return named_arrays(dict(calibration), graph.inputs, "calibration")
    return named_arrays({"x": np.asarray(calibration)}, graph.inputs, "calibration")


def read_arrays(path: str | Path) -> dict[str, Array]:
    """The arrays of an .npz file, or the one of an .npy file under the name x."""
    path = Path(path)
    try:
        with path.open("rb") as file:
            content = np.load(file, allow_pickle=False)
            if isinstance(content, np.ndarray):
                return {"x": content}
            return {name: content[name] for name in content.files}
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (OSError, ValueError, EOFError, KeyError, BadZipFile, zlib.error) as error:
        raise InputError(f"{path}: not an .npz or .npy file of numbers ({error})") from None


def named_arrays(
    arrays: Mapping[str, Array], names: tuple[str, ...], source: str
) -> dict[str, Array]:
    """The arrays that `names` ask for; "x", or the only array, will do for the only name.

    Raises InputError with the names there are and those expected.
    """
    if all(name in arrays for name in names):
        return {name: arrays[name] for name in names}
    if len(names) == 1:
        if "x" in arrays:
            return {names[0]: arrays["x"]}
        if len(arrays) == 1:
            return {names[0]: next(iter(arrays.values()))}
    raise InputError(f"{source}: arrays {sorted(arrays)} given, inputs {sorted(names)} expected")
