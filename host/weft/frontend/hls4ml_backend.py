"""weft as a backend of hls4ml: `backend="Weft"` in its converters, then compile, predict, build.

hls4ml finds it by the entry point `hls4ml.backends`. Layers and their types are initialised by
the passes of its Vivado backend, so a model has the precisions that its Vitis backend would give
it, and `predict` gives the numbers of its C simulation (docs/hls4ml.md says where not). With
`exact=False` weft quantizes the model itself, for speed, from typical inputs.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from weft.config import board_names, load_board, load_overlay, overlay_names
from weft.errors import InputError, OverlayError, UsageError, unknown
from weft.frontend.hls4ml import Lowered, lower_for
from weft.frontend.hls4ml_lower import Note
from weft.frontend.hls4ml_options import check_exact, plan_of
from weft.graph import Array

if TYPE_CHECKING:
    from weft.program import Program
    from weft.runtime import Session
    from weft.vendor.run import Outcome

DEVICES = ("csim", "golden")


def settings(
    part: str | None = None,
    board: str = "KV260",
    overlay: str | None = None,
    device: str = "csim",
    exact: bool = True,
    calibration: Any = None,
    clock_period: float = 5,
    io_type: str = "io_parallel",
    **unused: Any,
) -> dict[str, Any]:
    """The backend's part of a conversion's configuration.

    `board` is a name of `weft list boards` (in any case), `overlay` one of `weft list overlays`
    (default: the largest that fits the board), `device` what predict runs on: csim, the compiled
    hardware source, or golden, the model in numpy. With `exact` outputs are those of hls4ml's C
    simulation; without, weft quantizes the model to int8 (or what layers ask for) from
    `calibration`, typical inputs as `predict` takes them, or the .npz file of them. `part` follows
    from the board; io types and clock periods mean nothing to an overlay. Raises UsageError for
    unknown names, and for `calibration` without a use.
    """
    by_case = {name.lower(): name for name in board_names()}
    if str(board).lower() not in by_case:
        raise UsageError(unknown("board", str(board), board_names()))
    if device not in DEVICES:
        raise UsageError(unknown("device", device, DEVICES))
    if exact == (calibration is not None):
        raise UsageError(
            "calibration=x says what weft quantizes with, and exact=False that it does: "
            f"exact={exact} and calibration {'given' if exact else 'missing'}"
        )
    known = by_case[str(board).lower()]
    overlay = overlay or largest_overlay(known)
    load_overlay(overlay)
    return {
        "Part": part or load_board(known).part,
        "Board": known,
        "Overlay": overlay,
        "Device": device,
        "Exact": bool(exact),
        "Calibration": calibration,
        "ClockPeriod": clock_period or 5,
        "IOType": io_type or "io_parallel",
        "HLSConfig": {},
        "WriterConfig": {"WriteWeightsTxt": False, "WriteTar": False},
    }


def largest_overlay(board: str) -> str:
    """The overlay with the most lanes that fits a board by estimate."""
    from weft import resources

    fitting = []
    for name in overlay_names():
        overlay = load_overlay(name)
        try:
            resources.check(overlay, load_board(board))
        except OverlayError:
            continue
        fitting.append((overlay.lanes, name))
    if not fitting:
        raise UsageError(f"no overlay fits board {board}; `weft explore --board {board}` finds one")
    return max(fitting)[1]


def lowered(model: Any, trace: bool = False) -> Lowered:
    """The exact graph of a ModelGraph, after its per-layer options have been looked at."""
    check_exact(model)
    return lower_for(model, _overlay(model), trace=trace)


def _overlay(model: Any) -> str:
    return str(model.config.get_config_value("Overlay", "lab"))


def program_of(model: Any, *, trace: bool = False) -> tuple[Program, Lowered]:
    """The program on the overlay of the model's configuration, and what its layers became."""
    from weft.compiler import compile as compile_graph

    if not model.config.get_config_value("Exact", True):
        return quantized(model, trace)
    found = lowered(model, trace)
    return compile_graph(found.graph, _overlay(model)), found


def quantized(model: Any, trace: bool = False) -> tuple[Program, Lowered]:
    """As `program_of`, with weft's own quantization. Raises UsageError for `trace`."""
    from weft.compiler import compile as compile_graph
    from weft.compiler import preflight
    from weft.frontend.hls4ml_float import load_float

    if trace:
        raise UsageError(
            "a trace shows hls4ml's numbers layer by layer: convert with exact=True, "
            "or compare layers with `weft check`"
        )
    graph = load_float(model)
    given = model.config.get_config_value("Calibration")
    data = given if isinstance(given, (str, Path)) else feeds(model, given)
    program = compile_graph(graph, _overlay(model), calibration=data, plan=plan_of(model))
    assert program.model is not None, "the compiler keeps the quantized graph"
    found = preflight(graph, _overlay(model))
    notes = tuple(Note(p.node.name, p.where, p.why if p.where == "host" else "") for p in found)
    return program, Lowered(graph, notes, {})


