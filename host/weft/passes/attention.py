"""Attention that exporters write out as products, moves and a softmax: made one node again.

How q, k and v come about is found by following element numbers through the moves: whatever
reshapes, transposes and slices there are, the tensor counts as heads of a [1, S, W] tensor if its
elements lie as those would.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from weft.graph import Array, Node, Tensor
from weft.ops import OPS
from weft.passes.edit import Edit
from weft.passes.masks import MASKED, Mask, as_mask, first_keys, mask_step, of_windows

MOVES = ("Reshape", "Transpose", "Slice", "Gather", "Identity")


@dataclass(frozen=True)
class _Heads:
    """`base` [1, S, W] holds heads × width channels from `offset` on; values times `factor`."""

    base: str
    tokens: int
    offset: int
    heads: int
    width: int
    factor: float


@dataclass
class _Scores:
    """The product q kᵀ and what happens to it before the softmax: times `factor`, plus `bias`."""

    product: Node
    factor: float
    bias: Array | None
    masks: list[Mask] = field(default_factory=list)


def join_attention(edit: Edit, node: Node) -> bool:
    """softmax(q kᵀ · scale + bias) v, seen from its last product."""
    if node.op != "MatMul" or "activation" in node.attrs:
        return False
    softmax = _softmax(edit, node.inputs[0])
    scores = _scores(edit, softmax.inputs[0]) if softmax is not None else None
    if scores is None:
        return False
    shape = edit.tensors[node.inputs[0]].shape
    rows, columns = shape[-2:]
    found = _operands(edit, node, scores, shape)
    if found is None:
        return False
    count, (q, k, v) = found
    known = _with_masks(edit, scores, (count * q.heads, rows, columns))
    if known is None or (count > 1 and scores.masks):
        return False
    bias, mask = of_windows(known, count) if count > 1 else as_mask(known)
    scale = scores.factor * q.factor * k.factor
    attrs = {"heads": q.heads, "kv_heads": k.heads, "scale": scale, "causal": 0, **mask}
    parts = [_tokens(edit, part, node.name) for part in (q, k, v)]
    inputs = [name for name, _ in parts]
    if bias is not None or scores.masks:
        inputs.append(edit.constant(f"{node.name}.bias", bias) if bias is not None else "")
    counted = _counted(edit, scores.masks, node.name)
    inputs += [name for n in counted for name in n.outputs]
    made = Node("Attention", node.name, tuple(inputs), (), attrs)
    before = [*counted, *(move for _, moves in parts for move in moves)]
    edit.put(node, *before, *_placed(edit, node, made, (count, rows, v.heads, v.width)))
    return True


def _operands(
    edit: Edit, node: Node, scores: _Scores, shape: tuple[int, ...]
) -> tuple[int, tuple[_Heads, _Heads, _Heads]] | None:
    """How many windows there are, and q, k and v: a first axis larger than 1 may count windows."""
    rows, columns = shape[-2:]
    for count in (1, *shape[:1]) if len(shape) == 4 and shape[0] > 1 else (1,):
        q = _heads(edit, scores.product.inputs[0], count, rows, transposed=False)
        k = _heads(edit, scores.product.inputs[1], count, columns, transposed=True)
        v = _heads(edit, node.inputs[1], count, columns, transposed=False)
        if q is None or k is None or v is None or not q.heads == k.heads == v.heads:
            continue
        if v.factor == 1 and q.width == k.width:
            return count, (q, k, v)
    return None


def _with_masks(edit: Edit, scores: _Scores, shape: tuple[int, int, int]) -> Array | None:
    """The constant bias [heads, S, T] where all tokens are there; None where masks do more than
    hide the keys behind the first ones."""
    bias = np.zeros(shape, np.float32) if scores.bias is None else scores.bias
    if not scores.masks:
        return bias
    whole = first_keys(edit, scores.masks, shape)
    return None if whole is None else bias + whole


def _counted(edit: Edit, masks: list[Mask], name: str) -> list[Node]:
    """The node that counts the tokens that a mask says are there; none without one."""
    if not masks:
        return []
    keys = edit.fresh(f"{name}.keys")
    edit.tensors[keys] = Tensor(keys, (1, 1), "int64")
    return [Node("FirstTokens", keys, (masks[0].source,), (keys,))]


def bare_inputs(edit: Edit, node: Node) -> bool:
    """q, k and v of an Attention that are moved forth and back are taken from where they come."""
    if node.op != "Attention" or "opset" in node.attrs:
        return False
    names, before = list(node.inputs), []
    for i in range(3):
        found = _deepest(edit, names[i])
        if found is None:
            continue
        names[i], moves = _tokens(edit, found, f"{node.name}.{'qkv'[i]}")
        before += moves
    if tuple(names) == node.inputs:
        return False
    edit.put(node, *before, replace(node, inputs=tuple(names)))
    return True


def _deepest(edit: Edit, name: str) -> _Heads | None:
    """The furthest tensor that [1, S, W] is a part of, if that saves moves."""
    _, tokens, width = edit.tensors[name].shape
    chain: list[Node] = []
    best, saved = None, 0
    node = _plain(edit, name)
    while node is not None and node.op in MOVES and "opset" not in node.attrs:
        chain.append(node)
        base = node.inputs[0]
        offset = _laid_out(positions(edit, base, chain), tokens, edit.tensors[base].size)
        if offset is not None:
            part = _Heads(base, tokens, offset, 1, width, 1.0)
            needed = _moves_of(edit, part)
            if needed < len(chain):
                best, saved = part, len(chain) - needed
        node = _plain(edit, base)
    return best if saved else None


def _moves_of(edit: Edit, part: _Heads) -> int:
    """How many nodes `_tokens` will need."""
    whole = edit.tensors[part.base].size // part.tokens
    reshaped = edit.tensors[part.base].shape != (1, part.tokens, whole)
    return int(reshaped) + int(part.width * part.heads != whole)


def _placed(edit: Edit, node: Node, made: Node, shape: tuple[int, int, int, int]) -> list[Node]:
    """The Attention and the moves to the layout that the product `node` has written."""
    count, rows, heads, width = shape
    mixed = edit.activation(f"{node.name}.attention", (1, count * rows, heads * width))
    split = edit.activation(f"{node.name}.split", (count, rows, heads, width))
    out = edit.tensors[node.outputs[0]].shape
    nodes = [
        replace(made, outputs=(mixed,)),
        Node("Reshape", split, (mixed,), (split,), {"shape": (count, rows, heads, width)}),
    ]
    perm = {"perm": (0, 2, 1, 3)}
    if out == (count, heads, rows, width):
        return [*nodes, Node("Transpose", f"{node.name}.heads", (split,), node.outputs, perm)]
    turned = edit.activation(f"{node.name}.heads", (count, heads, rows, width))
    back = Node("Reshape", f"{node.name}.out", (turned,), node.outputs, {"shape": out})
    return [*nodes, Node("Transpose", turned, (split,), (turned,), perm), back]


def _tokens(edit: Edit, part: _Heads, name: str) -> tuple[str, list[Node]]:
    """The [1, S, heads · width] tensor of q, k or v, and the nodes that make it."""
    nodes: list[Node] = []
    size, own = edit.tensors[part.base].size, part.heads * part.width
    source, whole = part.base, size // part.tokens
    if edit.tensors[source].shape != (1, part.tokens, whole):
        shape = (1, part.tokens, whole)
        target = edit.activation(f"{name}.tokens", shape)
        nodes.append(Node("Reshape", target, (source,), (target,), {"shape": shape}))
        source = target
    if own != whole:
        target = edit.activation(f"{name}.part", (1, part.tokens, own))
        ends = (part.offset + own,)
        bounds = {"starts": (part.offset,), "ends": ends, "axes": (2,), "steps": (1,)}
        nodes.append(Node("Slice", target, (source,), (target,), bounds))
        source = target
    return source, nodes


def _plain(edit: Edit, name: str) -> Node | None:
    """The float node that writes `name`; None for inputs, constants and quantized tensors."""
    tensor = edit.tensors[name]
    node = edit.producer(name)
    fits = tensor.quant is None and tensor.dtype == "float32"
    return node if node is not None and fits and "activation" not in node.attrs else None


def _softmax(edit: Edit, name: str) -> Node | None:
    """The Softmax over the last axis that `name` is, behind moves that do nothing and a guard
    against NaN."""
    node = _plain(edit, name)
    while node is not None and node.op != "Softmax":
        if node.op in ("Identity", "Reshape"):
            if edit.tensors[node.inputs[0]].shape[-2:] != edit.tensors[name].shape[-2:]:
                return None
            name = node.inputs[0]
        elif node.op == "Where" and _is_nan_of(edit, node):
            name = node.inputs[2]
        else:
            return None
        node = _plain(edit, name)
    if node is None:
        return None
    rank = len(edit.tensors[name].shape)
    return node if node.attrs["axis"] in (-1, rank - 1) and "opset" not in node.attrs else None


def _is_nan_of(edit: Edit, node: Node) -> bool:
    """Whether a Where replaces the NaN of its third input by 0."""
    test = edit.producer(node.inputs[0])
    if test is None or test.op != "IsNaN" or test.inputs[0] != node.inputs[2]:
        return False
    return _number(edit, node.inputs[1]) == 0


def _number(edit: Edit, name: str) -> float | None:
    tensor = edit.tensors[name]
    if tensor.data is None or tensor.size != 1:
        return None
    return float(np.asarray(tensor.real()).reshape(()))


def _scores(edit: Edit, name: str) -> _Scores | None:
    """Walks from the softmax's input back to the product."""
    factor, bias = 1.0, None
    masks: list[Mask] = []
    while True:
        node, shape = _plain(edit, name), edit.tensors[name].shape
        if node is None:
            return None
        if node.op == "MatMul":
            return _Scores(node, factor, bias, masks)
        masked = mask_step(edit, node, shape)
        if masked is not None:
            name = masked[0]
            masks.append(replace(masked[1], factor=factor))
            continue
        step = _score_step(edit, node, shape)
        if step is None:
            return None
        name, times, added = step
        if added is not None:
            added = added * np.float32(factor)
            bias = added if bias is None else bias + added
        factor *= times


