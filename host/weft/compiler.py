"""From a model file to a program: load, fuse, quantize, lower."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
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
Calibration = Array | Mapping[str, Array] | Sequence[str] | str | Path


def load_model(
    model: Graph | str | Path | Any,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    *,
    requant: str | None = None,
    example_inputs: Any = None,
    tokens: int | None = None,
) -> Graph:
    """The fused graph of an ONNX or TFLite file, a folder of the transformers library, a PyTorch
    module, or a Graph.

    `shapes` gives the shape, batch dimension included, of inputs that the file leaves open;
    `requant` says whose int8 kernels a TFLite model follows: float_even LiteRT's interpreter (the
    default), double_round TFLite's reference kernels; `example_inputs` are what a module is traced
    with; `tokens` is the longest sentence of a text encoder's folder. Raises ModelError,
    ShapeError, UnsupportedError; UsageError for another `requant` of an int8 TFLite model.
    """
    from weft.passes.fuse import fuse

    if not isinstance(model, Graph):
        from weft.frontend import sources

        model = sources.load(
            model, shapes, requant=requant, example_inputs=example_inputs, tokens=tokens
        )
    return fuse(model)


def is_quantized(graph: Graph) -> bool:
    """Whether activations of the graph carry scales, or are fixed-point codes on the host."""
    return graph.is_quantized or any(node.op.startswith("Fixed") for node in graph)


def compile(
    model: Graph | str | Path | Any,
    overlay: Overlay | str | Path = "lab",
    *,
    calibration: Calibration | None = None,
    calibrator: str | None = None,
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
    row_ranges: bool = False,
    sparsity: str | None = None,
    criterion: str = "magnitude",
    permute: bool = False,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    example_inputs: Any = None,
    tokens: int | None = None,
    cache: int | None = None,
    slots: int | None = None,
    source: int | None = None,
    head_scales: bool = False,
    cache_bits: int = 8,
    token_ranges: bool = False,
    states: Mapping[str, str] | None = None,
    export_qdq: str | Path | None = None,
    progress: Progress | None = None,
) -> Program:
    """The program of a model on an overlay: a file, a folder of the transformers library, a Graph,
    or a PyTorch module.

    A float model is quantized: `calibration` holds typical inputs (an array [n, ...], a dict of
    them by input name, or the path of an .npz file; of a text encoder lines of text, or the path of
    a .txt file); `calibrator` names how ranges follow from them (minmax; of decoders mse),
    `requant` the rounding (single_round if None), `symmetric` asks for zero points of 0,
    `dynamic` for ranges that need no data. A model that is quantized already keeps its scales and
    rounds as its own runtime does;
    `requant="double_round"` makes an int8 TFLite model round as TFLite's reference kernels.
    `batch` is how many samples a device run holds (as many as fit, if None). A PyTorch module is
    traced with `example_inputs`; `tokens` is the longest sentence of a text encoder (128, or what
    the model can), whose tokenizer and embeddings the program then holds. Of a decoder (a folder, a
    .gguf file, a checkpoint of llama2.c) `tokens` is how many a run takes at a time, `cache` how
    many tokens are remembered of each of `slots` texts (`weft.decoder_compiler`); `source` is the
    longest source of an encoder-decoder (a folder; `weft.pair_compiler`); `head_scales` gives each
    head of the cache a scale, `token_ranges` each token of each head a range, `cache_bits` of 4 or
    2 packs its tokens. `states` maps
    outputs of one step of a network to the inputs that take them in the next one: they stay in the
    device's memory (`weft.recurrent`). `export_qdq` names an ONNX file that gets the quantized
    network in QDQ form. `progress` hears the stages.

    `weights`, `activations` and `weight_method` choose number formats and how weights are rounded,
    `plan` (a Plan or its file) the exceptions layer by layer; these and the rest are the
    arguments of `weft.passes.quantize.quantize`.

    `sparsity` ("2:4", "csc:0.9", ...; also in plans) prunes the layers first, by `criterion`, with
    `permute` after an ordering of channels: see `weft.passes.prune.prune`. A model that is
    quantized already is pruned by magnitude.

    Raises UsageError (unknown names, no calibration), ModelError and CapacityError.
    """
    from weft.frontend import decoders, encoder_decoders
    from weft.lower import Steps, lower
    from weft.plan import read

    known = _both(states or {})
    tell = progress or _silent
    tell("loading the model")
    hardware = overlay if isinstance(overlay, Overlay) else load_overlay(overlay)
    options = {
        "requant": requant or DEFAULT_REQUANT,
        "symmetric": symmetric,
        "weights": weights,
        "activations": activations,
        "weight_method": weight_method,
        "keep_first_last": keep_first_last,
        "equalize": equalize,
        "smooth": smooth,
        "correct_bias": correct_bias,
        "row_ranges": row_ranges,
    }
    pair = encoder_decoders.is_pair(model)
    if source is not None and not pair:
        raise UsageError(f"source is for encoder-decoders, which {model} is not")
    if pair or decoders.is_decoder(model):
        options |= {"head_scales": head_scales, "token_ranges": token_ranges, "source": source}
        others = (sparsity, plan, dynamic, export_qdq, shapes, states, batch not in (None, 1))
        options |= {"tokens": tokens, "cache": cache, "slots": slots or 1, "cache_bits": cache_bits}
        return _decoder(model, hardware, any(others), calibration, calibrator, progress, options)
    if cache is not None or slots is not None or head_scales or token_ranges or cache_bits != 8:
        raise UsageError(f"slots, and what caches are like, are for decoders; {model} is none")
    graph = load_model(model, shapes, requant=requant, example_inputs=example_inputs, tokens=tokens)
    calibration = _embedded(model, graph, calibration)
    chosen = None if plan is None else read(plan)
    graph = _pruned(graph, chosen, sparsity, criterion, permute, calibration, tell)
    own = {"calibrator": calibrator or "minmax", "dynamic": dynamic, "plan": chosen}
    graph = _quantized(graph, calibration, tell, {**options, **own, "states": known})
    _export(graph, export_qdq)
    tell(f"lowering to overlay {hardware.name}")
    program = lower(graph, hardware, batch=batch, steps=Steps(known))
    return _with_assets(program.keeping(graph), model)


def _decoder(
    model: Any,
    overlay: Overlay,
    refused: bool,
    calibration: Calibration | None,
    calibrator: str | None,
    progress: Progress | None,
    options: Mapping[str, Any],
) -> Program:
    """The program of a language model; `refused` are arguments that it can't take."""
    from weft.decoder_compiler import compile_decoder
    from weft.frontend import decoders, encoder_decoders
    from weft.pair_compiler import compile_pair

    if refused:
        raise UsageError(
            f"{model} is a decoder, which is compiled without sparsity, plans, dynamic ranges, "
            "shapes, states, batches and QDQ export: slots hold several texts"
        )
    lines = _lines(model, calibration)
    own = {"calibrator": calibrator or "mse", "progress": progress, **options}
    if encoder_decoders.is_pair(model):
        if own.pop("cache_bits") != 8:
            raise UsageError(f"cache_bits of {model}: only decoders without an encoder pack theirs")
        return compile_pair(encoder_decoders.load(str(model)), overlay, calibration=lines, **own)
    del own["source"]  # there is none
    return compile_decoder(decoders.load(str(model)), overlay, calibration=lines, **own)


