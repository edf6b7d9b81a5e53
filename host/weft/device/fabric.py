"""The programmable logic of one board: what it holds, and all that must be true before it runs.

Several sessions may use a board: they share its kernel, one run at a time.
"""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from weft.config import Overlay
from weft.device import bitfile
from weft.device.registers import DESIGN, DONE, IDLE, START, VLNV, built_mhz
from weft.errors import DeviceError, DeviceTimeout, MissingDependency, WeftError

if TYPE_CHECKING:
    from weft.device.driver import Kernel

CLOCK_TOLERANCE = 0.01
IDENTIFY_S = 2.0
_GLOBAL = threading.Lock()  # PYNQ keeps the active device, clocks and interrupts in globals
_fabrics: WeakKeyDictionary[Any, Fabric] = WeakKeyDictionary()


def require_pynq() -> Any:
    """The pynq package. Raises MissingDependency where it is not installed or can't be imported."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import pynq
    except ImportError as error:
        raise MissingDependency(
            f"boards need pynq ({error}): on a board use its image's Python, elsewhere "
            "pip install 'weft[board]' (pynq wants numpy<2: a virtual environment of its own)"
        ) from None
    return pynq


@contextmanager
def board_errors(what: str) -> Iterator[None]:
    """Turns what pynq, the operating system and gRPC raise into a DeviceError that says `what`."""
    try:
        yield
    except WeftError:
        raise
    except PermissionError as error:
        raise DeviceError(
            f"{what}: no permission ({error}). PYNQ needs root: use the board's Jupyter, or "
            "sudo -i, then source /etc/profile.d/pynq_venv.sh"
        ) from None
    except (OSError, RuntimeError, ValueError, EOFError) as error:
        raise DeviceError(f"{what}: {_words(error)}") from None
    except Exception as error:
        # gRPC's exceptions derive from Exception alone; to name them its package would be needed.
        if not hasattr(error, "code"):
            raise
        raise DeviceError(
            f"{what}: the connection to the board is lost ({_words(error)})"
        ) from None


def _words(error: Exception) -> str:
    details = getattr(error, "details", None)
    text = details() if callable(details) else str(error)
    return f"{type(error).__name__}: {text}"


class Fabric:
    """A board's logic. `lock` is held by whoever runs or loads; `kernel` is there once loaded."""

    def __init__(self, board: Any) -> None:
        self.board = board
        self.lock = threading.RLock()
        self.kernel: Kernel | None = None
        self.broken = False  # a run did not end: only loading the bitstream anew helps
        self._busy = False
        self.clock_mhz = 0.0
        self._path: Path | None = None
        self._overlay: Overlay | None = None
        self._wanted_mhz: float | None = None

    @staticmethod
    def of(board: Any) -> Fabric:
        """The one fabric of a board."""
        with _GLOBAL:
            return _fabrics.setdefault(board, Fabric(board))

    @contextmanager
    def running(self) -> Iterator[None]:
        """Holds the board for one run; threads wait, a task of the same thread is refused."""
        with self.lock:
            if self._busy:
                raise DeviceError("the board is busy with another task's run: await it first")
            self._busy = True
            try:
                yield
            finally:
                self._busy = False

    def load(self, path: Path, overlay: Overlay, clock_mhz: float | None = None) -> None:
        """Loads a bitstream if the board does not hold it; checks clock and design.

        `clock_mhz` sets the PL clock instead of what the design was built for. Raises DeviceError.
        """
        with self.lock:
            same = (path, overlay, clock_mhz) == (self._path, self._overlay, self._wanted_mhz)
            if same and self.kernel is not None and not self.broken:
                return
            self._path, self._overlay, self._wanted_mhz = path, overlay, clock_mhz
            self.kernel = None
            bitfile.check(path, overlay)
            self._permitted()
            with board_errors(f"loading {path.name}"), _GLOBAL:
                self.kernel = self._configure(path, clock_mhz)
            try:
                self._identify(self.kernel, overlay)
            except BaseException:
                self.kernel = None
                raise
            self.broken = False

    def ready(self, path: Path, overlay: Overlay, clock_mhz: float | None) -> Kernel:
        """The kernel, loaded anew where a run left it hanging or another overlay took its place."""
        self.load(path, overlay, clock_mhz)
        assert self.kernel is not None
        return self.kernel

    def _permitted(self) -> None:
        """A local board's registers are /dev/mem: say so before PYNQ fails half-way."""
        local = type(self.board).__name__ in ("EmbeddedDevice", "VersalDevice")
        if local and hasattr(os, "geteuid") and os.geteuid() != 0:
            raise DeviceError(
                "PYNQ needs root to reach the board's logic: use the board's Jupyter, or "
                "sudo -i, then source /etc/profile.d/pynq_venv.sh"
            )

    def _configure(self, path: Path, clock_mhz: float | None) -> Kernel:
        pynq = require_pynq()
        import weft.device.driver  # noqa: F401  # binds the driver, before the overlay is read

        with warnings.catch_warnings(), _active(pynq, self.board):
            warnings.simplefilter("ignore")  # of pynq's own; what matters is checked here
            try:
                overlay = pynq.Overlay(str(path), device=self.board)
            except TypeError as error:
                raise DeviceError(
                    f"pynq {pynq.__version__} can't load a design for Zynq-7000 ({error}): use "
                    "pip install pynq==3.1.2 'pycparser<3'"
                ) from None
            kernel = _find_kernel(overlay, path.with_suffix(".hwh"))
            self._check_clock(pynq.Clocks, built_mhz(path.with_suffix(".hwh")), clock_mhz)
        return kernel

    def _check_clock(self, clocks: Any, built: float | None, wanted: float | None) -> None:
        """Sets the clock if asked to, reads it back, compares with what was built."""
        expected = wanted or built
        if wanted is not None:
            clocks.fclk0_mhz = wanted
        self.clock_mhz = float(clocks.fclk0_mhz)
        if expected and abs(self.clock_mhz - expected) > CLOCK_TOLERANCE * expected:
            raise DeviceError(
                f"the logic's clock runs at {self.clock_mhz:.1f} MHz; {expected:.1f} MHz expected "
                "from the .hwh: an old .hwh beside a new .bit, or a clock that something else set. "
                "clock_mhz=... sets another one"
            )

    def _identify(self, kernel: Kernel, overlay: Overlay) -> None:
        """Runs no segment, after which the report names the design."""
        arguments = dict.fromkeys(
            ("program", "weights", "loads", "stores", "code", "first", "segments"), 0
        )
        with board_errors("reading the design id"):
            kernel.start({**arguments, "batch": 1, "memory_rows": 0, "weight_rows": 0})
            if not kernel.wait(IDENTIFY_S, "poll"):
                raise DeviceTimeout(
                    f"the kernel did not answer within {IDENTIFY_S} s: {state(kernel.control)}"
                )
            words = kernel.report(DESIGN + 2)
        found = f"{words[DESIGN + 1] & 0xFFFFFFFF:08x}{words[DESIGN] & 0xFFFFFFFF:08x}"
        if found != overlay.digest():
            raise DeviceError(
                f"design id on the board {found}, expected {overlay.digest()} (overlay "
                f"{overlay.name!r}): the bitstream holds other hardware than its name says"
            )


