"""Fixtures that every test may use."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest

import models

# Keras 3 reads it when it is imported, which hls4ml does at some time.
os.environ.setdefault("KERAS_BACKEND", "jax" if find_spec("jax") else "torch")
os.environ.setdefault("JAX_PLATFORMS", "cpu")

REPO = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real models and data sets; tests that need it skip where it is absent."""
    root = Path(os.environ.get("WEFT_TEST_DATA", REPO.parent / "shared" / "data"))
    if not root.is_dir():
        pytest.skip(f"no test data at {root}; set WEFT_TEST_DATA to a copy")
    return root


@pytest.fixture(scope="session")
def network(
    shared_data: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], models.Network]:
    """A real model with its data by name (models.BUILDERS), made once per session."""
    folder = tmp_path_factory.mktemp("networks")
    return cache(lambda name: models.network(name, shared_data, folder))


@pytest.fixture(scope="session")
def quantized(
    network: Callable[[str], models.Network], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, bool, bool], Path]:
    """Path of a network as onnxruntime quantizes it, by (name, qdq, signed activations)."""
    folder = tmp_path_factory.mktemp("quantized")

    @cache
    def make(name: str, qdq: bool, signed: bool) -> Path:
        net = network(name)
        return models.quantized(net.model, net.calibration, folder, qdq=qdq, signed=signed)

    return make
