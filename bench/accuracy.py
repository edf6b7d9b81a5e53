"""Top-1 accuracy of real networks in int8 on the simulation, against the float model."""

from __future__ import annotations

import weft

from .row import Row, absent

LIMITS = {"mnist": 98.7, "resnet8": None, "har": None}  # None: float less the loss below
LOSS = {"resnet8": 1.0, "har": 0.5}
OVERLAYS = {"mnist": "lab", "resnet8": "edge", "har": "tiny"}


def rows(folder, data) -> list[Row]:
    """One row per network: int8 against float, both in percent."""
    made = []
    for name, limit in LIMITS.items():
        title = f"{name}: int8 top-1 on csim, overlay {OVERLAYS[name]} (peer: float)"
        if data is None:
            made.append(absent(title, "the data sets are not here", "%"))
            continue
        import models

        net = models.network(name, data, folder)
        reference = net.float_top1()
        target = limit or reference - LOSS[name]
        program = weft.compile(net.path, OVERLAYS[name], calibration=net.calibration)
        with weft.open(program, "csim") as session:
            found = models.top1(session.run(net.x), net.labels)
        metric = f"{title}, {len(net.x):,} samples"
        made.append(Row(metric, found, reference, "%", f"≥ {target:.2f}", found >= target))
    return made
