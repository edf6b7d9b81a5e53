"""Swin Transformers (Liu et al., "Hierarchical Vision Transformer using Shifted Windows", 2021).

The graph's input `pixel_values` [1, C, H, W] is what the folder's image processor gives. Tokens
attend to those of their window alone, with a bias by distance; every other layer's windows are
shifted by half, go round the edges, and what meets there is masked.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weft.errors import ModelError, UnsupportedError
from weft.frontend.build import Builder
from weft.frontend.stored import StoredModel
from weft.frontend.transformer_blocks import Config, Encoder, Floats, LayerNames, Weights
from weft.frontend.vit import PATCHES, pair, patches, pre_norm_names
from weft.graph import Graph
from weft.window_ops import window_order

MASKED = -100.0  # what the library adds to scores of tokens that only meet round an edge
INNER_EPSILON = 1e-5  # of the norms that config.json says nothing of: PyTorch's
MOST_LAYERS = 1000  # of a stage: more is a broken config.json


@dataclass(frozen=True)
class Stage:
    """Layers at one resolution."""

    layers: int
    heads: int
    size: tuple[int, int]


def layer_names(stage: int, layer: int) -> LayerNames:
    """Names of the parts of a layer."""
    return pre_norm_names(f"encoder.layers.{stage}.blocks.{layer}", "self")


def load_swin(model: StoredModel, config: Config) -> Graph:
    """The graph of a Swin: logits where the folder has a classifier, else hidden states.

    Raises ModelError and ShapeError for files that don't fit, UnsupportedError for windows or
    patches that don't fill the image, which the library pads.
    """
    width, window = config.size("embed_dim"), config.size("window_size")
    b = Builder("swin")
    e = Encoder(
        b,
        Weights.of(model, ("", "swin."), f"{PATCHES}.weight"),
        width,
        1,
        width,
        config.number("layer_norm_eps", default=1e-5),
        config.activation("hidden_act"),
        bool(config.values.get("qkv_bias", True)),
    )
    stages = stages_of(config, window)
    x = _embedded(e, config, stages[0].size)
    ratio = config.number("mlp_ratio", default=4.0)
    for number, stage in enumerate(stages):
        inner = int(ratio * width)
        own = replace(e, width=width, heads=stage.heads, inner=inner)
        own.check(config)
        for layer in range(stage.layers):
            shift = window // 2 if layer % 2 and min(stage.size) > window else 0
            x = _layer(own, x, layer_names(number, layer), stage.size, window, shift)
        if number < len(stages) - 1:
            x = _merged(own, x, f"encoder.layers.{number}.downsample", stage.size)
            width *= 2
    x = e.norm(x, "layernorm")
    return b.graph([_logits(e, x, stages[-1].size, width) or x])


def stages_of(config: Config, window: int) -> list[Stage]:
    """The stages. Raises ModelError for lists that don't match, UnsupportedError for sizes that
    the library would pad.
    """
    depths, heads = (_sizes(config, name) for name in ("depths", "num_heads"))
    if len(depths) != len(heads):
        raise ModelError(f"{config.path}: {len(depths)} depths, but {len(heads)} num_heads")
    image, patch = pair(config, "image_size"), pair(config, "patch_size")
    _check_fill(config, "patch_size", image, patch, "an image")
    size = image[0] // patch[0], image[1] // patch[1]
    stages = []
    for number, (layers, count) in enumerate(zip(depths, heads, strict=True)):
        _check_fill(config, "window_size", size, (window, window), f"stage {number}, a map")
        stages.append(Stage(layers, count, size))
        if number < len(depths) - 1:
            _check_fill(config, "depths", size, (2, 2), f"merging behind stage {number}, a map")
            size = size[0] // 2, size[1] // 2
    return stages


def _sizes(config: Config, name: str) -> list[int]:
    value = config.values.get(name)
    if not isinstance(value, list) or not value:
        raise ModelError(f"{config.path}: {name} = {value!r}; a list of integers, one per stage")
    found = [Config(config.path, {name: item}).size(name) for item in value]
    if max(found) > MOST_LAYERS:
        raise ModelError(f"{config.path}: {name} = {value!r}; at most {MOST_LAYERS} each")
    return found


def _check_fill(
    config: Config, name: str, size: tuple[int, int], part: tuple[int, int], what: str
) -> None:
    if any(n < p or n % p for n, p in zip(size, part, strict=True)):
        raise UnsupportedError(
            f"{config.path}: {name}: {what} of {size} is no multiple of {part}, and weft lacks "
            "the padding that the library does there; take an image_size that fits"
        )


def _embedded(e: Encoder, config: Config, size: tuple[int, int]) -> str:
    """Tokens behind their norm: [1, H·W, D]."""
    x = patches(e, config, PATCHES, e.width)
    x = replace(e, epsilon=INNER_EPSILON).norm(x, "embeddings.norm")
    if config.values.get("use_absolute_embeddings"):
        name = "embeddings.position_embeddings"
        places = e.weights.take(name, 1, size[0] * size[1], e.width)
        x = e.b.emit("Add", [x, e.constant(name, places)], name="embeddings.positions")
    return x


def _layer(
    e: Encoder, x: str, names: LayerNames, size: tuple[int, int], window: int, shift: int
) -> str:
    """A layer that attends window by window."""
    attrs = {"size": size, "window": (window, window), "shift": (shift, shift)}
    base = names.out.removesuffix(".output.dense")
    count = size[0] * size[1] // window**2
    y = e.norm(x, names.attention_norm)
    if count > 1:
        y = e.b.emit("Windows", [y], {**attrs, "inverse": 0}, name=f"{base}.windows")
    q, k, v = (
        e.linear(y, part, e.width, e.width, e.qkv_bias) for part in (names.q, names.k, names.v)
    )
    bias, kinds = position_bias(e, f"{base}.self", size, window, shift)
    own: dict[str, Any] = {"windows": count} if count > 1 else {}
    own |= {"kinds": kinds} if max(kinds) else {}
    mixed = e.emit_attention([q, k, v, e.constant(f"{base}.bias", bias)], base, **own)
    if count > 1:
        mixed = e.b.emit("Windows", [mixed], {**attrs, "inverse": 1}, name=f"{base}.rows")
    y = e.add(e.linear(mixed, names.out, e.width, e.width), x, names.out)
    return e.add(e.feed_forward(e.norm(y, names.output_norm), names), y, names.down)


def position_bias(
    e: Encoder, name: str, size: tuple[int, int], window: int, shift: int
) -> tuple[Floats, tuple[int, ...]]:
    """Bias [kinds · heads, L, L] by distance, masked, and the kind of every window."""
    table = e.weights.take(f"{name}.relative_position_bias_table", (2 * window - 1) ** 2, e.heads)
    y, x = np.divmod(np.arange(window**2), window)
    away = [axis[:, None] - axis + window - 1 for axis in (y, x)]
    near = table[away[0] * (2 * window - 1) + away[1]].transpose(2, 0, 1)  # [heads, L, L]
    masks, kinds = masks_of(size, window, shift)
    return (masks[:, None] + near).reshape(-1, *near.shape[1:]).astype(np.float32), kinds


def masks_of(
    size: tuple[int, int], window: int, shift: int
) -> tuple[NDArray[np.float32], tuple[int, ...]]:
    """The different masks [kinds, L, L] of shifted windows, and the kind of every window."""
    order = window_order(size, (window, window), (shift, shift))
    parts = [
        (line - shift) % n >= n - shift for n, line in zip(size, map(np.arange, size), strict=True)
    ]
    region = (parts[0][:, None] * 2 + parts[1]).reshape(-1)[order].reshape(-1, window**2)
    apart = region[:, :, None] != region[:, None]
    every = np.where(apart, MASKED, 0).astype(np.float32)
    masks, kinds = np.unique(every, axis=0, return_inverse=True)
    return masks, tuple(int(kind) for kind in kinds.reshape(-1))


def _merged(e: Encoder, x: str, name: str, size: tuple[int, int]) -> str:
    """Four tokens become one of twice the width."""
    x = e.b.emit("PatchMerge", [x], {"size": size}, name=f"{name}.merge")
    x = replace(e, epsilon=INNER_EPSILON).norm(x, f"{name}.norm")
    return e.linear(x, f"{name}.reduction", 4 * e.width, 2 * e.width, bias=False)


def _logits(e: Encoder, x: str, size: tuple[int, int], width: int) -> str:
    """Logits of the mean of all tokens; "" where the folder has no classifier."""
    head = e.weights.outside()
    if not head.has("classifier.weight"):
        return ""
    b, name = e.b, "pooler"
    x = b.emit("Reshape", [x], {"shape": (1, *size, width)}, name=f"{name}.map")
    x = b.emit("Transpose", [x], {"perm": (0, 3, 1, 2)}, name=f"{name}.channels")
    x = b.emit("GlobalAveragePool", [x], name=f"{name}.mean")
    x = b.emit("Reshape", [x], {"shape": (1, width)}, name=f"{name}.row")
    classes = head.model["classifier.weight"].shape[0]
    w = np.ascontiguousarray(head.take("classifier.weight", classes, width).T)
    bias = head.take("classifier.bias", classes)
    inputs = [x, e.constant("classifier.weight", w), e.constant("classifier.bias", bias)]
    return b.emit("Linear", inputs, name="classifier")
