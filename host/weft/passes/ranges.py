"""Calibration: the range of every activation that becomes codes, from typical inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from weft import ops
from weft.activation import WIDE
from weft.calibrate import Calibrator, MinMax
from weft.errors import InputError
from weft.graph import Array, Graph
from weft.samples import take_feeds

BATCH = 16  # samples that are evaluated at a time

Progress = Callable[[int, int], None]


def check_data(graph: Graph, data: Mapping[str, Array]) -> None:
    """Raises InputError for samples that are missing, misshapen, or not finite."""
    take_feeds(graph, data, {})
    for name in graph.inputs:
        array = np.asarray(data[name])
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            bad = int(np.count_nonzero(~np.isfinite(array)))
            raise InputError(
                f"calibration data of input {name!r}: {bad} of {array.size} values are NaN or "
                "infinite; leave those samples out"
            )


def ranges(
    graph: Graph,
    data: Mapping[str, Array],
    formats: Mapping[str, str],
    kind: Callable[..., Calibrator],
    progress: Progress | None = None,
    members: Mapping[str, tuple[str, ...]] = MappingProxyType({}),
) -> dict[str, tuple[float, float]]:
    """(low, high) of the tensors in `formats`, for the format each will have.

    `members` are, by name, all the tensors that count, if it is not that one alone. Tensors that
    take infinite values are left out. Inputs that become int8, and what becomes int16, keep all
    their range.
    """
    collectors: dict[str, Calibrator] = {}
    for name in sorted(formats):
        outside = any(n in graph.inputs for n in members.get(name, (name,)))
        whole = (outside and formats[name] == "int8") or formats[name] == WIDE
        collectors[name] = MinMax() if whole else kind(format=formats[name])
    if not collectors:
        return {}
    for part, done, total in batches(graph, data):
        with np.errstate(all="ignore"):  # what overflows is refused by observe
            names = [n for name in collectors for n in members.get(name, (name,))]
            values = ops.evaluate(graph, part, keep=names)
        for name in list(collectors):
            parts = [values[n] for n in members.get(name, (name,))]
            if not all(_observed(collectors[name], x) for x in parts):
                del collectors[name]
        if progress:
            progress(done, total)
    return {name: collector.range() for name, collector in collectors.items()}


def _observed(collector: Calibrator, x: Array) -> bool:
    try:
        collector.observe(x)
    except InputError:
        return False
    return True


def batches(graph: Graph, data: Mapping[str, Array]) -> Iterator[tuple[dict[str, Array], int, int]]:
    """(feeds, samples done with them, samples in all), BATCH samples at a time."""
    sizes = {name: (graph[name].shape or (1,))[0] for name in graph.inputs}
    arrays = {name: np.atleast_1d(data[name]) for name in graph.inputs}
    total = min((len(a) // sizes[n] for n, a in arrays.items()), default=1)
    for start in range(0, total, BATCH):
        stop = min(start + BATCH, total)
        part = {n: a[start * sizes[n] : stop * sizes[n]] for n, a in arrays.items()}
        yield part, stop, total


def feeds(graph: Graph, data: Mapping[str, Array]) -> Iterator[dict[str, Array]]:
    """The batches alone."""
    return (part for part, _, _ in batches(graph, data))


def largest_of(
    graph: Graph, names: list[str], batches: Iterable[Mapping[str, Array]]
) -> dict[str, NDArray[np.float64]]:
    """Largest magnitude of every channel."""
    found = {name: np.zeros(graph[name].shape[-1]) for name in names}
    for part in batches:
        values = ops.evaluate(graph, part, keep=names)
        for name in names:
            flat = np.abs(values[name]).reshape(-1, len(found[name]))
            found[name] = np.maximum(found[name], flat.max(0))
    return found
