"""Power of a board, from the rails that PYNQ finds."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

_INPUTS = ("12V", "12v", "VCC12V", "total_power", "ina260")


def board_power() -> float | None:
    """Watts that the board draws now; None where it has no rails with sensors."""
    import pynq

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # libsensors may be missing
        return rails_power(pynq.get_rails())


def rails_power(rails: Mapping[str, Any]) -> float | None:
    """Watts over pynq rails: the board's input where there is one, else the sum of all."""
    sensors = {name: rail.power for name, rail in rails.items() if getattr(rail, "power", None)}
    if not sensors:
        return None
    for name in _INPUTS:
        for rail, sensor in sensors.items():
            if rail.startswith(name):
                return float(sensor.value)
    return float(sum(sensor.value for sensor in sensors.values()))


class Recorder:
    """Samples a power meter in a thread: `with Recorder(device.power_w) as r: ...; r.mean_w`."""

    def __init__(self, meter: Callable[[], float | None], interval_s: float = 0.02) -> None:
        self._meter, self._interval_s = meter, interval_s
        self._samples: list[float] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._record, daemon=True)

    @property
    def mean_w(self) -> float | None:
        """The mean of the samples in watts; None where the board has no rails."""
        return sum(self._samples) / len(self._samples) if self._samples else None

    def __enter__(self) -> Recorder:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _record(self) -> None:
        while (watts := self._meter()) is not None:
            self._samples.append(watts)
            if self._stop.wait(self._interval_s):
                return
