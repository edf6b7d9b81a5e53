"""Weight memory where each weight port has one of its own: channels of HBM, or of DDR.

The image is dealt out packet by packet, a packet being as many rows as there are ports: packet k of
it is packet k / ports in the memory of port k mod ports (hls/weft/units/packed.hpp). Addresses in
programs are those of the image: it is dealt out where it is loaded, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from weft.config import Overlay
from weft.program import Rows


def memories(overlay: Overlay) -> int:
    """In how many memories the image of weights lies."""
    return overlay.weight_ports if overlay.own_memories else 1


def argument(port: int) -> str:
    """The kernel's pointer to the memory of a weight port."""
    return f"weight_port_{port}" if port else "weights"


def own_rows(rows: int, ports: int) -> int:
    """Rows in each of `ports` memories that hold an image of `rows` rows: whole turns."""
    return -(-rows // (ports * ports)) * ports


def dealt(image: Rows, overlay: Overlay) -> Rows:
    """An image [rows, lanes] in its memories [memories, rows, lanes], behind one another."""
    ports = memories(overlay)
    if ports == 1:
        return np.ascontiguousarray(image)[None]
    each = own_rows(len(image), ports)
    whole = np.zeros((each * ports, image.shape[1]), np.int8)
    whole[: len(image)] = image
    turns = whole.reshape(-1, ports, ports, image.shape[1])
    parts = np.moveaxis(turns, 1, 0).reshape(ports, each, image.shape[1])
    return np.ascontiguousarray(parts)


def gathered(parts: Sequence[Rows], rows: int) -> Rows:
    """The image of `rows` rows that `parts`, the memories of each port, hold."""
    if len(parts) == 1:
        return parts[0][:rows]
    ports, lanes = len(parts), parts[0].shape[1]
    turns = np.stack([part.reshape(-1, ports, lanes) for part in parts], axis=1)
    return np.ascontiguousarray(turns.reshape(-1, lanes)[:rows])


def image_rows(port: NDArray[np.int64], local: NDArray[np.int64], ports: int) -> NDArray[np.int64]:
    """Rows of the image that lie at rows `local` of the memories of `port`."""
    turn, row = np.divmod(local, ports)
    return np.asarray((turn * ports + port) * ports + row, np.int64)
