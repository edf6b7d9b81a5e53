"""Boards over the network, through PYNQ.remote.

pynq gives its calls no deadline: a cable that is pulled would hang the host. So every call of the
board's stubs gets one here.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

from weft.device.fabric import board_errors, require_pynq
from weft.errors import UsageError

PORT = 7967
CALL_S = 10.0


def connect(address: str, call_s: float = CALL_S) -> Any:
    """A pynq RemoteDevice for "host" or "host:port"; no call of it takes longer than `call_s`.

    Raises DeviceError if nothing answers there within five seconds, UsageError for a wrong port.
    """
    host, _, port = address.partition(":")
    if not host or (port and not port.isdigit()):
        raise UsageError(f"address {address!r}: expected a host, or host:port")
    require_pynq()
    with board_errors(f"board at {address}"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from pynq.pl_server.remote_device import RemoteDevice

        device = RemoteDevice(0, host, int(port or PORT), tag=f"weft-{address}")
    for stub in device._stub.values():
        for name, call in list(vars(stub).items()):
            if callable(call):
                setattr(stub, name, _with_deadline(call, call_s))
    return device


def _with_deadline(call: Callable[..., Any], call_s: float) -> Callable[..., Any]:
    def bounded(request: Any, **options: Any) -> Any:
        return call(request, **{"timeout": call_s, **options})

    return bounded
