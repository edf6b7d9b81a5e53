"""Where a traced module is quantized: the points at which weft keeps codes."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from typing import Any

from torch import fx, nn
from torch.nn.utils import fusion

from weft.errors import UnsupportedError

LAYERS = (nn.Conv1d, nn.Conv2d, nn.Linear)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
ACTIVATIONS = (nn.ReLU, nn.ReLU6, nn.Hardtanh, nn.LeakyReLU, nn.PReLU)
COMPUTES = (*LAYERS, nn.AvgPool1d, nn.AvgPool2d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d)
MOVES = (
    nn.MaxPool1d,
    nn.MaxPool2d,
    nn.AdaptiveMaxPool2d,
    nn.Flatten,
    nn.Unflatten,
    nn.Identity,
    nn.Dropout,
    nn.Dropout1d,
    nn.Dropout2d,
    nn.PixelShuffle,
    nn.ZeroPad2d,
)
FUNCTIONS = (nn.Sigmoid, nn.Tanh, nn.SiLU, nn.GELU, nn.Hardswish, nn.Hardsigmoid, nn.ELU)

# Functions and methods by name: torch.relu, F.relu, x.relu() and x.relu_() are one.
ACTIVATION_NAMES = {"relu", "relu6", "hardtanh", "leaky_relu", "prelu", "clamp", "clip"}
COMPUTE_NAMES = {"add", "sub", "mul", "cat", "concat", "avg_pool1d", "avg_pool2d"} | {
    f"adaptive_avg_pool{n}d" for n in (1, 2)
}
MOVE_NAMES = {
    "max_pool1d", "max_pool2d", "flatten", "reshape", "view", "permute", "transpose", "squeeze",
    "unsqueeze", "getitem", "dropout", "pixel_shuffle", "contiguous", "chunk", "split", "narrow",
}  # fmt: skip
SIZE_NAMES = {"size", "dim", "getattr", "len", "numel", "ndimension"}
FUNCTION_NAMES = {"sigmoid", "tanh", "silu", "gelu", "hardswish", "hardsigmoid", "elu"}


def trace(module: nn.Module) -> fx.GraphModule:
    """The module as a graph. Raises UnsupportedError where its path depends on data."""
    try:
        return fx.symbolic_trace(module)
    except Exception as error:
        raise UnsupportedError(
            f"{type(module).__name__} can't be traced ({type(error).__name__}: {error}): its "
            "forward depends on values; prepare the part of it that does not"
        ) from error


def name_of(node: fx.Node) -> str:
    """Name of the function or method that a node calls."""
    target = node.target
    name = target if isinstance(target, str) else getattr(target, "__name__", "")
    return name.rstrip("_").lstrip("_")


def is_a(model: fx.GraphModule, node: fx.Node, kinds: tuple[type, ...], names: set[str]) -> bool:
    """Whether a node calls a module of `kinds`, or a function or method of `names`."""
    if node.op == "call_module":
        return isinstance(model.get_submodule(str(node.target)), kinds)
    return node.op in ("call_function", "call_method") and name_of(node) in names


def computes(model: fx.GraphModule, node: fx.Node) -> bool:
    """Whether a node has sums of its own, so that its output gets a range of its own."""
    if node.op == "call_function" and node.target in (operator.add, operator.sub, operator.mul):
        return True
    spatial = name_of(node) == "mean" and node.op in ("call_function", "call_method")
    return spatial or is_a(model, node, COMPUTES, COMPUTE_NAMES | {"iadd"})


def activates(model: fx.GraphModule, node: fx.Node) -> bool:
    """Whether a node is an activation that joins the one before it."""
    return is_a(model, node, ACTIVATIONS, ACTIVATION_NAMES)


def moves(model: fx.GraphModule, node: fx.Node) -> bool:
    """Whether a node passes on codes."""
    return is_a(model, node, MOVES, MOVE_NAMES)


def is_function(model: fx.GraphModule, node: fx.Node) -> bool:
    """Whether a node is a function of single elements, a lookup on the accelerator."""
    return is_a(model, node, FUNCTIONS, FUNCTION_NAMES)


def layers(model: fx.GraphModule) -> Iterator[tuple[fx.Node, str, nn.Module]]:
    """Call, name and module of each Conv1d, Conv2d and Linear."""
    for node in model.graph.nodes:
        if node.op == "call_module":
            module = model.get_submodule(str(node.target))
            if isinstance(module, LAYERS):
                yield node, str(node.target), module


def fold_norms(model: fx.GraphModule) -> None:
    """BatchNorm behind a layer of which it is the only reader goes into its weights and bias."""
    for node in list(model.graph.nodes):
        if not is_a(model, node, NORMS, set()):
            continue
        before = node.args[0]
        if not is_a(model, before, LAYERS, set()) or len(before.users) > 1:
            continue
        uses = sum(1 for n in model.graph.nodes if n.target == before.target)
        layer, norm = (model.get_submodule(str(n.target)) for n in (before, node))
        if uses > 1 or norm.running_var is None:
            continue
        fold: Callable[..., nn.Module] = (
            fusion.fuse_linear_bn_eval if isinstance(layer, nn.Linear) else fusion.fuse_conv_bn_eval
        )
        if isinstance(layer, nn.Linear) and isinstance(norm, nn.BatchNorm2d):
            continue
        model.set_submodule(str(before.target), fold(layer.eval(), norm.eval()))
        node.replace_all_uses_with(before)
        model.graph.erase_node(node)
    model.graph.lint()
    model.recompile()
    model.delete_all_unused_submodules()


def points(model: fx.GraphModule, floats: set[str]) -> list[fx.Node]:
    """Nodes whose outputs are codes on the accelerator, in order: each gets a range.

    What computes, after its activation; functions; and what feeds a node that computes, be it an
    input or an operator of the host, behind nodes that only move it. Layers in `floats` are such
    operators.
    """

    def integer(node: fx.Node) -> bool:
        return computes(model, node) and str(node.target) not in floats

    found: list[fx.Node] = []
    sizes: set[fx.Node] = set()
    for node in model.graph.nodes:
        if _is_size(node, sizes):
            sizes.add(node)
        if node in sizes or node.op in ("output", "get_attr") or moves(model, node):
            continue
        if integer(node) or is_function(model, node) or activates(model, node):
            joined = [u for u in node.users if activates(model, u)]
            alone = computes(model, node) and len(node.users) == 1 and len(joined) == 1
            if not alone:
                found.append(node)
        elif any(integer(user) for user in _readers(model, node)):
            found.append(node)
    return found


def _is_size(node: fx.Node, sizes: set[fx.Node]) -> bool:
    """Whether a node computes with sizes, not with values."""
    if node.op not in ("call_function", "call_method"):
        return False
    inputs = node.all_input_nodes
    return name_of(node) in SIZE_NAMES or (bool(inputs) and all(n in sizes for n in inputs))


def _readers(model: fx.GraphModule, node: fx.Node) -> Iterator[fx.Node]:
    """Nodes that read `node`, through those that only move it."""
    for user in node.users:
        yield user
        if moves(model, user) and user.args[0] is node:
            yield from _readers(model, user)


def source(model: fx.GraphModule, node: fx.Node) -> Any:
    """The node whose range the first input of `node` has, behind nodes that only move it."""
    before = node.args[0]
    while isinstance(before, fx.Node) and moves(model, before):
        before = before.args[0]
    return before


def is_output(model: fx.GraphModule, node: fx.Node) -> bool:
    """Whether `node` is an output of the module, moved or not."""
    return any(user.op == "output" for user in _readers(model, node))
