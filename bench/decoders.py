"""Decoders predicted on boards, beside what was published, and what faster attention would bring.

Nothing here was measured on a board: `ours` are predictions (docs/estimates.md), `peer` are others'
measurements (spec/transformer.md, section 7), most of them on other overlays of the same board.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from weft.config import load_board
from weft.decoder_costs import config
from weft.decoder_costs.config import Decoder
from weft.decoder_costs.prediction import Prediction, machine_of, predict
from weft.decoder_costs.steps import Machine
from weft.demo import MODELS

from .row import Row, at_least

CONTEXTS = (0, 128, 512, 1024)
BOARDS = ("KV260", "ZCU104", "Alveo-U55C")
MODELS_ON_BOARDS = (
    ("tinyllama-1.1b", "int8"),
    ("tinyllama-1.1b", "int4:g128"),
    ("qwen2-1.5b", "int4:g128"),
    ("llama2-7b", "int4:g128"),
)
# Dubey et al., 2024, table 3; Wang et al., BitNet, 2023 (the size of bitnet_b1_58-large).
LLAMA3_8B = Decoder("LLaMA3-8B", "llama", 32, 4096, 32, 8, 128, 14336, 128_256, 8192)
BITNET = Decoder("BitNet 0.73 B", "llama", 24, 1536, 16, 16, 96, 4096, 32_002, 2048, tied=True)


@dataclass(frozen=True)
class Published:
    """A rate that somebody measured on a board, at a context that was not always told."""

    what: str
    decoder: Decoder
    board: str
    weights: str
    theirs: float
    why: str

    def row(self) -> Row:
        """With ours at a short context, as the peers' limits are without keys and values."""
        found = on(self.decoder, self.board, machine_of(weights=self.weights), 1)
        ours = found.decode.tokens_per_s
        metric = f"{self.what} ({ours / self.theirs:.2f} ×)"
        return Row(metric, ours, self.theirs, "tokens/s", self.why)


def llama2() -> Decoder:
    return config.load(MODELS / "llama2-7b.json")


def on(decoder: Decoder, board: str, machine: Machine, context: int) -> Prediction:
    """A prediction without much of a prompt: its time is not asked for."""
    return predict(decoder, machine, load_board(board), context, prompt=1)


def published() -> list[Published]:
    return [
        Published(
            "KV260, LLaMA2-7B, 4 bit, keys and values 8 bit (DATE 2025)",
            llama2(), "KV260", "int4:g128", 4.9, "85 % of the memory's peak",
        ),
        Published(
            "KV260, LLaMA3-8B, 4 bit (Hummingbird)",
            LLAMA3_8B, "KV260", "int4:g128", 4.8, "93 to 94 % of the peak",
        ),
        Published(
            "ZCU104, LLaMA3-8B, 4 bit (Hummingbird)",
            LLAMA3_8B, "ZCU104", "int4:g128", 8.6, "a second controller, in the fabric",
        ),
        Published(
            "KV260, BitNet 0.73 B, 1.6 bit (TeLLMe v2)",
            BITNET, "KV260", "ternary", 25, "other architecture; size assumed",
        ),
        Published(
            "HBM of 460 GB/s, LLaMA2-7B (FlightLLM on U280)",
            llama2(), "Alveo-U55C", "int4:g128", 55, "66 % of all channels; ours uses one",
        ),
    ]  # fmt: skip


def llama_rows() -> list[Row]:
    """Llama-2-7B on KV260: rate by context, prompt, memory."""
    d, machine, board = llama2(), machine_of(), load_board("KV260")
    made = []
    for context in CONTEXTS:
        found = on(d, "KV260", machine, context)
        what = f"Llama-2-7B int4:g128 on KV260, {context} tokens before"
        rate, bound = found.decode.tokens_per_s, found.bound_tokens_per_s
        if not context:
            made.append(at_least(f"{what} (peer: all of the peak)", rate, 5.2, "tokens/s", bound))
        else:
            made.append(Row(f"{what} (peer: all of the peak)", rate, bound, "tokens/s"))
        share = 100 * found.decode.port_share
        if context == 512:
            made.append(at_least(f"{what}: weight ports busy, by clocks", share, 90, "%"))
    full = predict(d, machine, board, 1024, 512)
    busy = 100 * full.prefill.utilization
    made.append(at_least("Llama-2-7B on KV260, prompt of 512: array's peak", busy, 80, "%"))
    made.append(Row("Llama-2-7B on KV260, prompt of 512", full.prefill.seconds, None, "s"))
    room = 100 * full.memory.total / full.memory.there
    metric = "Llama-2-7B on KV260, memory at 1,024 tokens (peer: DATE 2025)"
    made.append(Row(metric, room, 93.3, "%", "≤ 100", full.memory.fits))
    return made


def faster_rows() -> list[Row]:
    """What Llama-2-7B at 512 tokens would gain from hardware that is not there."""
    d, machine = llama2(), machine_of()
    before = on(d, "KV260", machine, 512).decode.tokens_per_s
    changes = {
        "tables through all weight ports": {"table_ports": 4},
        "next head's keys and values loaded meanwhile": {"ahead": True},
        "the same, and tables": {"ahead": True, "table_ports": 4},
    }
    made = []
    for what, change in changes.items():
        found = on(d, "KV260", replace(machine, **change), 512).decode
        metric = f"if: {what} (ports {100 * found.port_share:.1f} %; peer: as it is)"
        made.append(Row(metric, found.tokens_per_s, before, "tokens/s"))
    return made


def models_on_boards() -> list[Row]:
    """Models behind 512 tokens on boards of three kinds; what does not fit is left out."""
    made = []
    for name, weights in MODELS_ON_BOARDS:
        for board in BOARDS:
            found = on(
                config.load(MODELS / f"{name}.json"), board, machine_of(weights=weights), 512
            )
            if found.memory.fits:
                share = f"{100 * found.decode.memory_share:.1f} % of the memory's bandwidth"
                metric = f"{name} {weights} on {board}, 512 tokens before: {share}"
                made.append(Row(metric, found.decode.tokens_per_s, None, "tokens/s"))
    return made


def rows(folder, data) -> list[Row]:
    """Llama-2-7B, what would make it faster, models on boards, published decoders."""
    return [*llama_rows(), *faster_rows(), *models_on_boards(), *(one.row() for one in published())]
