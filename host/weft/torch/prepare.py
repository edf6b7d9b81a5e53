"""A float module → the same module with roundings in it, ready to be trained."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import fx, nn
from torch.nn.utils import parametrize

from weft import formats
from weft.errors import InputError, UsageError, unknown
from weft.torch import tracing
from weft.torch.activations import ActivationQuant
from weft.torch.weights import BiasQuant, WeightQuant

BINARY = ("binary", "binary01")
BATCH = 64  # samples of one tensor that are calibrated at a time


def prepare(
    module: nn.Module,
    weights: str | None = "int4",
    activations: str | None = "int8",
    plan: Mapping[str, str | None] | None = None,
    *,
    method: str = "lsq",
    ends: str | None = "int8",
    example: torch.Tensor | None = None,
) -> fx.GraphModule:
    """A copy of `module` that rounds weights and activations as weft's hardware does.

    Conv1d, Conv2d and Linear get weights of the number format `weights`; `plan` names another one
    (None: float) for layers by their name or a pattern such as "blocks.*.fc1". `activations` is
    one of `weft.activation.ACTIVATIONS` ("int8", "int4", "flint4", ...; "binary" and "binary01"
    are BiT's, the bias before them its beta), or None for float; inputs and outputs of the module
    get `ends`. `method` is one of METHODS; where a format can't be trained by it (an int8 layer of
    a ternary network), "lsq" is used. Convolutions in groups get int8 where the hardware has
    nothing else for them.

    BatchNorm behind a layer is folded into it first, with its running statistics: so what is
    trained is what will run, and training should start from a trained float module. `example`, a
    batch of inputs, calibrates at once. The copy is trained, saved and loaded as any module is.

    Raises UsageError for unknown names, UnsupportedError for a module that can't be traced.
    """
    training = module.training
    model = tracing.trace(copy.deepcopy(module).eval())
    tracing.fold_norms(model)
    chosen = _chosen(model, weights, plan or {})
    floats = {name for name, kind in chosen.items() if kind is None}
    quantizers = _insert(model, activations, ends, floats) if activations else {}
    done: set[str] = set()
    for node, name, layer in list(tracing.layers(model)):
        kind = chosen[name]
        if kind is None or name in done:
            continue
        done.add(name)
        _quantize_layer(model, node, layer, quantizers, kind, method)
    model.train(training)
    if example is not None:
        calibrate(model, example)
    return model


def calibrate(model: nn.Module, data: torch.Tensor | Iterable[Any]) -> None:
    """Observes the ranges of activations; learned steps start anew from them.

    `data` is one tensor of inputs, or batches: tensors, or tuples whose first item is one, as a
    DataLoader gives them. Raises InputError where there are none.
    """
    quantizers = [m for m in model.modules() if isinstance(m, ActivationQuant)]
    training, seen = model.training, False
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    model.eval()
    for quantizer in quantizers:
        quantizer.base.zero_()
        quantizer.observing = True
    try:
        with torch.no_grad():
            for batch in _batches(data):
                model(batch.to(device))
                seen = True
    finally:
        for quantizer in quantizers:
            quantizer.observing = False
        model.train(training)
    if not seen:
        raise InputError("calibration data is empty: give at least one batch of inputs")


def scale_parameters(model: nn.Module) -> list[nn.Parameter]:
    """The learned factors of scales: to be left out of weight decay, as they are near 1."""
    kinds = (ActivationQuant, WeightQuant)
    return [m.factor for m in model.modules() if isinstance(m, kinds) and m.factor.requires_grad]


def _batches(data: torch.Tensor | Iterable[Any]) -> Iterator[torch.Tensor]:
    if isinstance(data, torch.Tensor):
        yield from data.split(BATCH)
        return
    for batch in data:
        yield batch if isinstance(batch, torch.Tensor) else batch[0]


def _chosen(
    model: fx.GraphModule, weights: str | None, plan: Mapping[str, str | None]
) -> dict[str, str | None]:
    """Format of each layer by name."""
    names = [name for _, name, _ in tracing.layers(model)]
    chosen: dict[str, str | None] = dict.fromkeys(names, weights)
    for pattern, kind in plan.items():
        matched = [name for name in names if fnmatchcase(name, pattern)]
        if not matched:
            raise UsageError(unknown("layer", pattern, names))
        chosen |= dict.fromkeys(matched, kind)
    return chosen


def _insert(
    model: fx.GraphModule, activations: str, ends: str | None, floats: set[str]
) -> dict[fx.Node, ActivationQuant]:
    """Puts a quantizer behind each point; the quantizer by its own node."""
    quantizers: dict[fx.Node, ActivationQuant] = {}
    for node in tracing.points(model, floats):
        end = node.op == "placeholder" or tracing.is_output(model, node)
        kind = ends if end else activations
        if kind is None:
            continue
        if kind in BINARY:
            _give_bias(model, node)
        quantizer = ActivationQuant(kind)
        quantizers[_behind(model, node, f"quant_{node.name}", quantizer)] = quantizer
    model.graph.lint()
    model.recompile()
    model.delete_all_unused_submodules()
    return quantizers


def _behind(model: fx.GraphModule, node: fx.Node, name: str, module: nn.Module) -> fx.Node:
    """Adds `module`, which all readers of `node` read instead."""
    model.add_submodule(name, module)
    readers = list(node.users)
    with model.graph.inserting_after(node):
        added = model.graph.call_module(name, (node,))
    for reader in readers:
        reader.replace_input_with(node, added)
    return added


def _give_bias(model: fx.GraphModule, node: fx.Node) -> None:
    """A bias for the layer before a binary quantizer: it is BiT's learned beta, per channel."""
    joined = tracing.activates(model, node)
    before = node.args[0] if joined else node
    for call, _, layer in tracing.layers(model):
        if call is before and layer.bias is None:
            layer.bias = nn.Parameter(torch.zeros(layer.weight.shape[0]).to(layer.weight))


def _quantize_layer(
    model: fx.GraphModule,
    node: fx.Node,
    layer: nn.Module,
    quantizers: Mapping[fx.Node, ActivationQuant],
    kind: str,
    method: str,
) -> None:
    weight: torch.Tensor = layer.weight
    try:
        quant = WeightQuant(weight, _able(layer, kind), method)
    except UsageError:
        if method == "lsq":
            raise
        quant = WeightQuant(weight, _able(layer, kind), "lsq")
    parametrize.register_parametrization(layer, "weight", quant)
    calls = sum(1 for n in model.graph.nodes if n.op == "call_module" and n.target == node.target)
    before = quantizers.get(tracing.source(model, node))
    integer = quant.format.operand != "bf16"  # its sums are float32, and so is the bias
    if layer.bias is not None and before is not None and calls == 1 and integer:
        parametrize.register_parametrization(layer, "bias", BiasQuant(layer, before))


def _able(layer: nn.Module, kind: str) -> str:
    """`kind`, or int8 where a convolution in groups can't have it."""
    groups = getattr(layer, "groups", 1)
    if groups == 1:
        return kind
    operand = formats.parse(kind).operand
    depthwise = groups == layer.weight.shape[0]
    able = operand == "int8" if depthwise else operand != "bf16"
    return kind if able else "int8"
