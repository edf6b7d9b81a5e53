"""What commands share: consoles, JSON, progress on a terminal, files that appear whole or not."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

if TYPE_CHECKING:
    from rich.console import Console

Names = Callable[[], Iterable[str]]


def completing(names: Names) -> Callable[[click.Context, click.Parameter, str], list[str]]:
    """For `shell_complete`: the names that begin with what is typed."""
    return lambda ctx, parameter, start: [name for name in names() if name.startswith(start)]


def device_names() -> Iterable[str]:
    """Names of the devices."""
    from weft.device import DEVICES

    return DEVICES


def form_names() -> Iterable[str]:
    """Names of the forms of csim."""
    from weft.build import FORMS

    return FORMS


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
device_option = click.option(
    "--device",
    default="csim",
    show_default=True,
    metavar="NAME",
    shell_complete=completing(device_names),
    help="Where to run: csim, golden, pynq, simboard.",
)
form_option = click.option(
    "--form",
    metavar="FORM",
    shell_complete=completing(form_names),
    help="Of csim: functional (fast), cycle (register by register) or exact (ap_int).",
)
plot_option = click.option(
    "--plot",
    type=click.Path(path_type=Path),
    metavar="FILE.png",
    help="Also draw it (.png, .svg or .pdf).",
)
timeout_option = click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="Limit of each device run.",
)
program_argument = click.argument("program", type=click.Path(path_type=Path))


def board_options(command: Callable[..., None]) -> Callable[..., None]:
    """Options of boards: which bitstream, and where the board is."""
    address = click.option(
        "--address",
        metavar="HOST[:PORT]",
        help="Of pynq: a board in the network, through PYNQ.remote.",
    )
    bitfile = click.option(
        "--bitfile",
        type=click.Path(path_type=Path),
        metavar="FILE.bit",
        help="Of pynq and simboard: the bitstream, with its .hwh beside it.",
    )
    return bitfile(address(command))


def device_options(
    form: str | None, bitfile: Path | None = None, address: str | None = None
) -> dict[str, Any]:
    """Those that were given, for `weft.open`."""
    given = {"form": form, "bitfile": bitfile, "address": address}
    return {name: value for name, value in given.items() if value}


def stdout() -> Console:
    """For results. Without a terminal, tables are as wide as they need to be."""
    from rich.console import Console

    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=160)


def stderr() -> Console:
    """For progress and remarks."""
    from rich.console import Console

    return Console(stderr=True, highlight=False)


def print_json(value: Mapping[str, Any]) -> None:
    """One JSON object on standard output; numpy numbers become Python's."""
    click.echo(json.dumps(value, indent=2, default=_plain))


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, (np.ndarray, tuple)):
        return list(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")


@contextmanager
def stages(title: str) -> Iterator[Callable[[str], None]]:
    """A spinner on a terminal that shows the stage it is told; nothing elsewhere."""
    console = stderr()
    if not console.is_terminal:
        yield lambda stage: None
        return
    with console.status(title) as status:
        yield lambda stage: status.update(f"{title}: {stage}")


@contextmanager
def bar(title: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar on a terminal, told (done, total); nothing elsewhere."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = stderr()
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as progress:
        task = progress.add_task(title, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


def save_text(path: Path, text: str) -> None:
    """Writes a text file under a temporary name, then renames it."""
    from weft.program_file import replacing

    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def save_arrays(path: Path, arrays: Mapping[str, Any]) -> None:
    """Writes an .npz file under a temporary name, then renames it."""
    from weft.program_file import replacing

    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)
