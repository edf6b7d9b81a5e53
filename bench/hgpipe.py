"""HG-PIPE's W3A3 DeiT-tiny on csim: elements unlike the published ones, the array's use."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

import weft
from weft.frontend.hgpipe import read
from weft.frontend.hgpipe_program import compile_network

from .row import Row, absent, at_least

TOKENS = 196
WHAT = "HG-PIPE's DeiT-tiny, 32×32 (edge)"


def overlay(name: str):
    """An overlay that comes with weft, with what the network needs, and weights of 3 bits."""
    known = weft.load_overlay(name)
    return replace(
        known,
        name=f"{name}-hgpipe",
        units=tuple(dict.fromkeys((*known.units, "attention", "norm"))),
        formats=tuple(dict.fromkeys((*known.formats, "int3"))),
        wide_words=max(known.wide_words, 4096),
        operand_words=max(known.operand_words, 4096),
        softmax=("pwl", "table"),
        norm=("table",),
    ).verify()


def rows(folder, data) -> list[Row]:
    """All blocks and the head, of the data set's image."""
    file = data / "deit_tiny_w3a3" / "deit_tiny_w3a3.npz" if data else None
    if file is None or not file.exists():
        return [absent(f"{WHAT}: published values", "no data/deit_tiny_w3a3")]
    network, arrays = read(file)
    count = len(network.blocks)
    program = compile_network(network, overlay("edge"), TOKENS, kept=range(count))
    x = arrays["attn_0_input"].reshape(1, TOKENS, -1).astype(np.float32)
    with weft.open(program, "csim") as session:
        out, run = session.run({"tokens": x}, detail=True)
    pairs = [(f"block_{i}", f"mlp_{i}_output") for i in range(count)] + [("logits", "head_output")]
    wrong = sum(int((out[a].ravel() != arrays[b]).sum()) for a, b in pairs)
    of = sum(arrays[b].size for _, b in pairs)
    busy = 100.0 * run.macs / (run.cycles * program.overlay.rows * program.overlay.cols)
    return [
        Row(f"{WHAT}: of {of:,} published values, other ones", wrong, None, "", "0", wrong == 0),
        at_least(f"{WHAT}: utilization of the array", busy, 80, "%"),
        Row(f"{WHAT}: clocks of an image", run.cycles, None, "", "", True),
        Row(f"{WHAT}: simulation of an image", 1000 * run.device_s, None, "ms", "", True),
    ]
