"""Several boards serve requests in parallel."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from weft.device import open_device
from weft.device.base import Device
from weft.errors import DeviceError, UsageError
from weft.graph import Array
from weft.program import Program
from weft.runtime import Arrays, Session, load


class Pool:
    """A program on several devices; `run` may be called from any number of threads.

        with Pool(program, ["pynq", Pynq(address="192.168.2.98")]) as pool:
            scores = pool.run(images)

    `devices` are names (with `options`) or open devices. Each request goes to whichever device is
    free; one that fails leaves the pool, and its request goes to another.
    """

    def __init__(
        self, program: Program | str | Path, devices: Iterable[str | Device], **options: Any
    ) -> None:
        self.program = program if isinstance(program, Program) else load(program)
        self.failures: list[DeviceError] = []
        self._free: queue.SimpleQueue[Session] = queue.SimpleQueue()
        self._sessions: list[Session] = []
        self._lock = threading.Lock()
        try:
            for device in devices:
                opened = open_device(device, **options) if isinstance(device, str) else device
                session = Session(self.program, opened)
                self._sessions.append(session)
                self._free.put(session)
        except BaseException:
            self._close_sessions()
            raise
        if not self._sessions:
            raise UsageError("a pool needs at least one device")
        self._workers = ThreadPoolExecutor(len(self._sessions), "weft-pool")

    def __len__(self) -> int:
        """Devices that still serve."""
        return len(self._sessions)

    def submit(self, inputs: Arrays, *, timeout_s: float | None = None) -> Future[Any]:
        """A request, and a promise of what `Session.run` answers."""
        return self._workers.submit(self._serve, inputs, timeout_s)

    def run(self, inputs: Arrays, *, timeout_s: float | None = None) -> Any:
        """What `Session.run` answers; more samples than a device run holds go to all devices.

        Raises what `Session.run` raises; DeviceError once no device is left.
        """
        values = self._first().checked(inputs)
        samples, size = len(next(iter(values.values()))), self.program.batch
        parts = [
            {name: x[start : start + size] for name, x in values.items()}
            for start in range(0, samples, size)
        ]
        futures = [self.submit(part, timeout_s=timeout_s) for part in parts]
        results = [future.result() for future in futures]
        joined = {name: np.concatenate([r[name] for r in results]) for name in results[0]}
        single = isinstance(inputs, np.ndarray) and len(joined) == 1
        answer: Array | dict[str, Array] = next(iter(joined.values())) if single else joined
        return answer

    def close(self) -> None:
        """Waits for the requests, and gives the devices back."""
        self._workers.shutdown()
        self._close_sessions()

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _first(self) -> Session:
        with self._lock:
            if not self._sessions:
                raise self._nobody()
            return self._sessions[0]

    def _serve(self, inputs: Arrays, timeout_s: float | None) -> Any:
        while True:
            self._first()
            try:
                session = self._free.get(timeout=1.0)
            except queue.Empty:
                continue  # all are busy, or the last one has just failed
            try:
                result = session.run(inputs, timeout_s=timeout_s)
            except DeviceError as error:
                self._drop(session, error)
                continue
            except BaseException:
                self._free.put(session)
                raise
            self._free.put(session)
            return result

    def _drop(self, session: Session, error: DeviceError) -> None:
        with self._lock:
            self._sessions.remove(session)
            self.failures.append(error)
        _close(session)

    def _nobody(self) -> DeviceError:
        told = "; ".join(str(error) for error in self.failures[-3:])
        return DeviceError(f"no device is left in the pool: {told}")

    def _close_sessions(self) -> None:
        for session in self._sessions:
            _close(session)


def _close(session: Session) -> None:
    """Closes a session whose device may be gone."""
    try:
        session.close()
    except DeviceError:
        return
