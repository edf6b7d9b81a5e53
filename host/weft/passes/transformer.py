"""What exporters write out of Transformers, as one node each: norms and attention."""

from __future__ import annotations

from collections.abc import Callable

from weft.graph import Graph, Node
from weft.passes.attention import bare_inputs, join_attention
from weft.passes.edit import Edit
from weft.passes.linears import (
    narrow_linear,
    pure_moves,
    straight_linear,
    unit_transpose,
    whole_gather,
    zero_row,
)
from weft.passes.norms import fold_affine, join_norm
from weft.passes.windows import early_windows, join_windows

RULES: tuple[Callable[[Edit, Node], bool], ...] = (
    join_norm,
    fold_affine,
    join_attention,
    join_windows,
    early_windows,
    unit_transpose,
    whole_gather,
    pure_moves,
    straight_linear,
    bare_inputs,
    narrow_linear,
    zero_row,
)


def join_transformer(graph: Graph) -> Graph:
    """The graph with LayerNorm, RMSNorm and Attention where it spells them out; verified.

    Results are the same but for the rounding of float32. What is quantized between is left alone.
    """
    changed = True
    while changed:
        changed = False
        for rule in RULES:
            edit = Edit(graph)
            for node in edit.snapshot():
                changed |= edit.alive(node) and rule(edit, node)
            graph = edit.graph().pruned()
    return graph.verify()
