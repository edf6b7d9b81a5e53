"""Runs the benchmarks: `python -m bench [group ...]`.

Prints one table and writes bench/results.json, a list of {group, metric, ours, peer, unit, target,
met}, where rows of groups that did not run stay as they are.
Every figure is the shortest of repeated runs on one thread, ours and the peer's in turns. The
models and data sets that are not part of the project are looked for in WEFT_TEST_DATA.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path += [str(ROOT / "tests"), str(ROOT / "tests" / "host")]  # networks that tests judge, too
GROUPS = (
    "cycles",
    "attention",
    "matvec",
    "gemm",
    "networks",
    "packing",
    "accuracy",
    "tflite",
    "recurrent",
    "formats",
    "formats_accuracy",
    "eie",
    "snap",
    "sparsity",
    "qat",
    "nonlinear",
    "hgpipe",
    "swin",
    "embedding",
    "generation",
    "designs",
    "tpu",
    "decoders",
    "sparse_packing",
    "sparse_speed",
    "importing",
)


def data_folder() -> Path | None:
    """The data sets' folder, or None."""
    folder = Path(os.environ.get("WEFT_TEST_DATA", ROOT.parent / "shared" / "data"))
    return folder if folder.is_dir() else None


def group_rows(name: str, folder: Path) -> list:
    """The rows of one group, as dicts."""
    module = import_module(f"bench.{name}")
    made = module.rows() if name == "packing" else module.rows(folder, data_folder())
    return [{"group": name} | (row if isinstance(row, dict) else row.as_dict()) for row in made]


def merged(path: Path, rows: list[dict], groups: Sequence[str]) -> list[dict]:
    """`rows` of `groups`, which ran, and those in the file `path` of others, in order of GROUPS.

    Raises SystemExit for a file that holds something else: it is not overwritten.
    """
    kept: list[dict] = []
    if path.is_file():
        try:
            kept = [row for row in json.loads(path.read_text()) if row["group"] not in groups]
        except (ValueError, TypeError, KeyError) as error:
            raise SystemExit(
                f"{path} holds no rows with groups ({error!r}): move it away, or give --output"
            ) from None
    place = {name: number for number, name in enumerate(GROUPS)}
    return sorted(kept + rows, key=lambda row: place.get(row["group"], len(place)))


def show(rows: list[dict]) -> None:
    """The table, for people."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title="weft against its peers, one thread", title_justify="left")
    for name in ("metric", "ours", "peer", "unit", "target", "met"):
        number = name in ("ours", "peer")
        table.add_column(name, justify="right" if number else "left", overflow="fold")
    for row in rows:
        values = [_shown(row[name]) for name in ("ours", "peer")]
        met = {True: "[green]yes", False: "[red]NO", None: "–"}[row["met"]]
        table.add_row(row["metric"], *values, row["unit"], _shown(row["target"]), met)
    console = Console()
    if not console.is_terminal:
        console.width = 160  # a file or a pipe has room
    console.print(table)


def _shown(value: float | str | None) -> str:
    if value is None:
        return "–"
    if isinstance(value, str):
        return value
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def main(argv: list[str] | None = None) -> int:
    """Exit code 0 also where a target is missed: the table says so."""
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("groups", nargs="*", metavar="group", help=f"of {', '.join(GROUPS)}")
    parser.add_argument("--output", type=Path, default=ROOT / "bench" / "results.json")
    options = parser.parse_args(argv)
    wrong = set(options.groups) - set(GROUPS)
    if wrong:
        parser.error(f"no group {sorted(wrong)[0]!r}; known: {', '.join(GROUPS)}")
    rows: list[dict] = []
    chosen = options.groups or list(GROUPS)
    merged(options.output, rows, chosen)  # a file that can't be kept is found before the hours
    with tempfile.TemporaryDirectory() as folder:
        for name in chosen:
            print(f"{name} ...", file=sys.stderr, flush=True)
            rows += group_rows(name, Path(folder))
    whole = merged(options.output, rows, chosen)
    options.output.write_text(json.dumps(whole, indent=2, ensure_ascii=False) + "\n")
    show(rows)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
