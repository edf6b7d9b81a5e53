"""A trained module → the quantized graph that `weft.compile` takes.

PyTorch writes the module without its roundings as ONNX; what training has rounded is found again
in the imported graph and attached to it. Values that carry codes are found as additional outputs,
weights by a number of their own that fills them.
"""

from __future__ import annotations

import copy
import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import fx, nn
from torch.nn.utils import parametrize

from weft.errors import MissingDependency, ModelError, UnsupportedError, UsageError
from weft.frontend.onnx import load_onnx
from weft.graph import Graph, Quant
from weft.passes.attach import Weights, attach
from weft.torch import tracing
from weft.torch.activations import ActivationQuant
from weft.torch.weights import WeightQuant

MARK = 1_000_003.0  # the first layer's weights are filled with it, the next one's with one more
OPSET = 17


def export(
    module: nn.Module,
    example: torch.Tensor,
    path: str | Path | None = None,
    *,
    requant: str = "single_round",
) -> Graph:
    """The quantized graph of a module that `prepare` made: `weft.compile` takes it as it is.

    `example` is a batch of inputs, of which the shape counts. Weights are the operands and
    activations have the scales that the module computes with in eval mode; `requant` names the
    rounding of sums. Layers that are float in the plan run on the host. `path` names an ONNX file
    that gets the same network with QuantizeLinear and DequantizeLinear, for other tools.

    Raises UsageError for another module and where ranges are missing, UnsupportedError for a
    module that PyTorch can't write as ONNX, MissingDependency without the extra `compile`.
    """
    if not isinstance(module, fx.GraphModule):
        raise UsageError(
            f"a {type(module).__name__} is not what weft.torch.prepare returns: prepare it first"
        )
    skeleton = copy.deepcopy(module).eval().float()
    marks, patterns = _bare(skeleton)
    ranges, names = _taps(skeleton)
    graph = load_onnx(_onnx(skeleton, example[:1].detach().cpu().float(), names))
    kept = tuple(n for n in graph.outputs if not n.startswith("quantized:"))
    weights = {_constant(graph, mark): found for mark, found in marks.items()}
    sparse = {_constant(graph, mark): text for mark, text in patterns.items()}
    nodes = tuple(
        n.with_attrs(sparsity=sparse[n.inputs[1]]) if n.inputs[1:2] and n.inputs[1] in sparse else n
        for n in graph
    )
    made = attach(graph.replace(outputs=kept, nodes=nodes), weights, ranges, requant=requant)
    if path is not None:
        from weft.export_qdq import export_qdq

        export_qdq(made, path)
    return made


def _bare(skeleton: fx.GraphModule) -> tuple[dict[float, Weights], dict[float, str]]:
    """Takes the roundings out of layers and marks their weights; operands and sparsity by mark."""
    marks: dict[float, Weights] = {}
    patterns: dict[float, str] = {}
    for _, name, layer in list(tracing.layers(skeleton)):
        if not parametrize.is_parametrized(layer, "weight"):
            continue
        quant, weight = _parametrization(layer, "weight")
        assert isinstance(quant, WeightQuant)
        mark = MARK + len(marks)
        marks[mark] = quant.quantized(weight)
        if quant.mask is not None:
            patterns[mark] = quant.sparsity
        skeleton.set_submodule(name, _plain(layer, mark))
    return marks, patterns


def _parametrization(layer: nn.Module, name: str) -> tuple[nn.Module, torch.Tensor]:
    """What rounds a parameter, and its unrounded values."""
    found: Any = layer.parametrizations[name]
    return found[0], found.original


def _plain(layer: nn.Module, mark: float) -> nn.Module:
    """The layer without roundings, its weights filled with `mark`.

    Not by remove_parametrizations: that takes the properties from the class, which the module
    that is being exported has, too.
    """
    kind = parametrize.type_before_parametrizations(layer)
    plain = kind.__new__(kind)
    plain.__dict__ = dict(vars(layer))
    bias: Any = layer.bias
    if parametrize.is_parametrized(layer, "bias"):
        bias = nn.Parameter(_parametrization(layer, "bias")[1].detach())
    filled = nn.Parameter(torch.full_like(_parametrization(layer, "weight")[1], mark))
    plain.__dict__ |= {"_parameters": {"weight": filled, "bias": bias}, "_modules": {}}
    return plain


def _taps(skeleton: fx.GraphModule) -> tuple[dict[str, Quant], list[str]]:
    """Takes the quantizers out; ranges by tensor name, and the names of all outputs.

    What a quantizer read becomes an output, unless it is an input or an output already.
    """
    nodes = skeleton.graph.nodes
    found: dict[fx.Node, Quant] = {}
    for node in list(nodes):
        if node.op != "call_module":
            continue
        quantizer = skeleton.get_submodule(str(node.target))
        if isinstance(quantizer, ActivationQuant):
            found[node.args[0]] = quantizer.quant()
            node.replace_all_uses_with(node.args[0])
            skeleton.graph.erase_node(node)
    end = next(n for n in nodes if n.op == "output")
    results = end.args[0] if isinstance(end.args[0], (tuple, list)) else (end.args[0],)
    if not all(isinstance(r, fx.Node) for r in results) or len(set(results)) < len(results):
        raise UnsupportedError("a module's outputs must be tensors, or a tuple of different ones")
    names = {r: "y" if len(results) == 1 else f"y{i}" for i, r in enumerate(results)}
    added = [n for n in found if n.op != "placeholder" and n not in names]
    names.update({n: f"quantized:{n.name}" for n in added})
    end.args = ((*results, *added),)
    skeleton.graph.lint()
    skeleton.recompile()
    inputs = {n: str(n.target) for n in nodes if n.op == "placeholder"}
    return {(inputs | names)[n]: span for n, span in found.items()}, list(names.values())


def _onnx(skeleton: fx.GraphModule, example: torch.Tensor, names: list[str]) -> bytes:
    inputs = [str(n.target) for n in skeleton.graph.nodes if n.op == "placeholder"]
    if len(inputs) != 1:
        raise UnsupportedError(f"the module has inputs {inputs}; one input can be exported")
    file = io.BytesIO()
    try:
        with warnings.catch_warnings():
            # The exporter that traces: it needs no further package and takes a tenth of the time
            # of the one that its deprecation warning recommends.
            warnings.simplefilter("ignore")
            torch.onnx.export(
                skeleton.cpu(),
                (example,),
                file,
                input_names=inputs,
                output_names=names,
                opset_version=OPSET,
                dynamo=False,
            )
    except ImportError as error:
        raise MissingDependency(
            f"export goes through ONNX ({error}): pip install 'weft[compile]'"
        ) from error
    except Exception as error:
        raise UnsupportedError(
            f"PyTorch can't write the module as ONNX: {type(error).__name__}: {error}"
        ) from error
    return file.getvalue()


def _constant(graph: Graph, mark: float) -> str:
    """Name of the constant that is filled with `mark`."""
    for name, tensor in graph.tensors.items():
        data: Any = tensor.data
        whole = data is not None and data.dtype.kind == "f" and data.size
        if whole and data.flat[0] == mark and np.all(data == mark):
            return name
    raise ModelError(
        f"layer {int(mark - MARK)} of the module is not in its ONNX form as a Conv or Linear"
    )
