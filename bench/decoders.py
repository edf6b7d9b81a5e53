"""Decoders predicted on boards, beside what was published, and what faster attention would bring.

Nothing here was measured on a board: `ours` are predictions (docs/estimates.md), `peer` are others'
measurements (spec/transformer.md, section 7), most of them on other overlays of the same board.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from weft import resources
from weft.config import load_board
from weft.decoder_costs import config, steps
from weft.decoder_costs.config import Decoder, Product
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
CARD = "Alveo-U55C"
CARD_SHAPES = {
    "8 ports of 64 bytes, as it is": {},
    "4 ports, 8 tile rows a clock": {"weight_ports": 4, "stream_rows": 8},
    "16 ports": {"weight_ports": 16},
    "8 ports of 32 bytes, a 32 × 32 array": {"rows": 32, "cols": 32, "bus_bytes": 32},
}
TEXTS = (1, 2, 4, 8, 16, 32, 64)
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
        machine = machine_of(weights=self.weights, board=load_board(self.board))
        found = on(self.decoder, self.board, machine, 1)
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
            llama2(), "Alveo-U55C", "int4:g128", 55, "66 % of all channels; ours: eight of 32",
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


def card_rows() -> list[Row]:
    """Overlays of other shapes for a U55C, and keys and values in all channels of the weights."""
    made, card = [], machine_of(board=load_board(CARD))
    for name, change in CARD_SHAPES.items():
        overlay = replace(card.overlay, **change)
        dsps = resources.fit(overlay, CARD).utilization["dsp"]
        found = on(llama2(), CARD, replace(card, overlay=overlay), 512).decode
        metric = f"Llama-2-7B int4:g128 on {CARD}, 512 before: {name} ({100 * dsps:.0f} % of DSPs)"
        made.append(Row(metric, found.tokens_per_s, None, "tokens/s"))
    for name, model in (("Llama-2-7B", "llama2-7b"), ("Qwen2-1.5B", "qwen2-1.5b")):
        d = config.load(MODELS / f"{model}.json")
        for context in (512, 2048):
            kept, spread = (
                on(d, CARD, replace(card, spread=spread), context) for spread in (False, True)
            )
            rate, better = kept.decode.tokens_per_s, spread.decode.tokens_per_s
            room = "" if kept.memory.fits else ", whose cache is too large for its channel"
            metric = f"{name} on {CARD}, {context:,} before{room} (peer: cache in all channels)"
            made.append(Row(metric, rate, better, "tokens/s"))
    return made


def batch_rows() -> list[Row]:
    """A token of each of B texts at once: the products' clocks by text, on either engine."""
    d, machine = llama2(), machine_of()
    hidden = d.feed_forward_products()[0]
    alone = products_clocks(machine, hidden, 1)
    made = []
    for texts in TEXTS:
        ratio = texts * alone / products_clocks(machine, hidden, texts)
        what = f"decoder, {hidden.inputs} × {hidden.outputs} int4:g128"
        metric = f"{what}, {texts} texts at once: of the rate one by one"
        made.append(Row(metric, ratio, 1, "×"))
    return made


def products_clocks(machine: Machine, product: Product, rows: int) -> int:
    """Of one copy of a product with so many rows, on the engine that a program takes for them."""
    made = steps.product(machine, replace(product, copies=1), rows, 1)
    return sum(s.clocks.total for s in made if s.part == steps.PRODUCTS)


def models_on_boards() -> list[Row]:
    """Models behind 512 tokens on boards of three kinds; what does not fit is left out."""
    made = []
    for name, weights in MODELS_ON_BOARDS:
        for board in BOARDS:
            machine = machine_of(weights=weights, board=load_board(board))
            found = on(config.load(MODELS / f"{name}.json"), board, machine, 512)
            if found.memory.fits:
                share = f"{100 * found.decode.memory_share:.1f} % of the memory's bandwidth"
                metric = f"{name} {weights} on {board}, 512 tokens before: {share}"
                made.append(Row(metric, found.decode.tokens_per_s, None, "tokens/s"))
    return made


def rows(folder, data) -> list[Row]:
    """Llama-2-7B, what would make it faster, models on boards, published decoders."""
    shapes = [*faster_rows(), *card_rows(), *batch_rows()]
    return [*llama_rows(), *shapes, *models_on_boards(), *(one.row() for one in published())]