def _score_step(
    edit: Edit, node: Node, shape: tuple[int, ...]
) -> tuple[str, float, Array | None] | None:
    """(input, factor, bias as [heads, S, T]) of one node between product and softmax."""
    same = [n for n in node.inputs if n and edit.tensors[n].shape[-2:] == shape[-2:]]
    if node.op in ("Identity", "Reshape"):
        return (node.inputs[0], 1.0, None) if same else None
    if node.op == "Where":
        return _where_step(edit, node, shape)
    if node.op not in ("Add", "Sub", "Mul", "Div") or len(node.inputs) != 2:
        return None
    orders = [node.inputs] if node.op in ("Sub", "Div") else [node.inputs, node.inputs[::-1]]
    for x, other in orders:
        constant, number = edit.tensors[other], _number(edit, other)
        if constant.data is None or edit.tensors[x].shape != shape:
            continue
        if node.op in ("Mul", "Div"):
            if number is None or not number:
                return None
            return x, number if node.op == "Mul" else 1 / number, None
        values = constant.real() * np.float32(1 if node.op == "Add" else -1)
        return x, 1.0, _per_head(values, shape)
    return None


def _where_step(
    edit: Edit, node: Node, shape: tuple[int, ...]
) -> tuple[str, float, Array | None] | None:
    """A Where with a constant condition that puts a large negative number where nothing is seen."""
    condition, yes, no = node.inputs
    seen = edit.tensors[condition].data
    if seen is None:
        return None
    for x, fill, keeps in ((yes, no, True), (no, yes, False)):
        number = _number(edit, fill)
        if number is not None and number < MASKED and edit.tensors[x].shape == shape:
            kept = np.asarray(seen, bool) == keeps
            return x, 1.0, _per_head(np.where(kept, 0, -np.inf).astype(np.float32), shape)
    return None


