"""What one run of a session took."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from weft.program import Program

if TYPE_CHECKING:
    from weft.estimate import Estimate


@dataclass(frozen=True)
class Run:
    """What one `Session.run` took.

    `cycles` are the device's clocks, `device_s` the seconds it took for them, `wall_s` all of the
    run's seconds, `counters` the cycles by cause. `macs`, `bytes` and `layers` follow from the
    program and the number of samples.
    """

    program: Program
    samples: int
    cycles: int
    wall_s: float
    device_s: float
    counters: Mapping[str, int]
    groups: tuple[tuple[Program, int], ...] = ()  # by number of tokens, where samples differ in it

    @property
    def macs(self) -> int:
        """Multiply-accumulates of the model itself, without padding."""
        groups = self.groups or ((self.program, self.samples),)
        return sum(n * sum(layer.macs for layer in program.layers) for program, n in groups)

    @cached_property
    def _chunks(self) -> list[tuple[int, Estimate]]:
        """(how many, estimate of one) for the full chunks and for the rest."""
        from weft.estimate import estimate

        found = []
        for program, samples in self.groups or ((self.program, self.samples),):
            full, rest = divmod(samples, program.batch)
            sizes = [(full, program.batch)] * bool(full) + [(1, rest)] * bool(rest)
            found += [(count, estimate(program, batch=size)) for count, size in sizes]
        return found

    @property
    def bytes(self) -> int:
        """Bytes between memory and the accelerator."""
        return sum(count * chunk.bytes for count, chunk in self._chunks)

    @property
    def layers(self) -> list[dict[str, Any]]:
        """One row per layer: name, op, engine, macs, cycles, bytes, utilization of the array."""
        from weft.report import layer_rows

        return layer_rows(self._chunks)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        keys = ("samples", "cycles", "wall_s", "device_s", "macs", "bytes", "layers")
        return {key: getattr(self, key) for key in keys} | {"counters": dict(self.counters)}
