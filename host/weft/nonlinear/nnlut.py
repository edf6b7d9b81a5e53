"""NN-LUT: a one-hidden-layer ReLU network, trained, then turned into line segments.

Yu et al., "NN-LUT: Neural Approximation of Non-Linear Operations for Efficient Transformer
Inference", DAC 2022. f(x) = sum of m_i ReLU(n_i x + b_i); between two breakpoints -b_i/n_i it is a
line. `nnlut.json` holds trained networks; `python -m weft.nonlinear.nnlut` trains them again.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from weft.nonlinear.fit import Curve, segments
from weft.nonlinear.functions import FUNCTIONS
from weft.units.segments import Segments

Real = NDArray[np.float64]

SEGMENTS = 16
STEPS, SAMPLES, RATE, POWER = 6000, 1024, 2e-3, 4
FILE = Path(__file__).with_name("nnlut.json")


@dataclass(frozen=True)
class Network:
    """f(x) = sum of m ReLU(n x + b); each [hidden]."""

    n: Real
    b: Real
    m: Real

    def __call__(self, x: Real) -> Real:
        """The network's output."""
        hidden = np.maximum(np.multiply.outer(x, self.n) + self.b, 0)
        return np.asarray(hidden @ self.m)

    def lines(self, low: float, high: float) -> tuple[Real, Real, Real]:
        """(start, slope, intercept) of each line between low and high, in order.

        The active units of a line from a to b are those with n > 0 whose breakpoint is at most a
        and those with n < 0 whose breakpoint is at least b; a unit with n = 0 is a constant.
        """
        turns = self.n != 0
        at = -self.b[turns] / self.n[turns]
        inner = np.unique(at[(at > low) & (at < high)])
        edges = np.concatenate([[low], inner, [high]])
        slope, intercept = np.zeros(len(edges) - 1), np.zeros(len(edges) - 1)
        constant = float(np.sum(self.m[~turns] * np.maximum(self.b[~turns], 0)))
        n, b, m = self.n[turns], self.b[turns], self.m[turns]
        for i, (a, z) in enumerate(pairwise(edges)):
            active = ((n > 0) & (at <= a)) | ((n < 0) & (at >= z))
            slope[i] = np.sum((m * n)[active])
            intercept[i] = np.sum((m * b)[active]) + constant
        return edges[:-1], slope, intercept


def train(name: str, steps: int = STEPS, hidden: int = SEGMENTS - 1, seed: int = 0) -> Network:
    """The network of a function, on inputs and outputs scaled to about -1..1.

    Adam on the fourth power of the error, which lies between the paper's L1 and the largest error.
    `hidden` units turn inside the domain; two more, which turn at its ends, give the first line.
    Their breakpoints begin where lines of equal error would meet: as dense as sqrt(|f''|).
    """
    x, y = _data(name)
    knots = _knots(x, y, hidden)
    n = np.concatenate([[1.0, -1.0], np.ones(hidden)])
    b = np.concatenate([[1.0, 1.0], -knots])
    basis = np.maximum(np.multiply.outer(x, n) + b, 0)
    m = np.linalg.lstsq(basis, y, rcond=None)[0]
    parameters = [n, b, m]
    first = [np.zeros_like(p) for p in parameters]
    second = [np.zeros_like(p) for p in parameters]
    rng = np.random.default_rng(seed)
    best, least = [p.copy() for p in parameters], np.inf
    for step in range(1, steps + 1):
        worst, gradients = _gradients(x, y, parameters, rng)
        for ends in gradients[:2]:
            ends[:2] = 0  # or they would add segments
        if worst < least:
            best, least = [p.copy() for p in parameters], worst
        rate = RATE * (1 - step / steps)
        for p, g, v, w in zip(parameters, gradients, first, second, strict=True):
            v += 0.1 * (g - v)
            w += 0.001 * (g * g - w)
            p -= rate * (v / (1 - 0.9**step)) / (np.sqrt(w / (1 - 0.999**step)) + 1e-12)
    return Network(*best)


def _data(name: str) -> tuple[Real, Real]:
    """Samples of a function, both sides scaled to about -1..1."""
    f = FUNCTIONS[name]
    curve = Curve.from_function(f)
    codes = np.linspace(f.low, f.high, SAMPLES)
    return np.linspace(-1, 1, SAMPLES), curve.of(codes) / max(map(abs, curve.limits))


def _knots(x: Real, y: Real, count: int) -> Real:
    bend = np.sqrt(np.abs(np.gradient(np.gradient(y, x), x))) + 1e-3
    share = np.cumsum(bend) / np.sum(bend)
    return np.asarray(np.interp((np.arange(count) + 1) / (count + 1), share, x))


def _gradients(
    x: Real, y: Real, parameters: list[Real], rng: np.random.Generator
) -> tuple[float, list[Real]]:
    """(largest error, gradients of mean(error**POWER) / max(error)**POWER) on moved samples."""
    n, b, m = parameters
    before = np.multiply.outer(x, n) + b
    hidden = np.maximum(before, 0)
    error = hidden @ m - y
    worst = float(np.abs(error).max())
    chosen = rng.random(len(x)) < 0.5  # a batch: half of the samples
    g = np.where(chosen, (error / worst) ** (POWER - 1), 0) / len(x)
    back = np.multiply.outer(g, m) * (before > 0)
    return worst, [x @ back, back.sum(0), g @ hidden]


def to_segments(name: str, network: Network) -> Segments:
    """The network's lines in the function's codes, 16 of them, with integer slopes and values."""
    f = FUNCTIONS[name]
    curve = Curve.from_function(f)
    start, slope, _ = network.lines(-1.0, 1.0)
    half = (f.high - f.low) / 2
    codes = np.rint(f.low + (start + 1) * half).astype(np.int64)
    keep = np.append(np.diff(codes) > 0, True)
    real = slope * max(map(abs, curve.limits)) / half
    return segments(curve, [int(c) for c in codes[keep]], [float(s) for s in real[keep]], SEGMENTS)


@cache
def trained() -> dict[str, Network]:
    """The networks of `nnlut.json` by function."""
    content = json.loads(FILE.read_text())
    return {name: Network(*(np.array(w[k]) for k in "nbm")) for name, w in content.items()}


def main(names: list[str], steps: int = STEPS) -> None:
    """Trains the networks of these functions, or of all, and writes them to `nnlut.json`."""
    known = [f.name for f in FUNCTIONS.values() if not f.row]
    content = json.loads(FILE.read_text()) if FILE.exists() else {}
    for name in names or known:
        network = train(name, steps)
        content[name] = {k: [round(float(v), 7) for v in getattr(network, k)] for k in "nbm"}
    lines = (f'"{name}": {json.dumps(content[name])}' for name in known if name in content)
    FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
