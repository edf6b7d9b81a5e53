"""Builds many overlays for many boards: here, or on a Dask cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from weft import project, resources
from weft.config import Board, Overlay, board_names, load_board, load_overlay, overlay_names
from weft.errors import BuildError, MissingDependency, WeftError
from weft.project import BuildPlan
from weft.vendor import folder
from weft.vendor.run import Outcome, run
from weft.vendor.tools import Local

# What of a worker's folder goes back to the client.
_RETURNED = ("logs", "results", folder.STAMPS)


@dataclass(frozen=True)
class Row:
    """What became of one overlay on one board: built, written (no tools), does not fit, failed."""

    overlay: str
    board: str
    state: str
    detail: str = ""


def pairs(
    overlays: Sequence[str] = (), boards: Sequence[str] = ()
) -> tuple[list[tuple[Overlay, Board]], list[Row]]:
    """Overlays with the boards that they fit by estimate, and rows for those that they don't.

    Without names: all overlays, each on the boards that it is meant for, or else on all.
    """
    fitting: list[tuple[Overlay, Board]] = []
    refused: list[Row] = []
    for overlay in map(load_overlay, overlays or overlay_names()):
        for board in map(load_board, boards or overlay.boards or board_names()):
            found = resources.fit(overlay, board)
            if found.fits:
                fitting.append((overlay, board))
            else:
                refused.append(Row(overlay.name, board.name, "does not fit", "; ".join(found.over)))
    return fitting, refused


def build_all(
    designs: Iterable[tuple[Overlay, Board]],
    where: Path,
    *,
    jobs: int = 1,
    dask: str | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Row]:
    """Builds each design in a folder of its own below `where`; one that fails stops no other.

    With `dask`, the address of a scheduler, tools run on its workers, else `jobs` at a time here.
    Raises MissingDependency without dask.distributed, BuildError where no scheduler answers.
    """
    plans = [project.plan(overlay, board) for overlay, board in designs]
    rows: list[Row] = []
    done = _on_cluster(plans, where, dask) if dask else _here(plans, where, jobs)
    for row in done:
        rows.append(row)
        progress(len(rows), len(plans))
    return rows


def _here(plans: Sequence[BuildPlan], where: Path, jobs: int) -> Iterator[Row]:
    with ThreadPoolExecutor(max_workers=jobs) as pool:
        yield from pool.map(lambda plan: _row(plan, lambda: run(plan, where / plan.name)), plans)


def _row(plan: BuildPlan, build: Callable[[], Outcome]) -> Row:
    try:
        outcome = build()
    except WeftError as error:
        return Row(plan.overlay.name, plan.board.name, "failed", str(error))
    state = "built" if outcome.products else "written"
    detail = ", ".join(p.name for p in outcome.products) or outcome.next[0].lstrip("# ")
    return Row(plan.overlay.name, plan.board.name, state, detail)


def _on_cluster(plans: Sequence[BuildPlan], where: Path, address: str) -> Iterator[Row]:
    try:
        from distributed import Client
    except ImportError:
        raise MissingDependency("--dask needs dask.distributed: pip install 'weft[dask]'") from None
    try:
        client = Client(address, timeout="10s", set_as_default=False)
    except (OSError, ValueError, TimeoutError) as error:
        raise BuildError(f"no Dask scheduler answers at {address} ({error})") from None
    with client:
        # One tool run per worker process would be Dask's default only for one thread each.
        futures = [client.submit(build_on_worker, plan, pure=False) for plan in plans]
        for plan, future in zip(plans, futures, strict=True):
            yield _fetched(plan, where / plan.name, future)


def _fetched(plan: BuildPlan, where: Path, future: Any) -> Row:
    """Takes what a worker returns; the folder is then as if built here."""
    try:
        files, failure = future.result()
        folder.write(plan, where)
        for name, content in files.items():
            (where / name).parent.mkdir(parents=True, exist_ok=True)
            folder.put(where / name, content)
    except (WeftError, OSError) as error:
        files, failure = {}, str(error)
    if failure:
        return Row(plan.overlay.name, plan.board.name, "failed", failure)
    names = [name for name in plan.products.values() if name in files]
    state, detail = ("built", ", ".join(names)) if names else ("written", "workers have no tools")
    return Row(plan.overlay.name, plan.board.name, state, detail)


def build_on_worker(plan: BuildPlan) -> tuple[Mapping[str, bytes], str]:
    """Runs a plan in the worker's cache; its results, logs and products by name, and a failure.

    A plan that was interrupted there goes on where it was stopped.
    """
    from weft.build import cache_dir

    where = cache_dir() / "builds" / f"{plan.name}-{plan.digest()[:16]}"
    failure = ""
    try:
        run(plan, where, Local())
    except WeftError as error:
        failure = str(error)
    paths = [p for name in _RETURNED for p in sorted((where / name).rglob("*")) if p.is_file()]
    if not failure:
        paths += [where / name for name in plan.products.values() if (where / name).is_file()]
    return {str(p.relative_to(where)): p.read_bytes() for p in paths}, failure
