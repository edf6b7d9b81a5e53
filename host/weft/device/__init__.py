"""Places that run a program: one contract (base.py), one file each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from weft.device.base import Device, RunResult
from weft.errors import UsageError, unknown


def _golden(**options: Any) -> Device:
    from weft.device.golden import Golden

    return Golden(**options)


def _csim(**options: Any) -> Device:
    from weft.device.csim import Csim

    return Csim(**options)


def _pynq(**options: Any) -> Device:
    from weft.device.pynq import Pynq

    return Pynq(**options)


def _simboard(**options: Any) -> Device:
    from weft.device.simboard import Simboard

    return Simboard(**options)


DEVICES: dict[str, Callable[..., Device]] = {
    "golden": _golden,
    "csim": _csim,
    "pynq": _pynq,
    "simboard": _simboard,
}


def open_device(name: str, **options: Any) -> Device:
    """The device of that name. Raises UsageError for an unknown one or a wrong option."""
    if name not in DEVICES:
        raise UsageError(unknown("device", name, DEVICES))
    try:
        return DEVICES[name](**options)
    except TypeError as error:
        raise UsageError(f"device {name!r}: {error}") from None


__all__ = ["DEVICES", "Device", "RunResult", "open_device"]
