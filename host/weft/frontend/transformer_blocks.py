"""What encoders of the transformers library are built of: checked weights, settings, and layers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weft.errors import ModelError, ShapeError, UnsupportedError, unknown
from weft.frontend.build import Builder
from weft.frontend.stored import StoredModel
from weft.graph import Shape

Floats = NDArray[np.float32]
# hidden_act of a config → operator and attributes.
ACTIVATIONS: Mapping[str, tuple[str, dict[str, Any]]] = {
    "gelu": ("Gelu", {"approximate": "none"}),
    "gelu_new": ("Gelu", {"approximate": "tanh"}),
    "gelu_pytorch_tanh": ("Gelu", {"approximate": "tanh"}),
    "quick_gelu": ("Swish", {"alpha": 1.702}),
    "relu": ("Relu", {}),
    "silu": ("Swish", {"alpha": 1.0}),
    "swish": ("Swish", {"alpha": 1.0}),
}


@dataclass(frozen=True)
class Config:
    """config.json: values by name, checked when they are asked for."""

    path: Path
    values: Mapping[str, Any]

    def size(self, *names: str, default: int | None = None, least: int = 1) -> int:
        """An integer of at least `least` under the first of `names` that is there."""
        value = self._find(names, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ModelError(f"{self.path}: {names[0]} = {value!r}; an integer from {least} on")
        return value

    def number(self, *names: str, default: float | None = None) -> float:
        """A finite number of at least 0."""
        value = self._find(names, default)
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not number or not 0 <= value < math.inf:
            raise ModelError(f"{self.path}: {names[0]} = {value!r}; a number from 0 on")
        return float(value)

    def activation(self, *names: str) -> tuple[str, dict[str, Any]]:
        """Operator and attributes of the activation function."""
        name = str(self._find(names, "gelu"))
        if name not in ACTIVATIONS:
            raise UnsupportedError(f"{self.path}: {unknown(names[0], name, ACTIVATIONS)}")
        return ACTIVATIONS[name]

    def require(self, name: str, default: Any, missing: str) -> None:
        """Raises UnsupportedError if `name` has another value; `missing` is what weft lacks."""
        value = self.values.get(name, default)
        if (value or default) != default:
            raise UnsupportedError(f"{self.path}: {name} = {value!r}: weft lacks {missing}")

    def _find(self, names: Sequence[str], default: Any) -> Any:
        for name in names:
            if self.values.get(name) is not None:
                return self.values[name]
        if default is None:
            raise ModelError(f"{self.path}: no {' or '.join(names)}")
        return default


@dataclass(frozen=True)
class Weights:
    """The tensors of a folder whose names begin with `prefix`."""

    model: StoredModel
    prefix: str = ""

    @staticmethod
    def of(model: StoredModel, prefixes: Sequence[str], probe: str) -> Weights:
        """Under the first prefix that has the tensor `probe`; ModelError if none has."""
        for prefix in prefixes:
            if prefix + probe in model.tensors:
                return Weights(model, prefix)
        raise ModelError(
            f"{model.path}: tensor {prefixes[0] + probe!r} is missing; the file holds "
            f"{len(model.tensors)} tensors, {next(iter(model.tensors), 'none')!r} first"
        )

    def has(self, name: str) -> bool:
        """Whether there is such a tensor."""
        return self.prefix + name in self.model.tensors

    def outside(self) -> Weights:
        """The tensors beside the encoder, such as a classifier's."""
        return Weights(self.model)

    def take(self, name: str, *shape: int) -> Floats:
        """A tensor of that shape. Raises ModelError if it is missing or not finite, ShapeError."""
        full = self.prefix + name
        if full not in self.model.tensors:
            raise ModelError(
                f"{self.model.path}: tensor {full!r} of shape {shape} is missing: the folder is "
                "incomplete, or its config.json is another model's"
            )
        tensor = self.model.tensors[full]
        if tensor.shape != shape:
            raise ShapeError(
                f"{self.model.path}: tensor {full!r} has shape {tensor.shape}, config.json asks "
                f"for {shape}"
            )
        data = tensor.read()
        if not np.isfinite(data).all():
            raise ModelError(f"{self.model.path}: tensor {full!r} has NaN or infinite values")
        return data

    def vector(self, names: Sequence[str], size: int) -> Floats:
        """The first of `names` that is there: old files say gamma and beta."""
        found = next((n for n in names if self.has(n)), names[0])
        return self.take(found, size)


@dataclass(frozen=True)
class LayerNames:
    """Where the parts of an encoder layer are in the file."""

    q: str
    k: str
    v: str
    out: str
    attention_norm: str
    up: str
    down: str
    output_norm: str


