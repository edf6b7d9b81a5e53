"""Quantization-aware training: top-1 of a small CNN after training in a format, against float."""

from __future__ import annotations

import runpy
from pathlib import Path

from .row import Row, absent

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "train_qat.py"
LOSS = {"int8": 0.5, "int4": 1.0, "flint4": 1.0, "ternary, LSQ": None, "W2A2": None}
TITLE = "small CNN on {} after training in {} (peer: float)"


def rows(folder, data) -> list[Row]:
    """One row per format, in percent of the held-out images; MNIST's where the data are."""
    try:
        import torch
    except ImportError:
        reason = "PyTorch is not installed: pip install 'weft[torch]'"
        return [absent(TITLE.format("digits", name), reason, "%") for name in LOSS]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        example = runpy.run_path(str(EXAMPLE))
        images = example["load"](None if data is None else data / "mnist")
        formats = {name: example["FORMATS"][name] for name in LOSS}
        epochs = (6, 4) if data is None else (3, 2)
        reference, found = example["measure"](images, formats, epochs)
    finally:
        torch.set_num_threads(threads)
    source = "MNIST" if images[0].shape[-1] == 28 else "digits"
    made = []
    for name, loss in LOSS.items():
        before, after, changed = found[name]
        title = TITLE.format(source, name)
        metric = f"{title}; only rounded: {before:.2f} %, golden differs in {changed}"
        if loss is None:
            made.append(Row(metric, after, reference, "%"))
        else:
            target = reference - loss
            made.append(Row(metric, after, reference, "%", f"≥ {target:.2f}", after >= target))
    return made
