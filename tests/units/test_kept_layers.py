"""What the functional simulation keeps of compressed weights: of those that run, no others."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest
import test_eie
import test_gather
import test_snap
import wide

import kernel
from weft.state import FaultError

Built = tuple[kernel.Code, np.ndarray, int]


def eie(seed: int) -> Built:
    case = {"seed": seed, "name": "8x8eie", "coded": bool(seed % 2)}
    code, content, batch, _, _ = test_eie.random_case(**case, dense=0.3, active=0.8, pad=1)
    return code, content, batch


def gather(seed: int) -> Built:
    rng, overlay = np.random.default_rng(seed), next(iter(test_gather.OVERLAYS.values()))
    f, weights, content = test_gather.layer(rng, overlay, 1, book=bool(seed % 2), density=0.5)
    return test_gather.program(overlay, f, weights, 1)[0], wide.placed(content), 1


def snap(seed: int) -> Built:
    rng = np.random.default_rng(seed)
    f, w, content = test_snap.layer(rng, test_snap.SMALL, 1)
    return test_snap.program(test_snap.SMALL, f, w.packed(0, f["tiles"]))[0], content, 1


def outcome(built: Built, device: str = "csim", **options: str) -> object:
    """What a run leaves, or its status and row."""
    code, content, batch = built
    try:
        words, result = kernel.run(code, device, content=content, batch=batch, **options)
    except FaultError as error:
        return error.status, re.match(r"row \d+", error.detail or "").group()
    return words.tobytes(), dict(result.counters)


def other(built: Built, at: int, bit: int) -> Built:
    """The same program with one bit of its weights changed."""
    code, content, batch = built
    rows = code.weights[-1].copy()
    rows.reshape(-1).view(np.uint8)[at % rows.size] ^= np.uint8(1 << bit)
    changed = kernel.Code(code.overlay, list(code.words), [*code.weights[:-1], rows])
    return changed, content, batch


@pytest.mark.parametrize("build", [eie, gather, snap], ids=lambda f: f.__name__)
@pytest.mark.parametrize("seed", range(4))
def test_changed_weights_are_unpacked_anew(build: Callable[[int], Built], seed: int) -> None:
    first = build(seed)
    expected = outcome(first, "golden")
    rng, different = np.random.default_rng(seed), 0
    for _ in range(2):
        assert outcome(first, form="functional") == expected
    for _ in range(12):
        changed = other(first, int(rng.integers(1 << 30)), int(rng.integers(8)))
        wanted = outcome(changed, "golden")
        for _ in range(2):
            assert outcome(changed, form="functional") == wanted
        assert outcome(first, form="functional") == expected
        different += wanted != expected
    assert different > 0


@pytest.mark.parametrize("build", [eie, gather, snap], ids=lambda f: f.__name__)
def test_more_layers_than_are_kept(build: Callable[[int], Built]) -> None:
    layers = [build(seed) for seed in range(3)]
    for seed in range(40):
        layers.append(other(layers[seed % 3], 1 << 10, seed % 8))
    wanted = [outcome(layer, "golden") for layer in layers]
    for _ in range(2):
        assert [outcome(layer, form="functional") for layer in layers] == wanted
