"""weft estimate of a decoder that is no program yet: a config.json."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from weft.cli import terminal
from weft.errors import UsageError

if TYPE_CHECKING:
    from rich.console import Console

    from weft.decoder_costs.prediction import Phase, Prediction

DEFAULTS: Mapping[str, Any] = {
    "overlay": None,
    "weights": "int4:g128",
    "activations": "int8",
    "context": 512,
    "kv": "int8",
}


def estimate_config(
    path: Path, board: str | None, plot: Path | None, as_json: bool, options: Mapping[str, Any]
) -> None:
    """Shows what a decoder takes on a board. Raises UsageError without a board."""
    from weft.config import load_board
    from weft.decoder_costs import config, picture
    from weft.decoder_costs.prediction import machine_of, predict

    if board is None:
        raise UsageError(f"{path}: time and memory of a decoder need a board: --board NAME")
    given = {**DEFAULTS, **{k: v for k, v in options.items() if v is not None}}
    bits = int(given["kv"].removeprefix("int"))
    ranged = bool(given.get("token_ranges"))
    place = load_board(board)
    machine = machine_of(
        given["overlay"],
        given["weights"],
        place,
        cache_bits=bits,
        token_ranges=ranged,
        activations=given["activations"],
    )
    found = predict(config.load(path), machine, place, given["context"], given.get("prompt"))
    if plot:
        picture.draw(found, plot)
    if as_json:
        terminal.print_json(found.as_dict())
        return
    _show(terminal.stdout(), found)
    if plot:
        terminal.stdout().print(f"picture: {plot}")


def _show(console: Console, found: Prediction) -> None:
    from weft import report

    d, m = found.decoder, found.memory
    title = f"{d.name} ({report.amount(d.parameters)} parameters), {found.machine.weights.name}"
    title += ", activations int16" if found.machine.wide else ""
    console.print(
        report.table(
            f"{title}, on {found.board.name}, overlay {found.machine.overlay.name}",
            ("run", "#tokens", "#time", "#tokens/s", "#bytes", "#of DDR", "#of array", "bound by"),
            [
                _row("prompt to first token", found.prefill),
                _row(f"a token behind {found.context:,}", found.decode),
            ],
        )
    )
    parts = [(name, report.seconds(took)) for name, took in found.decode.by_part.items()]
    kinds = {**found.decode.read, "written": found.decode.written}
    moved = [(name, report.nbytes(count)) for name, count in kinds.items() if count]
    rows = [(*a, *b) for a, b in zip(_padded(parts, moved), _padded(moved, parts), strict=True)]
    console.print(report.table("a token", ("", "#time", "", "#bytes"), rows))
    sizes = [(name, report.nbytes(count)) for name, count in m.bytes.items()]
    sizes.append(("all", report.nbytes(m.total)))
    console.print(report.table(f"memory at {found.context:,} tokens", ("", "#bytes"), sizes))
    console.print(_verdict(found))
    console.print(
        f"{found.decode.tokens_per_s:.2f} tokens/s; at the memory's peak "
        f"{found.bound_tokens_per_s:.2f}, at {found.board.ddr_efficiency:.0%} of it "
        f"{found.measured_tokens_per_s:.2f}; {found.decode.port_share:.1%} of the weight ports by "
        "clocks"
    )


def _padded(rows: list[tuple[str, str]], others: list[tuple[str, str]]) -> list[tuple[str, str]]:
    return rows + [("", "")] * max(0, len(others) - len(rows))


def _row(name: str, phase: Phase) -> tuple[Any, ...]:
    from weft import report

    return (
        name,
        phase.tokens,
        report.seconds(phase.seconds),
        f"{phase.tokens_per_s:.2f}",
        report.nbytes(phase.nbytes),
        f"{phase.memory_share:.1%}",
        f"{phase.utilization:.1%}",
        phase.bound,
    )


def _verdict(found: Prediction) -> str:
    """Whether it fits, and how long a context may be."""
    from weft import report

    m = found.memory
    there, rest = report.nbytes(m.there), report.nbytes(abs(m.there - m.total))
    room = f"fits: {rest} of {there} are left" if m.fits else f"does not fit: {rest} over {there}"
    if m.fullest > m.channel:
        room = f"does not fit: a channel of {report.nbytes(m.channel)} would hold "
        room += report.nbytes(m.fullest)
    chip = f"; on chip up to {m.on_chip:,}" if m.on_chip < m.longest else ""
    return f"{room}; longest context {m.longest:,} tokens{chip}"
