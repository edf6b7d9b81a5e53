"""Accuracy of a program on labelled samples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from weft.errors import InputError
from weft.graph import Array
from weft.program import Program
from weft.runtime import Arrays, Progress, open


@dataclass(frozen=True)
class Accuracy:
    """Share of samples whose largest output is at the label, and how many samples there were."""

    top1: float
    n: int


def evaluate(
    program: Program | str | Path,
    x: Arrays,
    y: Array,
    device: str = "csim",
    *,
    progress: Progress | None = None,
    **options: Any,
) -> Accuracy:
    """Top-1 accuracy on samples `x` [n, ...] with labels `y`: class numbers [n], or one-hot.

    `progress` hears (samples done, samples in all). Raises InputError where x and y don't fit,
    or the program has more than one output.
    """
    with open(program, device, **options) as session:
        inputs = x if isinstance(x, Mapping) else {session.program.inputs[0].name: np.asarray(x)}
        labels = class_numbers(np.asarray(y))
        total = len(labels)
        for name, array in inputs.items():
            if len(array) != total:
                raise InputError(f"{len(array)} samples in {name!r}, but {total} labels")
        if len(session.program.outputs) != 1:
            names = ", ".join(repr(info.name) for info in session.program.outputs)
            raise InputError(f"top-1 needs one output; the program has {names}")
        (output,) = session.program.outputs
        scores = session.run(inputs, progress=progress)[output.name]
        found = scores.reshape(total, -1).argmax(axis=1)
    return Accuracy(float((found == labels).mean()), total)


def class_numbers(y: Array) -> Array:
    """Labels as class numbers, from those or one-hot rows. Raises InputError for anything else."""
    if y.ndim == 2 and y.shape[1] > 1:
        y = y.argmax(axis=1)
    y = y.reshape(-1)
    if y.size == 0 or y.dtype.kind not in "iu":
        raise InputError(
            f"labels of shape {y.shape} and dtype {y.dtype}: class numbers [n] or one-hot "
            "rows [n, classes] expected"
        )
    return y