@dataclass(frozen=True)
class Encoder:
    """Sizes of a stack of layers, and the graph they are added to."""

    b: Builder
    weights: Weights
    width: int
    heads: int
    inner: int
    epsilon: float
    activation: tuple[str, dict[str, Any]]
    qkv_bias: bool = True

    def check(self, config: Config) -> None:
        """Raises ShapeError if the heads don't share the width evenly."""
        if self.width % self.heads:
            raise ShapeError(
                f"{config.path}: a width of {self.width} for {self.heads} heads; it must be a "
                "multiple"
            )

    def constant(self, name: str, data: Floats) -> str:
        """Adds a constant under the name that it has in the file; its name."""
        return self.b.constant(self.b.fresh(name) if name in self.b.tensors else name, data)

    def linear(self, x: str, name: str, inner: int, outer: int, bias: bool = True) -> str:
        """x · Wᵀ + bias, with the weights `name` [outer, inner]."""
        w = np.ascontiguousarray(self.weights.take(f"{name}.weight", outer, inner).T)
        names = [x, self.constant(f"{name}.weight", w), ""]
        if bias:
            names[2] = self.constant(f"{name}.bias", self.weights.take(f"{name}.bias", outer))
        return self.b.emit("Linear", names, name=name)

    def norm(self, x: str, name: str) -> str:
        """LayerNorm with the weights `name`."""
        width = self.b.shape(x)[-1]
        gamma = self.weights.vector((f"{name}.weight", f"{name}.gamma"), width)
        beta = self.weights.vector((f"{name}.bias", f"{name}.beta"), width)
        names = [x, self.constant(f"{name}.weight", gamma), self.constant(f"{name}.bias", beta)]
        return self.b.emit("LayerNorm", names, {"epsilon": self.epsilon}, name=name)

    def attention(self, x: str, names: LayerNames, keys: str = "", bias: str = "") -> str:
        """Self-attention of x, its output projection included."""
        q, k, v = (
            self.linear(x, part, self.width, self.width, self.qkv_bias)
            for part in (names.q, names.k, names.v)
        )
        name = names.out.rpartition(".")[0]
        mixed = self.emit_attention([q, k, v, bias, keys], name)
        return self.linear(mixed, names.out, self.width, self.width)

    def emit_attention(self, inputs: list[str], name: str, **more: Any) -> str:
        """An Attention of q, k, v, bias and keys; absent ones at the end are left out. `more`
        are further attributes.
        """
        while not inputs[-1]:
            inputs = inputs[:-1]
        scale = 1 / math.sqrt(self.width // self.heads)
        attrs = {"heads": self.heads, "kv_heads": self.heads, "scale": scale, "causal": 0}
        return self.b.emit("Attention", inputs, attrs | more, name=f"{name}.attention")

    def feed_forward(self, x: str, names: LayerNames) -> str:
        """The two linear layers and the function between them."""
        hidden = self.linear(x, names.up, self.width, self.inner)
        op, attrs = self.activation
        active = self.b.emit(op, [hidden], dict(attrs), name=f"{names.up}.{op.lower()}")
        return self.linear(active, names.down, self.inner, self.width)

    def add(self, x: str, y: str, name: str) -> str:
        """A residual connection."""
        return self.b.emit("Add", [x, y], name=f"{name}.residual")

    def post_norm_layer(self, x: str, names: LayerNames, keys: str = "") -> str:
        """A layer of the first Transformer: normalized behind each residual."""
        y = self.add(self.attention(x, names, keys), x, names.out)
        y = self.norm(y, names.attention_norm)
        return self.norm(self.add(self.feed_forward(y, names), y, names.down), names.output_norm)

    def pre_norm_layer(self, x: str, names: LayerNames) -> str:
        """A layer that normalizes what it reads, and leaves the residual stream as it is."""
        y = self.add(self.attention(self.norm(x, names.attention_norm), names), x, names.out)
        return self.add(self.feed_forward(self.norm(y, names.output_norm), names), y, names.down)


def positions_error(path: Path, tokens: int, most: int) -> ModelError:
    """The error of a sequence that is longer than the model's positions."""
    return ModelError(
        f"{path}: {tokens} tokens; the model has positions for {most}: ask for fewer tokens"
    )


def check_tokens(path: Path, tokens: int, most: int) -> None:
    """Raises ModelError unless 1 ≤ tokens ≤ most."""
    if tokens < 1 or tokens > most:
        raise positions_error(path, tokens, most)


__all__ = ["Config", "Encoder", "LayerNames", "Shape", "Weights", "check_tokens"]
