"""A format for each layer under a budget: the least error that bytes or clocks allow.

As in HAWQ-V3 (Yao et al., ICML 2021) the choice is an integer program: one format per layer, the
sum of the errors as small as can be, the sum of the costs within the budget.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from weft import ops
from weft.config import Overlay
from weft.errors import MissingDependency, UsageError
from weft.graph import Array, Graph
from weft.passes.quantize import quantize, simulate
from weft.passes.ranges import batches
from weft.plan import LayerPlan, Plan
from weft.quantization import costs, sensitivity

CANDIDATES = ("int8", "int6", "int5", "int4", "flint4", "int3", "int2")
POINTS = 7  # budgets of the front, besides the one asked for
BASE = "int8"  # what relative budgets refer to
_SUFFIX = {"": 1, "k": 10**3, "M": 10**6}

Progress = Callable[[str, int, int], None]
Table = Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class Point:
    """One plan: its cost (bytes or clocks), what it was allowed, and how well it does.

    `predicted` is the sum of the layers' errors, `error` the measured one of the outputs,
    both relative to the outputs' power; `top1` in 0..1 where labels are known.
    """

    plan: Plan
    budget: float
    cost: float
    predicted: float
    error: float
    top1: float | None = None


@dataclass(frozen=True)
class Planned:
    """What `plan` found: the point within the budget, the front, and what led there."""

    chosen: Point
    front: tuple[Point, ...]
    errors: Table
    costs: Table
    base: float
    unit: str
    float_top1: float | None


@dataclass(frozen=True)
class Task:
    """What is to be planned: a float graph, inputs [n, ...] by name, and the formats to try.

    `evaluation` holds labelled inputs and their class numbers; `overlay` makes clocks the cost.
    """

    graph: Graph
    data: Mapping[str, Array]
    formats: Sequence[str] = CANDIDATES
    activations: str = "int8"
    method: str = "mse"
    overlay: Overlay | None = None
    evaluation: tuple[Mapping[str, Array], Array] | None = None
    cost: costs.Cost = costs.cost


def budget_of(text: str, base: float) -> float:
    """Bytes or clocks from "0.3x" (of int8's `base`), "20000" or "20k". Raises UsageError."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(x|k|M|)", text.strip())
    if not match or float(match[1]) == 0:
        raise UsageError(f"budget {text!r}: 0.3x (of int8), or a number such as 20000, 20k, 1.5M")
    amount = float(match[1])
    return amount * base if match[2] == "x" else amount * _SUFFIX[match[2]]


def solve(errors: Table, prices: Table, budget: float) -> dict[str, str]:
    """Layer → format with the least sum of errors, the sum of prices at most `budget`.

    Raises UsageError for a budget below the cheapest choice, MissingDependency without scipy.
    """
    try:
        from scipy.optimize import Bounds, LinearConstraint, milp
    except ImportError:
        raise MissingDependency("plans need scipy: pip install 'weft[compile]'") from None
    pairs = [(layer, name) for layer, row in errors.items() for name in row]
    least = sum(min(row.values()) for row in prices.values())
    if budget < least:
        raise UsageError(
            f"a budget of {budget:,.0f} is below the smallest possible, {least:,.0f}: allow more, "
            "or formats of fewer bits"
        )
    error = np.array([errors[layer][name] for layer, name in pairs])
    price = np.array([prices[layer][name] for layer, name in pairs])
    one = np.array([[layer == own for own, _ in pairs] for layer in errors], float)
    # Errors span many powers of ten; the solver's tolerances are absolute.
    found = milp(
        error / max(error.max(), np.finfo(float).tiny),
        constraints=[
            LinearConstraint(one, 1, 1),
            LinearConstraint(price[None] / max(budget, 1), -np.inf, 1 + 1e-12),
        ],
        integrality=np.ones(len(pairs)),
        bounds=Bounds(0, 1),
        options={"mip_rel_gap": 0.0},
    )
    assert found.x is not None, found.message
    return {pairs[i][0]: pairs[i][1] for i in np.flatnonzero(found.x > 0.5)}


def plan(task: Task, budget: str, progress: Progress | None = None) -> Planned:
    """The best plan within `budget` (see `budget_of`), and a front of plans around it.

    `progress` hears (stage, done, in all). Raises UsageError for budgets that can't be met,
    and as `quantize` does.
    """
    tell = progress or (lambda stage, done, total: None)
    layers = {layer.name: layer for layer in costs.of_layers(task.graph).values()}
    if not layers:
        raise UsageError(f"model {task.graph.name!r} has no layer with weights to plan for")
    names = dict.fromkeys((*task.formats, BASE))
    priced = {
        name: {f: task.cost(layer, f, task.activations, task.overlay) for f in names}
        for name, layer in layers.items()
    }
    base = sum(row[BASE] for row in priced.values())
    allowed = budget_of(budget, base)
    prices = {name: {f: row[f] for f in task.formats} for name, row in priced.items()}
    least = sum(min(row.values()) for row in prices.values())
    most = sum(max(row.values()) for row in prices.values())
    errors = sensitivity.measure(
        task.graph, task.data, task.formats, task.method, lambda d, t: tell("sensitivity", d, t)
    )
    wanted = solve(errors, prices, allowed)
    choices = [(allowed, wanted)]
    for limit in np.geomspace(max(least, 1), max(most, 1), POINTS):
        limit = max(float(limit), least)
        choices.append((limit, solve(errors, prices, limit)))
    kept: dict[tuple[str, ...], tuple[float, dict[str, str]]] = {}
    for limit, chosen in choices:
        kept.setdefault(tuple(chosen[name] for name in layers), (limit, chosen))
    points = []
    for number, (limit, chosen) in enumerate(kept.values()):
        tell("plans", number, len(kept))
        points.append(_point(task, chosen, limit, errors, prices))
    front = tuple(sorted(points, key=lambda point: point.cost))
    unit = "bytes" if task.overlay is None else "clocks"
    reference = None
    if task.evaluation is not None:
        reference = _top1(task.graph, *task.evaluation, run=ops.evaluate)
    return Planned(points[0], front, errors, priced, base, unit, reference)


def _point(
    task: Task, chosen: Mapping[str, str], limit: float, errors: Table, prices: Table
) -> Point:
    made = Plan(
        activations=task.activations,
        method=task.method,
        layers={name: LayerPlan(weights=fmt) for name, fmt in chosen.items()},
    )
    graph = quantize(task.graph, task.data, plan=made)
    reference = _run(sensitivity.logits(task.graph), task.data, ops.evaluate)
    outputs = _run(sensitivity.logits(graph), task.data, simulate)
    total = sum(float(np.square(outputs[n] - y).sum()) for n, y in reference.items())
    power = sum(float(np.square(y).sum()) for y in reference.values()) or 1.0
    return Point(
        made,
        limit,
        math.fsum(prices[name][fmt] for name, fmt in chosen.items()),
        math.fsum(errors[name][fmt] for name, fmt in chosen.items()),
        total / power,
        None if task.evaluation is None else _top1(graph, *task.evaluation, run=simulate),
    )


Run = Callable[[Graph, Mapping[str, Array]], dict[str, Array]]


def _run(graph: Graph, data: Mapping[str, Array], run: Run) -> dict[str, Array]:
    parts = [run(graph, part) for part, _, _ in batches(graph, data)]
    return {name: np.concatenate([part[name] for part in parts]) for name in graph.outputs}


def _top1(graph: Graph, data: Mapping[str, Array], labels: Array, run: Run) -> float:
    if len(graph.outputs) != 1:
        raise UsageError(f"top-1 needs one output; the model has {', '.join(graph.outputs)}")
    scores = _run(graph, data, run)[graph.outputs[0]]
    rows = scores.reshape(len(labels), -1).argmax(axis=1)
    return float((rows == labels).mean())
