"""weft generate, weft perplexity."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from weft.cli import terminal
from weft.config import board_names
from weft.errors import InputError, UsageError

source_argument = click.argument("source", metavar="PROGRAM|MODEL", type=click.Path(path_type=Path))


def _device(
    source: Path, form: str | None, bitfile: Path | None, address: str | None
) -> dict[str, Any]:
    """Options of the device; none of a model, which runs on the host."""
    return terminal.device_options(form, bitfile, address) if source.suffix == ".weft" else {}


@click.command("generate")
@source_argument
@click.option(
    "--prompt",
    default="",
    metavar="TEXT",
    help="What the text begins with; of an encoder-decoder the source.",
)
@click.option(
    "--tokens", default=256, show_default=True, type=click.IntRange(min=1), help="At most so many."
)
@click.option(
    "--temperature", default=0.0, show_default=True, type=float, help="0: always the best token."
)
@click.option(
    "--top-p", default=1.0, show_default=True, type=float, help="Draw among the likeliest only."
)
@click.option("--seed", type=int, help="For the same text again.")
@click.option("--sliding", is_flag=True, help="Forget the oldest tokens where the cache is full.")
@click.option(
    "--board",
    metavar="BOARD",
    shell_complete=terminal.completing(board_names),
    help="Also predict the rate there.",
)
@terminal.device_option
@terminal.form_option
@terminal.board_options
@terminal.timeout_option
@terminal.json_option
def generate_command(
    source: Path,
    prompt: str,
    tokens: int,
    temperature: float,
    top_p: float,
    seed: int | None,
    sliding: bool,
    board: str | None,
    device: str,
    form: str | None,
    bitfile: Path | None,
    address: str | None,
    timeout_s: float | None,
    as_json: bool,
) -> None:
    """Generate text, with a compiled decoder on a device or a model in float on the host."""
    from weft.decoder_compiler import open_decoder

    options = _device(source, form, bitfile, address)
    with open_decoder(source, device, timeout_s=timeout_s, **options) as session:
        pieces = session.generate(
            prompt,
            tokens,
            temperature=temperature,
            top_p=top_p,
            seed=seed,
            sliding=sliding,
        )
        text = [] if session.behind_source else [prompt]
        if not as_json:
            click.echo("".join(text), nl=False)
        for piece in pieces:
            text.append(piece.text)
            if not as_json:
                click.echo(piece.text, nl=False)
        facts = _facts(session, board)
    if as_json:
        terminal.print_json({"text": "".join(text), **facts})
        return
    click.echo()
    click.echo(_summary(facts), err=True)


def _facts(session: Any, board: str | None) -> dict[str, Any]:
    """What a generation took, here and (if asked) on a board."""
    took = session.last
    facts: dict[str, Any] = {
        "prompt_tokens": took.prompt,
        "prompt_s": took.prompt_s,
        "tokens": took.tokens,
        "tokens_per_s": took.rate,
    }
    if took.tokens and took.cycles:
        facts["cycles_per_token"] = took.cycles / took.tokens
    if board is not None:
        from weft.text.forward import ProgramForward
        from weft.text.rate import step_rate

        forward = session.forward
        if not isinstance(forward, ProgramForward):
            raise UsageError("--board predicts a program's rate: compile the model first")
        before = 0 if session.behind_source else took.prompt
        last = min(before + took.tokens, forward.capacity - 1)
        rate = step_rate(forward.program, board, last)
        facts |= {"board": board, "board_tokens_per_s": rate.tokens_per_s}
    return facts


def _summary(facts: dict[str, Any]) -> str:
    parts = [f"{facts['tokens']} tokens, {facts['tokens_per_s']:,.0f} per second here"]
    if "cycles_per_token" in facts:
        parts.append(f"{facts['cycles_per_token']:,.0f} clocks each")
    if "board" in facts:
        parts.append(f"{facts['board_tokens_per_s']:,.1f} per second predicted on {facts['board']}")
    return "; ".join(parts)


@click.command("perplexity")
@source_argument
@click.argument("text", metavar="TEXT.txt", type=click.Path(path_type=Path))
@terminal.device_option
@terminal.form_option
@terminal.board_options
@terminal.timeout_option
@terminal.json_option
def perplexity_command(
    source: Path,
    text: Path,
    device: str,
    form: str | None,
    bitfile: Path | None,
    address: str | None,
    timeout_s: float | None,
    as_json: bool,
) -> None:
    """Measure the perplexity of texts, separated by <|endoftext|>."""
    from weft.decoder_compiler import open_decoder
    from weft.text.perplexity import perplexity

    try:
        content = text.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise InputError(f"{text}: not a text file ({error})") from None
    options = _device(source, form, bitfile, address)
    with (
        terminal.bar(f"Reading on {device}") as progress,
        open_decoder(source, device, timeout_s=timeout_s, **options) as session,
    ):
        found = perplexity(session, content, progress)
    if as_json:
        terminal.print_json({"perplexity": found.perplexity, "tokens": found.tokens})
        return
    click.echo(
        f"perplexity {found.perplexity:.4f} over {found.tokens:,} tokens of {found.texts} texts"
    )
