"""Which bank of a card's memory each of a program's sections lies in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from weft.config import Overlay
from weft.device import channels
from weft.errors import DeviceError
from weft.vendor import targets


def card_banks(board: Any, overlay: Overlay) -> dict[str, str]:
    """Banks of the sections `program`, `weights`, `weight_port_1`, ... and `memory`, by XRT's tags.

    Of a pynq.Device whose design uses several banks, as an Alveo card's do; {} of others, where
    everything lies in one memory. Raises DeviceError where the design does not use a bank of these.
    """
    every, tags = _tags(getattr(board, "mem_dict", None) or {})
    if len(tags) < 2:
        return {}
    kind = "HBM" if any(tag.startswith("HBM") for tag in tags) else "DDR"
    there = sum(tag.startswith(f"{kind}[") for tag in every)
    memories = channels.memories(overlay)
    found = {channels.argument(p): p for p in range(memories)}
    places = targets.channels_of(memories, max(there, 1))
    sections = {name: places.weights[port] for name, port in found.items()}
    sections |= {"program": places.weights[0], "memory": places.memory}
    banks = {name: f"{kind}[{channel}]" for name, channel in sections.items()}
    for name, bank in banks.items():
        if bank not in tags:
            raise DeviceError(
                f"the design uses no memory bank {bank}, where {name} belongs; it uses "
                f"{', '.join(sorted(tags))}. Was it linked with the project's link.cfg?"
            )
    return banks


def _tags(memories: Mapping[str, Mapping[str, Any]]) -> tuple[set[str], set[str]]:
    """Tags of the banks that there are, and of those that a design uses."""
    banks = [m for m in memories.values() if "tag" in m and not m.get("streaming")]
    return {str(m["tag"]) for m in banks}, {str(m["tag"]) for m in banks if m.get("used")}