def session_of(model: Any, *, trace: bool = False) -> tuple[Session, Lowered]:
    """An open session of a model; kept with it until it is compiled again."""
    from weft.runtime import open as open_session

    kept: dict[bool, tuple[Session, Lowered]] = model.__dict__.setdefault("_weft_sessions", {})
    if trace not in kept:
        program, found = program_of(model, trace=trace)
        device = model.config.get_config_value("Device", "csim")
        kept[trace] = (open_session(program, device), found)
    return kept[trace]


def feeds(model: Any, x: Any) -> dict[str, Array]:
    """hls4ml's inputs (an array, or a list of them; samples may lie flat) by name.

    Raises InputError for a wrong number of inputs or of elements.
    """
    variables = model.get_input_variables()
    arrays = [x] if len(variables) == 1 and not isinstance(x, (list, tuple)) else list(x)
    if len(arrays) != len(variables):
        raise InputError(f"{len(arrays)} inputs given, {len(variables)} expected")
    named: dict[str, Array] = {}
    for variable, given in zip(variables, arrays, strict=True):
        array = np.asarray(given, np.float32)
        shape = tuple(int(d) for d in variable.shape)
        count, rest = divmod(array.size, int(np.prod(shape)))
        if rest or not count:
            raise InputError(
                f"input {variable.name!r}: shape {array.shape} given, (n, "
                f"{', '.join(map(str, shape))}) expected"
            )
        named[variable.name] = array.reshape(count, *shape)
    return named


def predict(model: Any, x: Any) -> Any:
    """Outputs as hls4ml gives them: [n, elements], a list if several; one sample without n."""
    session, _ = session_of(model)
    return _arranged(model, session.run(feeds(model, x)))


def _arranged(model: Any, results: dict[str, Array]) -> Any:
    values = [results[name] for name in results]
    flat = [v.reshape(len(v), -1) for v in values[: len(model.get_output_variables())]]
    flat = [v[0] if len(v) == 1 else v for v in flat]
    return flat[0] if len(flat) == 1 else flat


def trace(model: Any, x: Any) -> tuple[Any, dict[str, Array]]:
    """(outputs, layer name → its outputs [n, ...]), real values, of all layers.

    Where the configuration sets Trace for some layers, only these; inputs and constants are none,
    as in hls4ml's own trace. A layer's result is taken before anything is merged with it, so it is
    what `predict` would give for a model that ends there.
    """
    session, found = session_of(model, trace=True)
    results = session.run(feeds(model, x))
    computing = [x for x in model.get_layers() if x.class_name not in ("Input", "Constant")]
    chosen = [layer for layer in computing if layer.get_attr("trace", False)]
    traced: dict[str, Array] = {}
    for layer in chosen or computing:
        name, frac = found.tensors[layer.outputs[0]]
        values = results[name]
        traced[layer.name] = values if frac is None else np.ldexp(values.astype(np.float64), -frac)
    return _arranged(model, results), traced


def write(model: Any) -> Path:
    """Writes the program (NAME.weft) and the notes on its layers to the output folder."""
    program, found = program_of(model)
    folder = Path(model.config.get_output_dir())
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{model.config.get_project_name()}.weft"
    program.save(path)
    notes = [asdict(note) for note in found.notes]
    (folder / "layers.json").write_text(json.dumps(notes, indent=1) + "\n")
    return path


def compile_model(model: Any) -> str:
    """Path of the compiled simulation, which hls4ml loads; the model's sessions start anew."""
    from weft.build import library

    for session, _ in model.__dict__.pop("_weft_sessions", {}).values():
        session.close()
    session_of(model)
    return str(library(load_overlay(_overlay(model)), "functional"))


def build(model: Any, **options: Any) -> Outcome:
    """Writes the program and the Vitis and Vivado project of its overlay; runs the tools if there.

    The project is in the folder bitstream/ of the output folder. Raises BuildError.
    """
    from weft import project
    from weft.vendor import run

    config = model.config
    write(model)
    plan = project.plan(
        config.get_config_value("Overlay", "lab"),
        config.get_config_value("Board", "KV260"),
        force=bool(options.pop("force", False)),
    )
    return run.run(plan, Path(config.get_output_dir()) / "bitstream")


def register(
    *, register_backend: Callable[..., None], register_writer: Callable[..., None]
) -> None:
    """Called by hls4ml through the entry point: adds the writer, then the backend."""
    from weft.frontend.hls4ml_plugin import WeftBackend, WeftWriter

    register_writer("Weft", WeftWriter)
    register_backend("Weft", WeftBackend)
