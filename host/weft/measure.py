"""How fast a device serves a program: latency percentiles, throughput, energy."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from weft.device.power import Recorder
from weft.errors import UsageError
from weft.graph import Array
from weft.program import Program
from weft.runtime import Session, open

PERCENTILES = (50, 90, 99)


@dataclass(frozen=True)
class Measurement:
    """What `measure` found. Latencies are seconds of one call with `batch` samples.

    `device_s` is the median of the device's own share, `cycles` those of one call; `power_w` and
    `joules` (per sample) are None where the board has no power rails.
    """

    device: str
    program: str
    batch: int
    runs: int
    latency_s: dict[str, float]
    device_s: float
    cycles: int
    samples_per_s: float
    power_w: float | None
    joules: float | None

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def measure(
    program: Program | str | Path,
    device: str = "csim",
    *,
    runs: int = 100,
    batch: int = 1,
    warm_up: int = 3,
    seed: int = 0,
    **options: Any,
) -> Measurement:
    """Runs a program `runs` times on random inputs of `batch` samples.

    Time does not depend on the inputs' values. Raises UsageError for counts below one, and what
    `weft.open` and `Session.run` raise.
    """
    for name, value in (("runs", runs), ("batch", batch)):
        if value < 1:
            raise UsageError(f"{name} = {value}: at least 1")
    with open(program, device, **options) as session:
        inputs = random_inputs(session.program, batch, seed)
        for _ in range(warm_up):
            session.run(inputs)
        meter = getattr(session.device, "power_w", lambda: None)
        with Recorder(meter) as recorder:
            times, device_times = _timed(session, inputs, runs)
        cycles = session.last.cycles if session.last else 0
        name = session.program.name
    rate = runs * batch / sum(times)
    watts = recorder.mean_w
    return Measurement(
        device,
        name,
        batch,
        runs,
        {f"p{p}": float(np.percentile(times, p)) for p in PERCENTILES},
        float(np.median(device_times)),
        cycles,
        rate,
        watts,
        None if watts is None else watts / rate,
    )


def random_inputs(program: Program, batch: int, seed: int = 0) -> dict[str, Array]:
    """Inputs of a program's shapes and dtypes, the same for the same seed."""
    rng = np.random.default_rng(seed)
    values: dict[str, Array] = {}
    for info in program.inputs:
        shape = (batch, *info.shape[1:])
        kind = np.dtype(info.dtype)
        drawn = rng.standard_normal(shape) if kind.kind == "f" else rng.integers(0, 2, shape)
        values[info.name] = drawn.astype(kind)
    return values


def _timed(session: Session, inputs: dict[str, Array], runs: int) -> tuple[list[float], ...]:
    times, device_times = [], []
    for _ in range(runs):
        start = time.perf_counter()
        session.run(inputs)
        times.append(time.perf_counter() - start)
        device_times.append(session.last.device_s if session.last else 0.0)
    return times, device_times
