"""Keras 2 models as files, written without Keras: architecture as JSON, weights as HDF5."""

from __future__ import annotations

import contextlib
import io
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np


class Net:
    """A functional Keras model under construction: layers are named as they are added."""

    def __init__(self, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.layers: list[dict[str, Any]] = []
        self.weights: dict[str, dict[str, np.ndarray]] = {}

    def input(self, *shape: int) -> str:
        name = f"in{len(self.layers)}"
        config = {"batch_input_shape": [None, *shape], "dtype": "float32", "name": name}
        entry = {"class_name": "InputLayer", "config": config, "inbound_nodes": [], "name": name}
        self.layers.append(entry)
        return name

    def add(self, kind: str, *inputs: str, weights: Any = None, **config: Any) -> str:
        name = f"{kind.lower()}{len(self.layers)}"
        facts = {"name": name, "dtype": "float32", "data_format": "channels_last", **config}
        nodes = [[[i, 0, 0, {}] for i in inputs]]
        entry = {"class_name": kind, "config": facts, "inbound_nodes": nodes, "name": name}
        self.layers.append(entry)
        self.weights[name] = weights or {}
        return name

    def normal(self, *shape: int, scale: float = 0.5) -> np.ndarray:
        return self.rng.normal(0, scale, shape).astype(np.float32)

    def dense(self, x: str, k: int, n: int, activation: str = "linear") -> str:
        weights = {"kernel": self.normal(k, n), "bias": self.normal(n)}
        return self.add("Dense", x, weights=weights, units=n, activation=activation, use_bias=True)

    def conv(
        self,
        x: str,
        kernel: tuple[int, ...],
        c: int,
        n: int,
        *,
        strides: int = 1,
        padding: str = "valid",
        activation: str = "linear",
        depthwise: bool = False,
    ) -> str:
        rank = len(kernel)
        kind = f"{'Depthwise' if depthwise else ''}Conv{rank}D"
        shape = (*kernel, c, 1) if depthwise else (*kernel, c, n)
        name = "depthwise_kernel" if depthwise else "kernel"
        weights = {name: self.normal(*shape), "bias": self.normal(n)}
        facts = {"depth_multiplier": 1} if depthwise else {"filters": n}
        return self.add(
            kind,
            x,
            weights=weights,
            kernel_size=list(kernel),
            strides=[strides] * rank,
            padding=padding,
            dilation_rate=[1] * rank,
            activation=activation,
            use_bias=True,
            **facts,
        )

    def pool(self, kind: str, x: str, size: int, padding: str = "valid") -> str:
        rank = 1 if kind.endswith("1D") else 2
        sizes = [size] * rank
        return self.add(kind, x, pool_size=sizes, strides=sizes, padding=padding)

    def save(self, folder: Path, *outputs: str) -> tuple[Path, Path]:
        """(h5, json) of the model with these outputs."""
        import h5py

        ends = [[name, 0, 0] for name in outputs]
        starts = [[e["name"], 0, 0] for e in self.layers if e["class_name"] == "InputLayer"]
        config = {
            "name": "net",
            "layers": self.layers,
            "input_layers": starts,
            "output_layers": ends,
        }
        text = json.dumps({"class_name": "Functional", "config": config})
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "net.json").write_text(text)
        with h5py.File(folder / "net.h5", "w") as file:
            for name, arrays in self.weights.items():
                group = file.create_group(name)
                for key, array in arrays.items():
                    group.create_dataset(f"{name}/{key}:0", data=array)
        return folder / "net.h5", folder / "net.json"


def quietly(function: Any, *args: Any, **options: Any) -> Any:
    """Calls hls4ml without its prints and warnings."""
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return function(*args, **options)
