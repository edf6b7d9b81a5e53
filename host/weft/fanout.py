"""One function over many items: on all cores, or on a Dask cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from weft.errors import DeviceError, MissingDependency, UsageError

Item = TypeVar("Item")
Result = TypeVar("Result")
Progress = Callable[[int, int], None]
CONNECT_S = 10


def fan_out(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    *,
    workers: int = 1,
    dask: str | None = None,
    progress: Progress | None = None,
) -> list[Result]:
    """`function` of every item, in their order; `progress` hears (done, total).

    With `dask`, the address of a scheduler, its workers do it; they need weft installed. Else
    `workers` processes. Raises MissingDependency without dask.distributed, DeviceError where no
    scheduler answers, UsageError for fewer than one worker.
    """
    if workers < 1:
        raise UsageError(f"workers = {workers}: at least one is needed")
    tell = progress or (lambda done, total: None)
    results: list[Any] = [None] * len(items)
    if dask is not None:
        finished = _on_cluster(function, items, dask)
    elif workers == 1 or len(items) < 2:
        finished = ((i, function(item)) for i, item in enumerate(items))
    else:
        finished = _in_processes(function, items, min(workers, len(items)))
    for done, (index, result) in enumerate(finished, start=1):
        results[index] = result
        tell(done, len(items))
    return results


def _in_processes(
    function: Callable[[Item], Result], items: Sequence[Item], workers: int
) -> Iterator[tuple[int, Result]]:
    from concurrent.futures import ProcessPoolExecutor, as_completed
    from multiprocessing import get_context

    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        futures = {pool.submit(function, item): i for i, item in enumerate(items)}
        for future in as_completed(futures):
            yield futures[future], future.result()


def _on_cluster(
    function: Callable[[Item], Result], items: Sequence[Item], address: str
) -> Iterator[tuple[int, Result]]:
    try:
        from distributed import Client, as_completed
    except ImportError:
        raise MissingDependency("--dask needs dask.distributed: pip install 'weft[dask]'") from None
    try:
        client = Client(address, timeout=CONNECT_S)
    except (OSError, ValueError) as error:
        raise DeviceError(
            f"no Dask scheduler at {address!r} ({error}); start one with `dask scheduler` and "
            "workers with `dask worker ADDRESS`"
        ) from None
    with client:
        futures = client.map(function, items, pure=False)
        index = {future.key: i for i, future in enumerate(futures)}
        for future in as_completed(futures):
            yield index[future.key], future.result()
