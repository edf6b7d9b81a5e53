"""What is known while nodes become stages: where every tensor lies, and what reads it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from weft import activation
from weft.config import Overlay
from weft.errors import ShapeError
from weft.graph import Array, Graph, Node, Quant
from weft.lower.activations import packed_epilogue
from weft.lower.engines import packed_bits, precisions
from weft.lower.geometry import HERE, OPERAND, UNIFIED, WIDE, Map, Place, Value
from weft.lower.layout import RELABELS, relabeled, wish
from weft.lower.stage import FunctionOp, HostOnlyError, MergeOp, Op, RotateOp, Rotation, Stage
from weft.lower.weights import is_float
from weft.pack import extents
from weft.program import Layer, Layout, Unfold

if TYPE_CHECKING:
    from weft.lower.pairs import Kept


def key_of(node: Node) -> str:
    """What tells a node from all others: its first output. Names need not be unique."""
    return next(name for name in node.outputs if name)


@dataclass
class Context:
    """The graph, the overlay, and the values and maps found so far.

    `hosted` are the maps that the host writes; `unfolds` those that it gathers taps for;
    `constants` hold int16 words of the wide buffer that the weight stream brings. `refused` are
    Attention nodes that run on the host, and why; `tokens` names for tensors what their second
    dimension counts, where a run may have less of it, and `fixed` are the names for which it may
    not. `quants` are of outputs that something else is added to before they become codes; `known`
    are the weights that layers have so far, by constant and by how they read it.

    `cached` is the number of tokens that caches hold, 0 without any: then fields follow the
    registers of a run; there is one cache for each of `slots` texts. `caches` are their maps in
    memory, `magnitudes` the heads, and a text's words of each, of what lies beside them
    (`weft.lower.token_ranges`); `kept` maps that an encoder gives, of which each text has its own
    (`weft.lower.pairs`), `sources` the inputs whose tokens are those of a source; `rotations` what
    makes codes of the int16 that keys and values are of; `tables` words of int16 per position, in
    weight memory.
    """

    graph: Graph
    overlay: Overlay
    refused: Mapping[str, str] = field(default_factory=dict)
    tokens: Mapping[str, str] = field(default_factory=dict)
    fixed: set[str] = field(default_factory=set)
    cached: int = 0
    slots: int = 1
    kept: dict[str, Kept] = field(default_factory=dict)
    sources: frozenset[str] = frozenset()
    constants: dict[str, Array] = field(default_factory=dict)
    caches: dict[str, tuple[Map, Quant]] = field(default_factory=dict)
    magnitudes: dict[str, tuple[int, int]] = field(default_factory=dict)
    rotations: dict[str, Rotation] = field(default_factory=dict)
    tables: dict[str, Array] = field(default_factory=dict)
    quants: dict[str, Quant] = field(default_factory=dict)
    known: dict[tuple[object, ...], Any] = field(default_factory=dict)
    values: dict[str, Value] = field(default_factory=dict)
    maps: dict[str, Map] = field(default_factory=dict)
    hosted: set[str] = field(default_factory=set)
    recalled: set[str] = field(default_factory=set)
    unfolds: dict[str, Unfold] = field(default_factory=dict)
    consumers: dict[str, list[Node]] = field(init=False)

    def __post_init__(self) -> None:
        self.consumers = self.graph.consumers()

    @property
    def lanes(self) -> int:
        """int8 values per word."""
        return self.overlay.lanes

    @property
    def cache_bits(self) -> int:
        """Bits of what caches keep (`weft.lower.packed_rows`): the same in all layers."""
        nodes = (n for n in self.graph if n.op == "Attention" and n.attrs.get("cache"))
        return min((int(n.attrs.get("cache_bits", 8)) for n in nodes), default=8)

    def quant(self, name: str) -> Quant:
        """Quantization of an activation. Raises HostOnlyError if it has none."""
        if name in self.quants:
            return self.quants[name]
        tensor = self.graph[name]
        if tensor.quant is None:
            raise HostOnlyError(f"{name!r} is not quantized")
        if tensor.quant.format == activation.REAL:
            raise HostOnlyError(f"{name!r} is real: bf16 activations run on the host")
        if tensor.quant.axis is not None or np.size(tensor.quant.scale) != 1:
            raise HostOnlyError(f"{name!r} has a scale per channel")
        return tensor.quant

    def raw_value(self, name: str) -> Value:
        """Where an activation lies; one that the host writes gets its place now."""
        if name in self.values:
            return self.values[name]
        tensor = self.graph[name]
        quant = self.quant(name)
        if tensor.data is not None:
            raise HostOnlyError(f"{name!r} is a constant")
        if tensor.shape[:1] != (1,):
            raise HostOnlyError(f"{name!r} has shape {tensor.shape}, without a batch of 1 first")
        layout = wish(self.graph, self.consumers, name)
        layout = replace(layout, bits=16) if self.is_wide(name) else layout
        self.values[name] = Value(name, layout, quant)
        self.maps[name] = self.map_of(layout, name)
        self.hosted.add(name)
        return self.values[name]

    def value(self, name: str) -> Value:
        """Where an activation lies, with one entry of `layout.dims` per dimension."""
        value = self.raw_value(name)
        if len(value.layout.dims) != len(self.graph[name].shape):
            raise HostOnlyError(f"{name!r} lies flattened, for another reader")
        if value.root in self.unfolds:
            raise HostOnlyError(f"{name!r} lies unfolded, for another reader")
        return value

    def alias(self, node: Node) -> None:
        """Gives the output of a relabelling the map of its input, and the meaning of its codes."""
        value = self.raw_value(node.inputs[0])
        out = node.outputs[0]
        if self.is_wide(out) != self.is_wide(value.root):
            raise HostOnlyError(f"{node.op} of int16 to int8, or back")
        layout = relabeled(value.layout, node, self.graph[out].shape)
        self.values[out] = Value(value.root, layout, value.quant)

    def packed(self, name: str, layout: Layout) -> Layout:
        """The layout of an activation, with codes side by side in bytes where all its readers are
        products on engines that take it so. What the host writes keeps a byte per code.
        """
        bits = packed_bits(self.quant(name).format, self.overlay)
        if bits == 8 or name in self.graph.outputs or not self._multiplied(name, bits):
            return layout
        return replace(layout, bits=bits)

    def _multiplied(self, name: str, bits: int) -> bool:
        """Whether every reader of `name` is a product that an engine makes of packed codes."""
        readers = self.consumers.get(name, [])
        return bool(readers) and all(self._multiplies(node, name, bits) for node in readers)

    def _multiplies(self, node: Node, name: str, bits: int) -> bool:
        if node.op not in ("Conv", "Linear") or node.inputs[0] != name:
            return False
        quant = self.graph[node.inputs[1]].quant
        if quant is None or int(node.attrs.get("group", 1)) != 1:
            return False
        x, shape = self.quant(name), self.graph[name].shape
        if x.format == "binary" and any(node.attrs.get("pads") or ()):
            return False  # no code of ±1 stands for the 0 outside the map
        if node.op == "Linear" and len(shape) != 2:
            return False
        channels = shape[1] if len(shape) > 1 else 1
        found = precisions(self.overlay, x.format, bits, quant, channels)
        return any(p.activation_bits == bits for p in found)

    def map_of(self, layout: Layout, name: str) -> Map:
        """Extent of tensor `name` in words, and the buffer that it lies in."""
        space, tokens = self.space(name), self.tokens.get(name, "")
        if tokens and (layout.width != 1 or layout.dims[1:2] != (("h",),)):
            self.fixed.add(tokens)
        unit = self.lanes if space == OPERAND else 1
        blocks, slack = layout.blocks(self.lanes), self._slack(name) if space == OPERAND else 0
        return Map(blocks, layout.height, layout.width, False, space, unit, tokens, slack)

    def is_wide(self, name: str) -> bool:
        """Whether an activation is int16."""
        tensor = self.graph[name]
        quant = tensor.quant if tensor.data is None else None
        return quant is not None and quant.format == activation.WIDE

    def space(self, name: str) -> int:
        """The buffer of a tensor: int16 in the wide one, keys and values of attention that runs
        on the accelerator in the operand buffer. Raises HostOnlyError where there is none.
        """
        if self.is_wide(name):
            if not self.overlay.wide_words:
                raise HostOnlyError(f"{name!r} is int16, and the overlay has no wide buffer")
            return WIDE
        readers = self.consumers.get(name, [])
        if name in self.graph.outputs or not readers:
            return UNIFIED
        return OPERAND if all(self._streams(node, name) for node in readers) else UNIFIED

    def _streams(self, node: Node, name: str) -> bool:
        """Whether a node is attention on the accelerator that reads `name` as keys or values."""
        if node.op != "Attention" or name == node.inputs[0] or key_of(node) in self.refused:
            return False
        return "attention" in self.overlay.units

    def _slack(self, name: str) -> int:
        """Words that the last window of keys or values lacks to whole tiles."""
        found = 0
        for node in self.consumers.get(name, []):
            count = int(node.attrs.get("windows", 1))
            if count > 1:
                found = max(found, -(self.graph[name].shape[1] // count) % self.lanes)
        return found

    def place(self, name: str, base: int, rows: int, origin: int, space: int) -> Place:
        """Where rows origin..origin+rows-1 of a map lie, in a buffer that may not be its own."""
        place = self.maps[name].place(base, rows, origin)
        return place if space == place.space else replace(place, space=space, unit=1, slack=0)

    def weights(self, node: Node, index: int) -> Array:
        """What the array multiplies with: int64, or float32 where the format's numbers are bf16.

        Raises HostOnlyError if they are no quantized constant.
        """
        tensor = self.graph[node.inputs[index]]
        if tensor.data is None:
            raise HostOnlyError("weights that are no constant")
        quant = tensor.quant
        if quant is not None and tensor.data.dtype.kind == "f" and is_float(quant):
            return tensor.data.astype(np.float32)
        if quant is None or tensor.data.dtype.kind not in "iu" or quant.zero_point:
            raise HostOnlyError("weights that are not quantized symmetrically")
        return tensor.data.astype(np.int64)

    def constant(self, name: str) -> Array | None:
        """Real values of a constant operand; None for an activation."""
        tensor = self.graph[name]
        return None if tensor.data is None else np.asarray(tensor.real(), np.float64)

    def unfoldable(self, name: str) -> bool:
        """Whether the host writes the map of `name` and nothing else reads it."""
        root = self.values[name].root
        return root in self.hosted and root not in self.unfolds and self.sole_reader(name)

    def sole_reader(self, name: str) -> bool:
        """Whether a single node reads the map of `name`, through relabellings or as it is."""
        seen = self.values[name].root
        while True:
            readers = self.consumers.get(seen, [])
            if len(readers) != 1 or seen in self.graph.outputs:
                return False
            if seen == name:
                return True
            if readers[0].op not in RELABELS:
                return False
            seen = readers[0].outputs[0]

    def unfold(self, root: str, unfold: Unfold) -> None:
        """The host shall gather the taps of `root` into lanes."""
        self.unfolds[root] = unfold
        self.maps[root] = Map(1, unfold.height, unfold.width)

    def check_shape(self, node: Node, layout: Layout) -> None:
        """Raises ShapeError if the output that `layout` describes is not what the graph says."""
        size = extents(layout)
        found = tuple(int(np.prod([size[c] for c in dim])) for dim in layout.dims)
        shape = self.graph[node.outputs[0]].shape
        if found != shape:
            raise ShapeError(
                f"{node.op} {node.name!r} gives {found}, but {node.outputs[0]!r} is declared "
                f"{shape}"
            )

    def stage(
        self,
        node: Node,
        y: Quant,
        layout: Layout,
        ops: tuple[Op, ...],
        *,
        engine: str,
        macs: int = 0,
        weight_bytes: int = 0,
    ) -> Stage:
        """A stage that writes the output of `node`, which becomes known with that."""
        self.check_shape(node, layout)
        out = node.outputs[0]
        wanted = self.packed(out, layout)
        if self.is_wide(out):
            layout = replace(layout, bits=16)
        elif wanted.bits < 8 and len(ops) == 1 and ops[0].target == HERE:
            (op,) = ops
            assert not isinstance(op, RotateOp | MergeOp | FunctionOp), "no engine takes it packed"
            done = packed_epilogue(op.epilogue, y.format, wanted.bits)
            ops, layout = (replace(op, epilogue=done),), wanted
        self.values[out] = Value(out, layout, y)
        self.maps[out] = self.map_of(layout, out)
        true, padded = node.attrs.get("true", (1, 1))  # of what `pad_heads` has made larger
        macs, weight_bytes = (int(n) * true // padded for n in (macs, weight_bytes))
        layer = Layer(node.name or out, node.op, engine, macs, weight_bytes)
        note = "; ".join(node.attrs.get("notes", ()))
        return Stage(out, ops, layer, (key_of(node),), note)