@contextmanager
def _active(pynq: Any, board: Any) -> Iterator[None]:
    """Makes a board PYNQ's active one for a while; it stays that where there was none."""
    before = getattr(pynq.Device, "_active_device", board)
    _activate(pynq, board)
    try:
        yield
    finally:
        _activate(pynq, before)


def _activate(pynq: Any, board: Any) -> None:
    pynq.Device.active_device = board
    pynq.Clocks.set_device(board)
    if hasattr(pynq.Clocks, "_real_instance"):
        del pynq.Clocks._real_instance  # else the clocks stay those of the first board


def _find_kernel(overlay: Any, handoff: Path) -> Kernel:
    """The driver of the kernel in an overlay. DeviceError where the .hwh belongs to another."""
    from weft.device.driver import Kernel

    kinds = {name: str(facts.get("type", "")) for name, facts in overlay.ip_dict.items()}
    wanted = VLNV.rpartition(":")[0]
    names = [name for name, kind in kinds.items() if kind.rpartition(":")[0] == wanted]
    if not names:
        raise DeviceError(
            f"{handoff.name} describes no {VLNV}: it holds {', '.join(sorted(kinds))}. It belongs "
            "to another design"
        )
    kernel = getattr(overlay, names[0])
    if not isinstance(kernel, Kernel):
        raise DeviceError(
            f"{handoff.name}: {names[0]} is a {kinds[names[0]]} with registers "
            f"{', '.join(sorted(kernel._registers or {}))}; this weft drives {VLNV}"
        )
    return kernel


def state(control: int) -> str:
    """What the bits of the control register say of a run that did not end."""
    done, idle = bool(control & DONE), bool(control & IDLE)
    bits = f"start={control & START:d}, done={done:d}, idle={idle:d}"
    if done or control & (IDLE | START) == IDLE:
        return f"the kernel is done, but its interrupt did not arrive ({bits}); use wait='poll'"
    if idle:
        return f"the kernel did not take its start ({bits}): its clock stands or it is in reset"
    return f"the kernel runs ({bits})"
