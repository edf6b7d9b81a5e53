"""Typed errors. Each names the thing, the value and the limit, and suggests the next step.

The command line prints the message without a traceback and leaves with the class's exit code.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class WeftError(Exception):
    """Base of everything weft raises for a user's mistake or a broken environment."""

    exit_code = 1


class UsageError(WeftError):
    """An argument that can't be used as given (wrong option, unknown name)."""

    exit_code = 2


class ModelError(WeftError):
    """A model file that is corrupt, hostile, or says something impossible."""

    exit_code = 3


class ShapeError(ModelError):
    """Shapes that don't fit together."""


class UnsupportedError(ModelError):
    """A valid model that needs something weft does not have."""


class SparseError(ModelError):
    """Packed arrays that contradict each other, or a matrix that lacks its format's pattern."""


class CapacityError(WeftError):
    """A layer or program larger than a buffer of the overlay; says which buffer and by how much."""

    exit_code = 4


class OverlayError(WeftError):
    """An overlay or board description that is missing or inconsistent."""

    exit_code = 4


class ProgramError(WeftError):
    """A .weft file that is corrupt, or was compiled for another overlay."""

    exit_code = 5


class InputError(WeftError):
    """Inputs of a run with the wrong names, shapes, dtypes or values."""

    exit_code = 6


class DeviceError(WeftError):
    """The device failed: it could not be built or opened, or it ended with an error status."""

    exit_code = 7


class DeviceTimeout(DeviceError):
    """The device did not finish in time."""


class BuildError(WeftError):
    """A bitstream that could not be built: a tool failed, timing was not met, a foreign folder."""

    exit_code = 9


class ReportError(BuildError):
    """A vendor's report that is truncated or not what it should be."""


class MissingDependency(WeftError):
    """An optional package or tool that this call needs; the message says what to install."""

    exit_code = 8


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """Message for an unknown name: the nearest known ones, then all of them."""
    names = sorted(known)
    near = difflib.get_close_matches(name.lower(), [n.lower() for n in names], n=2, cutoff=0.5)
    close = [n for n in names if n.lower() in near]
    hint = f" Did you mean {' or '.join(repr(n) for n in close)}?" if close else ""
    return f"no {kind} {name!r}.{hint} Known: {', '.join(names)}"