def _per_head(values: Array, shape: tuple[int, ...]) -> Array:
    return np.broadcast_to(values, shape).reshape(-1, *shape[-2:])


def _heads(edit: Edit, name: str, count: int, tokens: int, *, transposed: bool) -> _Heads | None:
    """What [..., S, width] (transposed: [..., width, S]) of each of `count` windows is made of,
    behind any moves.
    """
    shape = edit.tensors[name].shape
    heads, rest = divmod(int(np.prod(shape[:-2], dtype=np.int64)), count)
    if rest:
        return None
    tokens *= count
    chain: list[Node] = []
    factor = 1.0
    while True:
        index = positions(edit, name, chain)
        places = index.reshape(count, heads, *shape[-2:])
        places = places.swapaxes(2, 3) if transposed else places
        places = places.swapaxes(0, 1).reshape(heads, tokens, -1)
        found = _laid_out(places, tokens, edit.tensors[name].size)
        if found is not None:
            return _Heads(name, tokens, found, heads, places.shape[2], factor)
        node = _plain(edit, name)
        if node is None or "opset" in node.attrs:
            return None
        if node.op in MOVES:
            chain.append(node)
            name = node.inputs[0]
            continue
        scaled = _scaled(edit, node)
        if scaled is None:
            return None
        name, times = scaled
        factor *= times


def _scaled(edit: Edit, node: Node) -> tuple[str, float] | None:
    """(x, number) of a product with one number."""
    if node.op != "Mul" or len(node.inputs) != 2:
        return None
    for x, other in (node.inputs, node.inputs[::-1]):
        number = _number(edit, other)
        if number is not None and edit.tensors[x].shape == edit.tensors[node.outputs[0]].shape:
            return x, number
    return None


def positions(edit: Edit, name: str, chain: list[Node]) -> Array:
    """Where the elements behind the moves of `chain`, last one first, are in the tensor `name`."""
    shape = edit.tensors[name].shape
    index = np.arange(edit.tensors[name].size).reshape(shape)
    for node in reversed(chain):
        constants = [np.asarray(edit.tensors[n].data) for n in node.inputs[1:] if n]
        (index,) = OPS[node.op].reference(node, [index, *constants])
    return index


def _laid_out(places: Array, tokens: int, size: int) -> int | None:
    """The offset where `places` [heads, S, width] are heads side by side in rows of one width."""
    heads, rows, width = places.shape
    if rows != tokens or size % tokens:
        return None
    whole, offset = size // tokens, int(places[0, 0, 0])
    if offset + heads * width > whole:
        return None
    h, s, d = np.ogrid[:heads, :rows, :width]
    same = np.array_equal(places, offset + s * whole + h * width + d)
    return offset if same else None
