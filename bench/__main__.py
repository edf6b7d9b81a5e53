"""Runs the benchmarks: `python -m bench [group ...]`.

Prints one table and writes bench/results.json, a list of {metric, ours, peer, unit, target, met}.
Every figure is the shortest of repeated runs on one thread, ours and the peer's in turns. The
models and data sets that are not part of the project are looked for in WEFT_TEST_DATA.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
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
    "formats",
    "formats_accuracy",
    "eie",
    "snap",
    "sparsity",
    "qat",
    "nonlinear",
    "hgpipe",
    "embedding",
    "designs",
    "sparse_packing",
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
    return [row if isinstance(row, dict) else row.as_dict() for row in made]


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
    with tempfile.TemporaryDirectory() as folder:
        for name in options.groups or GROUPS:
            print(f"{name} ...", file=sys.stderr, flush=True)
            rows += group_rows(name, Path(folder))
    options.output.write_text(json.dumps(rows, indent=2, ensure_ascii=False) + "\n")
    show(rows)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
