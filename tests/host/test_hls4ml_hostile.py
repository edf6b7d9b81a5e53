"""Damaged Keras files and configurations: each is read, or refused with an error of weft's.

Damage is to the text of the architecture, to its values, to the bytes of the weights' file, to
the arrays in it, and to the configuration of precisions.
"""

from __future__ import annotations

import copy
import io
import json
import random
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hls4ml_models import Net, quietly

pytest.importorskip("h5py")
pytest.importorskip("hls4ml")

import h5py

from weft.errors import InputError, ModelError, UnsupportedError, WeftError
from weft.frontend.hls4ml import keras_file, lower_model
from weft.frontend.hls4ml_float import load_float

CONFIG: dict[str, Any] = {
    "Model": {
        "Precision": {"default": "fixed<8,3,RND,SAT>", "accum": "fixed<24,12>"},
        "ReuseFactor": 1,
    },
    "LayerName": {"conv1d1": {"Precision": {"result": "fixed<16,6>"}}},
}
STRANGE = [None, True, -1, 0, 1, 2**40, 1.5, float("inf"), "", "relu", "Lambda", [], [1, -1], {}]
TYPES = ["fixed<0,0>", "fixed<64,32>", "fixed<8>", "auto", "float", "uint<1>", "", "fixed<8,3,X,Y>"]


def small() -> Net:
    net = Net(1)
    x = net.input(8, 3)
    a = net.conv(x, (3,), 3, 4, padding="same", activation="relu")
    a = net.pool("MaxPooling1D", a, 2)
    a = net.add("LeakyReLU", net.conv(a, (2,), 4, 4, depthwise=True), alpha=0.3)
    net.dense(net.add("Flatten", a), 12, 3, "softmax")
    return net


class Files:
    """The files of a small model, damaged and read again and again."""

    def __init__(self, folder: Path) -> None:
        self.folder, net = folder, small()
        h5, text = net.save(folder, net.layers[-1]["name"])
        self.h5, self.json = h5.read_bytes(), json.loads(text.read_text())
        self.paths = (h5, text)

    def read(self, h5: bytes, text: str, config: Any) -> bool:
        """Whether the files were read; raises what is no error of weft's."""
        self.paths[0].write_bytes(h5)
        self.paths[1].write_text(text)
        try:
            options = {"config": config, "output_dir": self.folder, "device": "golden"}
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                model = quietly(keras_file, *self.paths, overlay="tiny", **options)
                lower_model(model)
                load_float(model)
        except WeftError:
            return False
        return True

    def damaged(self, rng: random.Random) -> bool:
        kind = rng.choice(["text", "value", "value", "bytes", "array", "array", "config"])
        h5, text, config = self.h5, json.dumps(self.json), copy.deepcopy(CONFIG)
        if kind == "text":
            text = _flipped(text.encode(), rng).decode("latin-1")
        elif kind == "value":
            text = json.dumps(_one_value_changed(self.json, rng))
        elif kind == "bytes":
            h5 = _flipped(h5, rng)
        elif kind == "array":
            h5 = _one_array_changed(h5, rng)
        else:
            place = rng.choice([config["Model"], config["LayerName"]["conv1d1"]])
            place["Precision"] = rng.choice([*TYPES, {rng.choice("abc"): "fixed<8,3>"}, *STRANGE])
        return self.read(h5, text, config)


def _flipped(data: bytes, rng: random.Random) -> bytes:
    found = bytearray(data)
    if rng.random() < 0.3:
        return bytes(found[: rng.randrange(len(found))])
    for _ in range(rng.randint(1, 4)):
        found[rng.randrange(len(found))] = rng.randrange(256)
    return bytes(found)


def _one_value_changed(tree: Any, rng: random.Random) -> Any:
    tree = copy.deepcopy(tree)
    places: list[tuple[Any, Any]] = []

    def walk(node: Any) -> None:
        pairs = node.items() if isinstance(node, dict) else enumerate(node)
        for key, value in list(pairs):
            places.append((node, key))
            if isinstance(value, (dict, list)):
                walk(value)

    walk(tree)
    node, key = rng.choice(places)
    if rng.random() < 0.2:
        del node[key]
    else:
        node[key] = rng.choice(STRANGE)
    return tree


def _one_array_changed(h5: bytes, rng: random.Random) -> bytes:
    buffer = io.BytesIO(h5)
    with h5py.File(buffer, "r+") as file:
        names: list[str] = []
        file.visititems(lambda n, o: names.append(n) if isinstance(o, h5py.Dataset) else None)
        name = rng.choice(names)
        data = np.asarray(file[name])
        del file[name]
        change = rng.choice(["nan", "large", "shape", "missing", "empty", "text", "integers"])
        made = {
            "nan": lambda: np.full_like(data, np.nan),
            "large": lambda: data * np.float32(1e30),
            "shape": lambda: data.reshape(-1)[: max(1, data.size - 1)],
            "empty": lambda: data[:0],
            "text": lambda: np.array([b"weights"]),
            "integers": lambda: data.astype(np.int64),
        }
        if change != "missing":
            file[name] = made[change]()
    return buffer.getvalue()


def fuzz(folder: Path, seed: int, count: int) -> int:
    """How many of `count` damaged models were refused."""
    files, rng = Files(folder), random.Random(seed)
    assert files.read(files.h5, json.dumps(files.json), CONFIG), "undamaged, they are read"
    return sum(not files.damaged(rng) for _ in range(count))


def test_damaged_models_are_read_or_refused(tmp_path):
    assert fuzz(tmp_path, 1, 60) > 20


@pytest.mark.slow
def test_2000_damaged_models_are_read_or_refused(tmp_path):
    assert fuzz(tmp_path, 2, 2000) > 800


def test_a_lambda_layer_is_named_with_the_remedy(tmp_path):
    """What a Keras file says of a Lambda, its marshalled function, is not even looked at."""
    net = Net()
    x = net.input(4)
    code = ["4wEAAAAAAAAAAAAAAAEAAAACAAAAQwAAAHMIAAAAfABkARQAUwA=", None, None]
    y = net.add("Lambda", net.dense(x, 4, 4), function=code, function_type="lambda")
    h5, text = net.save(tmp_path, y)
    told = rf"net\.h5: hls4ml reads no Lambda layers: '{y}'; replace it .* ONNX"
    with pytest.raises(UnsupportedError, match=told):
        quietly(keras_file, h5, text)
    with h5py.File(h5, "r+") as file:  # a whole model, as Keras 2 saves it
        file.attrs["model_config"] = text.read_text()
        file.create_group("model_weights")
    with pytest.raises(UnsupportedError, match=told):
        quietly(keras_file, h5)


def test_counts_that_no_file_can_hold_are_refused(tmp_path):
    files = Files(tmp_path)
    tree = copy.deepcopy(files.json)
    tree["config"]["layers"][1]["config"]["filters"] = 2**40
    files.paths[1].write_text(json.dumps(tree))
    with pytest.raises((ModelError, UnsupportedError)):
        lower_model(quietly(keras_file, *files.paths, config=CONFIG))


@pytest.mark.parametrize("precision", ["auto", {"default": "auto"}])
def test_a_model_of_no_type_is_refused(tmp_path, precision):
    """hls4ml's inference of types would never end."""
    files = Files(tmp_path)
    config = {"Model": {"Precision": precision, "ReuseFactor": 1}}
    with pytest.raises(InputError, match="'auto' to layers"):
        quietly(keras_file, *files.paths, config=config)
