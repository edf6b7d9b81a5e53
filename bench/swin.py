"""Swin-T, 224 × 224, with random weights: logits on csim against float, and times."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np

import weft
from weft.ops import evaluate

from .row import Row, at_least

OVERLAY, BOARD = "encoder", "ZCU104"
CLASSES, WINDOW, WIDTH = 1000, 7, 96
DEPTHS, HEADS = (2, 2, 6, 2), (3, 6, 12, 24)
CONFIG = {
    "model_type": "swin",
    "image_size": 224,
    "patch_size": 4,
    "num_channels": 3,
    "embed_dim": WIDTH,
    "depths": DEPTHS,
    "num_heads": HEADS,
    "window_size": WINDOW,
    "mlp_ratio": 4.0,
    "qkv_bias": True,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-5,
}


def rows(folder, data) -> list[Row]:
    """Correlation with float, one image simulated and predicted, multipliers that are busy."""
    from weft.frontend import transformers_folder

    where = write(Path(folder) / "swin_t")
    image = np.random.default_rng(1).normal(0, 1, (1, 3, 224, 224)).astype(np.float32)
    (exact,) = evaluate(transformers_folder.load(where), {"pixel_values": image}).values()
    program = weft.compile(where, OVERLAY, calibration=image)
    with weft.open(program) as session:
        session.run(image)
        start = time.perf_counter()
        found = session.run(image)
        took = time.perf_counter() - start
    likeness = float(np.corrcoef(found[0], exact[0])[0, 1])
    predicted = weft.estimate(program, board=BOARD)
    hosted = sum(type(s).__name__ == "HostSegment" for s in program.segments)
    title = f"Swin-T, random weights, overlay {OVERLAY}"
    milliseconds = predicted.wall_s * 1e3
    busy = 100 * predicted.utilization
    return [
        at_least(f"{title}: correlation of 1,000 logits with float", likeness, 0.99, ""),
        Row(f"{title}: segments of the host", hosted, None, "", "0", hosted == 0),
        Row(f"{title}: an image on csim", took, None, "s", "", None),
        Row(f"{title}: an image on {BOARD}, predicted", milliseconds, None, "ms", "", None),
        Row(f"{title}: multipliers that are busy", busy, None, "%", "", None),
    ]


def write(folder: Path) -> Path:
    """A folder as the transformers library writes one."""
    from safetensors.numpy import save_file

    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    random = np.random.default_rng(0)
    found = {}
    for name, shape in shapes().items():
        norm = "norm" in name and name.endswith("weight")
        if norm or name.endswith("bias"):
            data = np.full(shape, float(norm))
        else:
            inner = 1 if "table" in name else np.prod(shape[1:])
            data = random.normal(0, inner**-0.5, shape)
        found[name] = data.astype(np.float32)
    save_file(found, folder / "model.safetensors")
    return folder


def shapes() -> dict[str, tuple[int, ...]]:
    """All tensors of the file."""
    found: dict[str, tuple[int, ...]] = {}

    def linear(name: str, inner: tuple[int, ...], outer: int, bias: bool = True) -> None:
        found[f"{name}.weight"] = (outer, *inner)
        if bias:
            found[f"{name}.bias"] = (outer,)

    linear("swin.embeddings.patch_embeddings.projection", (3, 4, 4), WIDTH)
    linear("swin.embeddings.norm", (), WIDTH)
    width = WIDTH
    for stage, (depth, heads) in enumerate(zip(DEPTHS, HEADS, strict=True)):
        at = f"swin.encoder.layers.{stage}"
        for block in (f"{at}.blocks.{layer}" for layer in range(depth)):
            for part in ("query", "key", "value"):
                linear(f"{block}.attention.self.{part}", (width,), width)
            table = f"{block}.attention.self.relative_position_bias_table"
            found[table] = ((2 * WINDOW - 1) ** 2, heads)
            linear(f"{block}.attention.output.dense", (width,), width)
            linear(f"{block}.layernorm_before", (), width)
            linear(f"{block}.layernorm_after", (), width)
            linear(f"{block}.intermediate.dense", (width,), 4 * width)
            linear(f"{block}.output.dense", (4 * width,), width)
        if stage < len(DEPTHS) - 1:
            linear(f"{at}.downsample.norm", (), 4 * width)
            linear(f"{at}.downsample.reduction", (4 * width,), 2 * width, bias=False)
            width *= 2
    linear("swin.layernorm", (), width)
    linear("classifier", (width,), CLASSES)
    return found