def _quantized(
    graph: Graph, calibration: Calibration | None, tell: Progress, options: Mapping[str, Any]
) -> Graph:
    """The graph with codes and scales; itself if it has them."""
    from weft.passes.quantize import quantize

    if not is_quantized(graph):
        data = _typical_inputs(graph, calibration, needed=not options["dynamic"])
        progress = partial(_samples, tell)
        return quantize(graph, data, progress=progress, **options)
    formats = options["weights"], options["activations"]
    if options["plan"] is not None or options["row_ranges"] or formats != ("int8", "int8"):
        raise UsageError(
            f"model {graph.name!r} is quantized already and keeps its formats: number formats, "
            "plans and ranges per row are for float models"
        )
    return graph


def _samples(tell: Progress, done: int, total: int) -> None:
    tell(f"quantizing, {done} of {total} samples")


def _both(states: Mapping[str, str]) -> dict[str, str]:
    """Both tensors of each state, output and input, by the name of the input."""
    return {name: taken for output, taken in states.items() for name in (output, taken)}


def _export(graph: Graph, path: str | Path | None) -> None:
    """Writes the quantized graph as ONNX, if there is a path for it."""
    if path is not None:
        from weft.export_qdq import export_qdq

        export_qdq(graph, path)


def _silent(stage: str) -> None:
    """Hears the stages where nobody wants to know."""


def _text_folder(model: Any) -> bool:
    from weft.frontend import transformers_folder

    named = isinstance(model, (str, Path)) and Path(model).is_dir()
    return named and transformers_folder.is_text(model)


def _embedded(model: Any, graph: Graph, calibration: Calibration | None) -> Calibration | None:
    """Calibration data of a text encoder, where they are lines, as inputs of its graph."""
    lines = calibration
    if isinstance(lines, (str, Path)):
        if Path(lines).suffix != ".txt":
            return calibration
        lines = read_lines(lines)
    if not isinstance(lines, list) or not all(isinstance(line, str) for line in lines):
        return calibration
    if not _text_folder(model):
        raise UsageError(
            f"lines of text calibrate text encoders; model {graph.name!r} takes arrays, as .npz"
        )
    from weft.text.encoder import calibration as inputs

    return inputs(model, lines, graph[graph.inputs[0]].shape[1])


def _lines(model: Any, calibration: Calibration | None) -> list[str] | None:
    """Lines of text to calibrate a decoder with."""
    if calibration is None:
        return None
    if isinstance(calibration, (str, Path)):
        return read_lines(calibration)
    if isinstance(calibration, (list, tuple)) and all(isinstance(c, str) for c in calibration):
        return list(calibration)
    raise UsageError(f"{model} is a decoder: lines of text calibrate it, or a .txt file of them")


def _with_assets(program: Program, model: Any) -> Program:
    """The program with what the host needs around it; a text encoder's tokenizer and tables."""
    if not (_text_folder(model) and (Path(model) / "tokenizer.json").is_file()):
        return program
    from weft.text.assets import assets_of

    return replace(program, assets=assets_of(model).arrays())


def read_lines(path: str | Path) -> list[str]:
    """The lines of a UTF-8 text file. Raises InputError for one that is none, or empty."""
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not a text file ({error})") from None
    if not lines:
        raise InputError(f"{path}: no lines")
    return lines


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
