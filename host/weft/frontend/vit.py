"""Vision Transformers: ViT (Dosovitskiy et al., 2021) and DeiT (Touvron et al., 2021).

The graph's input `pixel_values` [1, C, H, W] is what the folder's image processor gives. Patches
are a strided convolution. Class and distillation tokens are rows of zeros that the position
embeddings are added to, with the token's own embedding among them.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from weft.errors import ModelError
from weft.frontend.build import Builder
from weft.frontend.stored import StoredModel
from weft.frontend.transformer_blocks import Config, Encoder, Floats, LayerNames, Weights
from weft.graph import Graph

INPUT = "pixel_values"
PATCHES = "embeddings.patch_embeddings.projection"


def pre_norm_names(at: str, attention: str) -> LayerNames:
    """Names of the parts of a layer `at` whose norms come first, as ViT and Swin write them."""
    own = f"{at}.attention.{attention}"
    return LayerNames(
        f"{own}.query",
        f"{own}.key",
        f"{own}.value",
        f"{at}.attention.output.dense",
        f"{at}.layernorm_before",
        f"{at}.intermediate.dense",
        f"{at}.output.dense",
        f"{at}.layernorm_after",
    )


def vit_names(layer: int) -> LayerNames:
    """Names of ViT's and DeiT's parts."""
    return pre_norm_names(f"encoder.layer.{layer}", "attention")


def pair(config: Config, name: str) -> tuple[int, int]:
    """(height, width) from a number or a list of two."""
    value = config.values.get(name)
    if isinstance(value, list) and len(value) == 2:
        first, second = (Config(config.path, {name: v}).size(name) for v in value)
        return first, second
    side = config.size(name)
    return side, side


def load_vit(model: StoredModel, config: Config) -> Graph:
    """The graph of a ViT or DeiT: logits where the folder has a classifier, else hidden states.

    Raises ModelError and ShapeError for files that don't fit, UnsupportedError.
    """
    b = Builder(str(config.values["model_type"]))
    e = Encoder(
        b,
        Weights.of(model, ("", "vit.", "deit."), f"{PATCHES}.weight"),
        config.size("hidden_size"),
        config.size("num_attention_heads"),
        config.size("intermediate_size"),
        config.number("layer_norm_eps", default=1e-12),
        config.activation("hidden_act"),
        bool(config.values.get("qkv_bias", True)),
    )
    e.check(config)
    x = _embedded(e, config)
    for layer in range(config.size("num_hidden_layers")):
        x = e.pre_norm_layer(x, vit_names(layer))
    x = e.norm(x, "layernorm")
    outputs = _classified(e, x)
    return b.graph(outputs or [x])


def patches(e: Encoder, config: Config, name: str, width: int) -> str:
    """Patch embedding of the input: [1, H / p · W / p, width]."""
    size, patch = pair(config, "image_size"), pair(config, "patch_size")
    channels = config.size("num_channels", default=3)
    if size[0] < patch[0] or size[1] < patch[1]:
        raise ModelError(f"{config.path}: patches of {patch} in an image of {size}")
    e.b.input(INPUT, (1, channels, *size), "float32")
    w = e.weights.take(f"{name}.weight", width, channels, *patch)
    bias = e.weights.take(f"{name}.bias", width)
    attrs: dict[str, Any] = {"strides": patch, "pads": (0,) * 4, "dilations": (1, 1), "group": 1}
    inputs = [INPUT, e.constant(f"{name}.weight", w), e.constant(f"{name}.bias", bias)]
    x = e.b.emit("Conv", inputs, attrs, name=name)
    count = e.b.shape(x)[2] * e.b.shape(x)[3]
    x = e.b.emit("Reshape", [x], {"shape": (1, width, count)}, name=f"{name}.flat")
    return e.b.emit("Transpose", [x], {"perm": (0, 2, 1)}, name=f"{name}.tokens")


def _embedded(e: Encoder, config: Config) -> str:
    """Tokens with their positions: [1, extra + patches, D]."""
    x = patches(e, config, PATCHES, e.width)
    tokens = [e.weights.take("embeddings.cls_token", 1, 1, e.width)]
    if config.values["model_type"] == "deit":
        tokens.append(e.weights.take("embeddings.distillation_token", 1, 1, e.width))
    count = e.b.shape(x)[1] + len(tokens)
    places: Floats = e.weights.take("embeddings.position_embeddings", 1, count, e.width).copy()
    places[:, : len(tokens)] += np.concatenate(tokens, axis=1)
    pads = {"pads": (0, len(tokens), 0, 0, 0, 0), "value": 0.0, "mode": "constant"}
    x = e.b.emit("Pad", [x], pads, name="embeddings.class_token")
    constant = e.constant("embeddings.position_embeddings", places)
    return e.b.emit("Add", [x, constant], name="embeddings.positions")


def _classified(e: Encoder, x: str) -> list[str]:
    """Logits of the class token, and the mean with the distillation token's where both have a
    classifier; nothing where the folder has none."""
    head = e.weights.outside()
    made = []
    for name, row in (("classifier", 0), ("cls_classifier", 0), ("distillation_classifier", 1)):
        if not head.has(f"{name}.weight"):
            continue
        token = token_row(e.b, x, row, name)
        classes = head.model[f"{name}.weight"].shape[0]
        w = np.ascontiguousarray(head.take(f"{name}.weight", classes, e.width).T)
        bias = head.take(f"{name}.bias", classes)
        inputs = [token, e.constant(f"{name}.weight", w), e.constant(f"{name}.bias", bias)]
        made.append(e.b.emit("Linear", inputs, name=name))
    if len(made) < 2:
        return made
    total = e.b.emit("Add", made, name="logits.sum")
    half = e.constant("logits.half", np.asarray(0.5, np.float32))
    return [e.b.emit("Mul", [total, half], name="logits")]


def token_row(b: Builder, x: str, row: int, name: str) -> str:
    """Token `row` of x [1, S, D], as [1, D]."""
    attrs = {"starts": (row,), "ends": (row + 1,), "axes": (1,), "steps": (1,)}
    taken = b.emit("Slice", [x], attrs, name=f"{name}.token")
    return b.emit("Reshape", [taken], {"shape": (1, b.shape(x)[2])}, name=f"{name}.row")
