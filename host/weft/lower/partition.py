"""Which node runs where: nodes become stages one by one; what can't stays with the host."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from weft import ops
from weft.config import Overlay
from weft.graph import Graph, Node
from weft.lower.attention import lower_attention
from weft.lower.cached import lower_cached
from weft.lower.context import Context, key_of
from weft.lower.conv import lower_conv, lower_conv_bytes, lower_linear, lower_linear_bytes
from weft.lower.epilogue import check_activation
from weft.lower.function import (
    lookup_table,
    lower_prelu,
    lower_unary,
    variable_input,
    with_lookup,
)
from weft.lower.gated import lower_gated
from weft.lower.layout import RELABELS
from weft.lower.movement import (
    lower_concat,
    lower_depth_to_space,
    lower_pad,
    lower_resize,
    lower_slice,
)
from weft.lower.norm import copy_of_norm, lower_norm
from weft.lower.residual import lower_residual
from weft.lower.rotate import lower_rotate
from weft.lower.stage import FunctionOp, HostOnlyError, MergeOp, RotateOp, Stage
from weft.lower.tokens import token_axes
from weft.lower.vector import lower_binary, lower_pool
from weft.lower.wide_function import lower_wide_function
from weft.lower.windows import lower_merge, lower_windows
from weft.passes.placement import coded
from weft.passes.stream import copies, reads_wide


def _attention(context: Context, node: Node) -> Stage:
    return (lower_cached if node.attrs.get("cache") else lower_attention)(context, node)


LOWERINGS: dict[str, Callable[[Context, Node], Stage]] = {
    "Conv": lower_conv,
    "ConvBytes": lower_conv_bytes,
    "Linear": lower_linear,
    "LinearBytes": lower_linear_bytes,
    "MaxPool": lower_pool,
    "AveragePool": lower_pool,
    "GlobalAveragePool": lower_pool,
    "GlobalMaxPool": lower_pool,
    "Add": lower_binary,
    "Sub": lower_binary,
    "Mul": lower_binary,
    "PRelu": lower_prelu,
    "Concat": lower_concat,
    "Slice": lower_slice,
    "Pad": lower_pad,
    "Resize": lower_resize,
    "DepthToSpace": lower_depth_to_space,
    "Attention": _attention,
    "LayerNorm": lower_norm,
    "RMSNorm": lower_norm,
    "Windows": lower_windows,
    "PatchMerge": lower_merge,
}


JOINED = {"Add": lower_residual, "Mul": lower_gated}  # of int16, with the layer in front

UNITS = {
    "Attention": "attention",
    "LayerNorm": "norm",
    "RMSNorm": "norm",
    "Rope": "rotate",
}  # that overlays may lack


@dataclass(frozen=True)
class Placement:
    """Where a node runs, on what, and why there."""

    node: Node
    where: str  # "accelerator" or "host"
    engine: str
    why: str

    @property
    def name(self) -> str:
        """The node's name."""
        return self.node.name

    @property
    def op(self) -> str:
        """The node's operator."""
        return self.node.op


@dataclass
class Partition:
    """Every node's placement; the accelerator's stages by the map they write."""

    context: Context
    placements: list[Placement] = field(default_factory=list)
    stages: dict[str, Stage] = field(default_factory=dict)

    @property
    def hosted(self) -> set[str]:
        """Keys of the nodes that the host runs."""
        return {key_of(p.node) for p in self.placements if p.where == "host"}

    @property
    def attentions(self) -> set[str]:
        """Keys of the Attention nodes."""
        return {key_of(p.node) for p in self.placements if p.op == "Attention"}


def partition(graph: Graph, overlay: Overlay) -> Partition:
    """Places every node. Raises ShapeError and the like for graphs that are wrong, not hard.

    Keys and values lie elsewhere where attention runs on the accelerator. Whether it does is known
    behind them: where it does not, all is placed again.
    """
    tokens, refused = token_axes(graph), dict[str, str]()
    cached = max((int(node.attrs.get("cache", 0)) for node in graph), default=0)
    while True:
        found = Partition(Context(graph, overlay, refused, tokens, cached=cached))
        for node in graph.nodes:
            found.placements.append(_place(found, node))
        hosted = {key_of(p.node): p.why for p in found.placements if p.where == "host"}
        new = {k: hosted[k] for k in found.attentions if k in hosted and k not in refused}
        if not new:
            return found
        refused |= new


def _place(found: Partition, node: Node) -> Placement:
    known, context = dict(found.context.values), found.context
    try:
        if node.op in RELABELS and not _requantizes(context, node):
            _require_reader(context, node)
            context.alias(node)
            return Placement(node, "accelerator", "none", "relabels the map; costs nothing")
        _check(context, node)
        if node.op in JOINED and context.is_wide(node.outputs[0]):
            return _residual(found, node)
        if _requantizes(context, node):
            return _copy(found, node)
        if node.op == "Rope":
            return _rotated(found, node)
        merged = _merge(found, node)
        if merged is not None:
            return merged
        stage = _lower(context, node)
    except HostOnlyError as error:
        _forget(context, known)
        return Placement(node, "host", "numpy", str(error))
    found.stages[stage.target] = stage
    return Placement(node, "accelerator", stage.layer.engine, stage.note)


