"""A Keras file through hls4ml to an overlay, and how far the default precision is from 8 bits.

python examples/hls4ml_model.py                      # a small network, written here
python examples/hls4ml_model.py model.h5             # a Keras 2 model of your own

Neither Keras nor TensorFlow is needed; pip install 'weft[compile]' h5py.
"""

from __future__ import annotations

import json
import sys
import tempfile
import warnings
from pathlib import Path

import h5py
import numpy as np

import weft
from weft.frontend.hls4ml import keras_file, lower_for

EIGHT = {
    "default": "fixed<8,4,RND,SAT>",
    "accum": "fixed<24,12>",
    "weight": "fixed<8,2,RND,SAT>",
}


def small_network(path: Path) -> Path:
    """A perceptron of three layers with random weights, as Keras 2 would save it."""
    rng = np.random.default_rng(0)
    sizes, kinds = (16, 32, 16, 4), ("relu", "relu", "linear")
    layers = []
    with h5py.File(path, "w") as file:
        for i, kind in enumerate(kinds):
            name, (k, n) = f"dense_{i}", sizes[i : i + 2]
            facts = {"name": name, "units": n, "activation": kind, "use_bias": True}
            if i == 0:
                facts["batch_input_shape"] = [None, k]
            layers.append({"class_name": "Dense", "config": facts})
            group = file.create_group(f"model_weights/{name}/{name}")
            group["kernel:0"] = rng.normal(0, 1 / np.sqrt(k), (k, n)).astype(np.float32)
            group["bias:0"] = rng.normal(0, 0.1, n).astype(np.float32)
        config = {"class_name": "Sequential", "config": {"name": "small", "layers": layers}}
        file.attrs["model_config"] = json.dumps(config)
    return path


def main(words: list[str]) -> None:
    if len(words) > 1:
        sys.exit(__doc__)
    warnings.simplefilter("ignore")  # hls4ml's, about table sizes
    with tempfile.TemporaryDirectory() as folder:
        path = Path(words[0]) if words else small_network(Path(folder) / "small.h5")
        results = {}
        for name, precision in (("fixed<16,6>", "fixed<16,6>"), ("eight bits", EIGHT)):
            config = {"Model": {"Precision": precision, "ReuseFactor": 1}}
            model = keras_file(path, config=config, overlay="tiny", output_dir=folder)
            found = lower_for(model, "tiny")
            program = weft.compile(found.graph, "tiny")
            shape = program.inputs[0].shape[1:]
            x = np.random.default_rng(1).normal(size=(64, *shape)).astype(np.float32)
            with weft.open(program, "golden") as session:
                results[name] = session.run(x)
            print(f"{name}:")
            for note in found.notes:
                print(f"  {note.layer:<16} {note.where:<12} {note.why}")
        a, b = (y.reshape(64, -1) for y in results.values())
        same = (a.argmax(axis=1) == b.argmax(axis=1)).mean()
        print(f"largest difference {np.abs(a - b).max():.3f}, the same class in {same:.0%}")


if __name__ == "__main__":
    main(sys.argv[1:])
