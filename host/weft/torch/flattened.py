"""Linear layers that read a flattened map: how many channels it has, as N:M groups are of those.

Flattened [C, H, W] counts pixels fastest, so consecutive inputs of such a layer are pixels of one
channel; the accelerator reads channels side by side (weft.pruning.pixels).
"""

from __future__ import annotations

import copy

import torch
from torch import fx, nn
from torch.fx.passes.shape_prop import ShapeProp

from weft.errors import UnsupportedError, UsageError
from weft.torch import tracing
from weft.torch.activations import ActivationQuant

KEPT = (*tracing.ACTIVATIONS, *tracing.FUNCTIONS, *tracing.NORMS, ActivationQuant)
POOLED = (
    nn.MaxPool1d, nn.MaxPool2d, nn.AvgPool1d, nn.AvgPool2d, nn.AdaptiveAvgPool1d,
    nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.ZeroPad2d,
)  # fmt: skip
DROPPED = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, ActivationQuant)
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.ConvTranspose1d, nn.ConvTranspose2d)
KEPT_NAMES = (
    tracing.ACTIVATION_NAMES
    | tracing.FUNCTION_NAMES
    | {"add", "iadd", "sub", "mul", "dropout", "contiguous", "batch_norm", "max_pool1d"}
    | {"max_pool2d", "avg_pool1d", "avg_pool2d", "adaptive_avg_pool1d", "adaptive_avg_pool2d"}
)
FLAT_NAMES = {"flatten", "reshape", "view"}
DROPPED_NAMES = {"dropout", "contiguous", "squeeze", "unsqueeze"}


def channels(module: nn.Module, example: torch.Tensor | None = None) -> dict[str, int]:
    """Channels of the map that a Linear reads flattened, by the layer's name; others are not in it.

    `example`, a batch of inputs, tells the shapes; without it they are those of the convolution
    that the map comes from. Inputs of the network that are flattened count as vectors, since the
    host lays them out as their reader wants them. A module that can't be traced has no maps that
    are known. Raises UsageError for a map whose channels only an example can tell.
    """
    try:
        model = module if isinstance(module, fx.GraphModule) else tracing.trace(module)
    except UnsupportedError:
        return {}
    shapes = {} if example is None else _shapes(model, example)
    found = {}
    for node, name, layer in tracing.layers(model):
        if isinstance(layer, nn.Linear):
            own = _of_map(model, node, layer, shapes)
            if own and own < layer.in_features and layer.in_features % own == 0:
                found[name] = own
    return found


def _shapes(model: fx.GraphModule, example: torch.Tensor) -> dict[str, torch.Size]:
    """Shape of each node's tensor."""
    # A copy in eval mode: neither running statistics nor ranges of activations may change.
    seen = copy.deepcopy(model).eval()
    with torch.no_grad():
        ShapeProp(seen).propagate(example[:1])
    found = {n.name: n.meta.get("tensor_meta") for n in seen.graph.nodes}
    return {name: meta.shape for name, meta in found.items() if hasattr(meta, "shape")}


def _of_map(
    model: fx.GraphModule, node: fx.Node, layer: nn.Linear, shapes: dict[str, torch.Size]
) -> int | None:
    """Channels of what `node` reads flattened; None where that is no map."""
    before, flat = node.args[0], False
    while isinstance(before, fx.Node):
        flattens = tracing.is_a(model, before, (nn.Flatten,), FLAT_NAMES)
        if not (flattens or tracing.is_a(model, before, DROPPED, DROPPED_NAMES)):
            break
        flat = flat or (flattens and _to_vectors(model, before))
        before = before.args[0]
    if not flat or not isinstance(before, fx.Node) or before.op == "placeholder":
        return None
    if shapes:
        shape = shapes.get(before.name, torch.Size())
        whole = len(shape) > 2 and shape[1:].numel() == layer.in_features
        return int(shape[1]) if whole else None
    known = _of_convolution(model, before)
    if known is None:
        raise UsageError(
            f"layer {node.target!s} reads {before.name!r} flattened, whose channels are not known: "
            "give example=, a batch of inputs"
        )
    return known


def _to_vectors(model: fx.GraphModule, node: fx.Node) -> bool:
    """Whether a node makes one vector of each sample."""
    if node.op == "call_module":
        return getattr(model.get_submodule(str(node.target)), "start_dim", 1) == 1
    if tracing.name_of(node) == "flatten":
        return (node.args[1] if len(node.args) > 1 else node.kwargs.get("start_dim", 0)) == 1
    sizes = node.args[1:]
    if len(sizes) == 1 and isinstance(sizes[0], (tuple, list)):
        sizes = tuple(sizes[0])
    return len(sizes) == 2


def _of_convolution(model: fx.GraphModule, node: object) -> int | None:
    """Channels of the convolution that a map comes from, through what keeps them; None: of none."""
    while isinstance(node, fx.Node):
        if node.op == "call_module":
            layer = model.get_submodule(str(node.target))
            if isinstance(layer, CONVOLUTIONS):
                return int(layer.out_channels)
        if not tracing.is_a(model, node, (*KEPT, *POOLED, *DROPPED), KEPT_NAMES):
            return None
        node = next(iter(node.all_input_nodes), None)
    return None