def _lower(context: Context, node: Node) -> Stage:
    """A stage by the operator's own lowering, else by a lookup table."""
    if node.op not in LOWERINGS:
        wide = context.is_wide(node.outputs[0])
        return (lower_wide_function if wide else lower_unary)(context, node)
    known = dict(context.values)
    try:
        return LOWERINGS[node.op](context, node)
    except HostOnlyError as error:
        _forget(context, known)
        try:
            return lower_unary(context, node)
        except HostOnlyError:
            raise error from None


def _check(context: Context, node: Node) -> None:
    """Raises HostOnlyError for what no lowering takes."""
    if "opset" in node.attrs:
        raise HostOnlyError(f"{node.op} has no accelerator form")
    unit = UNITS.get(node.op)
    if unit and unit not in context.overlay.units:
        raise HostOnlyError(f"overlay {context.overlay.name!r} has no unit {unit}")
    check_activation(node.attrs.get("activation"))
    for name in coded(context.graph, node):
        context.quant(name)
    wide = {n for n in (*node.inputs, *node.outputs) if n and context.is_wide(n)}
    if not reads_wide(context.graph, node, wide):
        what = "of int16, which only norms and additions read" if wide else "of what is not int16"
        raise HostOnlyError(f"{node.op} {what}")
    if node.op not in (*LOWERINGS, "Rope") and (
        node.op not in ops.OPS or ops.OPS[node.op].category not in ("elementwise", "binary")
    ):
        raise HostOnlyError(f"{node.op} has no accelerator form")


def _merge(found: Partition, node: Node) -> Placement | None:
    """Puts a function of single elements into the lookup of the stage that it reads alone."""
    context = found.context
    if context.is_wide(node.outputs[0]):
        return None
    try:
        name = variable_input(context.graph, node)
        table = lookup_table(context.graph, node, context.quant(name))
    except HostOnlyError:
        return None
    stage = found.stages.get(name)
    alone = len(context.consumers.get(name, [])) == 1 and name not in context.graph.outputs
    out = node.outputs[0]
    if stage is None or not alone or context.graph[out].shape != context.graph[name].shape:
        return None
    before = [op for op in stage.ops if not isinstance(op, RotateOp | MergeOp | FunctionOp)]
    if len(before) != len(stage.ops):
        return None
    changed = tuple(replace(op, epilogue=with_lookup(op.epilogue, table)) for op in before)
    del found.stages[name]
    found.stages[out] = replace(stage, target=out, ops=changed, nodes=(*stage.nodes, key_of(node)))
    quant = context.quant(out)
    context.values[out] = replace(context.values.pop(name), root=out, quant=quant)
    context.maps[out] = context.maps.pop(name)
    reason = f"merged into {stage.layer.name}"
    return Placement(node, "accelerator", stage.layer.engine, reason)


def _requantizes(context: Context, node: Node) -> bool:
    """Whether a node gives int8 of what is int16."""
    if not copies(context.graph, node) or context.graph[node.outputs[0]].quant is None:
        return False
    return context.is_wide(node.inputs[0]) and not context.is_wide(node.outputs[0])


def _residual(found: Partition, node: Node) -> Placement:
    """Puts an addition or product of int16 behind the layer whose output it reads alone."""
    made, gone = JOINED[node.op](found.context, node, found.stages)
    del found.stages[gone]
    found.stages[made.target] = made
    reason = f"merged into {made.layer.name}"
    return Placement(node, "accelerator", made.layer.engine, reason)


def _copy(found: Partition, node: Node) -> Placement:
    """The int8 copy of a norm's int16: the norm writes both; of other int16, its own work."""
    try:
        made, gone = copy_of_norm(found.context, node, found.stages)
    except HostOnlyError:
        if node.op != "Identity" or "rotate" not in found.context.overlay.units:
            raise
        return _rotated(found, node)
    del found.stages[gone]
    found.stages[made.target] = made
    reason = f"merged into {made.layer.name}"
    return Placement(node, "accelerator", made.layer.engine, reason)


def _rotated(found: Partition, node: Node) -> Placement:
    """A rotation: its own stage, or a part of the attention that it goes to."""
    stage = lower_rotate(found.context, node)
    if stage is None:
        return Placement(node, "accelerator", "rotate", "merged into the attention that reads it")
    found.stages[stage.target] = stage
    return Placement(node, "accelerator", stage.layer.engine, stage.note)


def _forget(context: Context, known: Mapping[str, object]) -> None:
    """Takes back what a lowering that failed has said about tensors."""
    for name in [n for n in context.values if n not in known]:
        root = context.values.pop(name).root
        if name == root:
            context.maps.pop(root, None)
            context.hosted.discard(root)
            context.unfolds.pop(root, None)


def _require_reader(context: Context, node: Node) -> None:
    """Raises HostOnlyError for relabelling of a host tensor that no accelerator node reads."""
    name = node.inputs[0]
    if name in context.values:
        return
    context.quant(name)
    seen, out = {name}, node.outputs[0]
    readers = list(context.consumers.get(out, []))
    while readers:
        reader = readers.pop()
        if reader.op in RELABELS:
            target = reader.outputs[0]
            if target not in seen:
                seen.add(target)
                readers += context.consumers.get(target, [])
        elif reader.op in LOWERINGS or _is_function(reader):
            return
    raise HostOnlyError("relabels a tensor that stays on the host")


def _is_function(node: Node) -> bool:
    spec = ops.OPS.get(node.op)
    return spec is not None and spec.category in ("elementwise", "binary")
