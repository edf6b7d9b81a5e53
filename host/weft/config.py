"""Overlays and boards: data read from TOML, checked once, then plain values.

The files lie in `overlays/<name>/overlay.toml` and `boards/<name>.toml`, in the repository or,
once installed, inside the package.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

from weft import overlay_checks
from weft.board import Board as Board
from weft.errors import OverlayError, UsageError, unknown

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


@cache
def data_root() -> Path:
    """The folder that holds hls/, overlays/ and boards/: the checkout's, or the wheel's."""
    package = Path(__file__).resolve().parent
    for root in (package.parents[1], package / "data"):
        if (root / "overlays").is_dir() and (root / "hls").is_dir():
            return root
    raise OverlayError(f"no overlays/ and hls/ beside {package}: the installation is incomplete")


OVERLAY_LIMITS = {
    "rows": (4, 256),
    "bus_bytes": (4, 64),
    "buffer_words": (16, 1 << 24),
    "accumulator_rows": (16, 1 << 16),
    "parameter_blocks": (1, 1 << 15),
    "tap_words": (16, 1 << 15),
    "weight_tiles": (2, 64),
    "snap_cores": (1, 16),
    "snap_rows": (1, 32),
    "snap_cols": (1, 16),
    "snap_macs": (1, 8),
    "snap_bundle": (8, 128),
    "snap_depth": (1, 4096),
    "wide_words": (0, 1 << 20),
    "operand_words": (0, 1 << 20),
    "stream_rows": (1, 16),
    "weight_ports": (1, 16),
}
INTEGER_METHOD = "ibert"  # I-BERT's LayerNorm, whose mean is rounded
TABLE_METHOD = "table"  # HG-PIPE's softmax and LayerNorm, of tables that a program loads
UNITS = (
    "requant", "vector", "lookup", "attention", "norm", "rotate", "ranges", "token_ranges",
    "packed_cache",
)  # fmt: skip


@dataclass(frozen=True)
class Overlay:
    """One configuration of the hardware; sizes are in words of `rows` int8 unless named."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    name: str
    rows: int
    cols: int
    bus_bytes: int
    buffer_words: int
    accumulator_rows: int
    parameter_blocks: int
    tap_words: int
    multiplier: str = "single"
    weight_bits: int = 8
    weight_tiles: int = 4
    stream_rows: int = 1  # tile rows that a clock decodes and multiplies for engine matvec
    weight_ports: int = 1  # memory ports that weights come through
    own_memories: bool = False  # each of these ports has a memory of its own: channels of HBM
    nm_group: int = 4  # M of N:M weights at most
    snap_cores: int = 1  # of the SNAP engine (JSSC 2021: 4 cores of 7 x 3 PEs with 3 multipliers)
    snap_rows: int = 7  # rows of PEs in a core
    snap_cols: int = 3  # columns of them
    snap_macs: int = 3  # multipliers of a PE
    snap_bundle: int = 32  # channels that its comparators match
    snap_depth: int = 256  # bundles of either operand, and sums, that it keeps
    engines: tuple[str, ...] = ("systolic",)
    formats: tuple[str, ...] = ("int8",)
    units: tuple[str, ...] = ("requant", "vector", "lookup")
    eie_pes: int = 64  # processing elements; a multiple of cols
    eie_queue: int = 8  # columns that wait in a PE
    eie_entries: int = 16_384  # bytes of entries in a PE: one each, two of int8 weights
    eie_pointers: int = 4_098  # column pointers of a PE: inputs + 1; an even number
    eie_outputs: int = 64  # of a PE
    wide_words: int = 0  # words of int16: the residual stream, and scores of attention
    operand_words: int = 0  # what attention keeps of keys and values
    softmax: tuple[str, ...] = ("pwl",)  # how attention makes exponentials (docs/nonlinear.md),
    norm: tuple[str, ...] = ("pwl",)  # and norms the reciprocal of a root
    boards: tuple[str, ...] = ()  # those it is meant for; no part of what the hardware is

    @property
    def lanes(self) -> int:
        """int8 values in a unified-buffer word and in a memory row."""
        return self.rows

    def words_of(self, space: str) -> int:
        """Words of an on-chip buffer: unified, operand, wide, or ranges of tokens."""
        if space == "unified":
            return self.buffer_words
        if space == "operand":
            return self.operand_words if "attention" in self.units else 0
        if space == "ranges":
            return self.range_words
        return self.wide_words if {"attention", "norm", "rotate"} & set(self.units) else 0

    @property
    def operand_group(self) -> int:
        """Words of the operand buffer that engine matvec reads in a clock: as many as the weight
        ports bring, and as it has rows for.
        """
        return min(self.stream_rows, self.weight_ports) if self.cached else 1

    @property
    def range_words(self) -> int:
        """Words of magnitudes, a lane per token: enough where keys and values of a token take two
        words of the operand buffer or more.
        """
        return self.operand_words // self.lanes if "token_ranges" in self.units else 0

    @property
    def cached(self) -> bool:
        """Whether keys and values of earlier tokens come through the weight ports."""
        return "matvec" in self.engines and "attention" in self.units

    @property
    def run_rows(self) -> int:
        """What the rows of a run of these are filled up to: elements of the stream, packets."""
        return max(self.stream_rows, self.weight_ports)

    @property
    def beats(self) -> int:
        """Clocks that one memory row takes on a port."""
        return self.rows // self.bus_bytes

    @property
    def pace(self) -> int:
        """Clocks per tile row that int8 weights take to arrive at an array."""
        return -(-self.beats // self.weight_ports)

    @property
    def banks(self) -> int:
        """Words of the unified buffer that a clock reads."""
        return 4 if set(self.engines) - {"systolic", "eie", "snap", "matvec"} else 1

    @property
    def parts(self) -> int:
        """Parts of a word that are written one by one, as codes of fewer bits share bytes."""
        return 8 if set(self.engines) & {"fusion", "shift", "binary"} else 1

    @property
    def products_per_dsp(self) -> int:
        """int8 products per DSP; columns that share one see the same activation."""
        return {"single": 1, "packed": 2}[self.multiplier]

    @property
    def column_groups(self) -> int:
        """Registers that an activation passes on its way through the array."""
        return self.cols // self.products_per_dsp

    def digest(self) -> str:
        """Sixteen hex digits that name this hardware; a program runs only on the same."""
        from weft import isa

        hardware = {key: value for key, value in asdict(self).items() if key != "boards"}
        facts = json.dumps([hardware, isa.fingerprint()], sort_keys=True)
        return hashlib.sha256(facts.encode()).hexdigest()[:16]

    def verify(self) -> Overlay:
        """Returns itself; raises OverlayError naming the first size that can't be built."""
        if self.rows != self.cols:
            raise OverlayError(
                f"overlay {self.name!r}: rows = {self.rows} and cols = {self.cols} differ; a "
                "unified-buffer word feeds the rows and takes the columns, so they must be equal"
            )
        if not isinstance(self.name, str) or not re.fullmatch(r"\w[\w.+-]{0,63}", self.name):
            raise OverlayError(
                f"overlay name {self.name!r}: use up to 64 letters, digits and _.+- "
                "(it names files and stands in generated code)"
            )
        for name, (low, high) in OVERLAY_LIMITS.items():
            value = getattr(self, name)
            if not isinstance(value, int):
                raise OverlayError(f"overlay {self.name!r}: {name} = {value!r} is not an integer")
            if not low <= value <= high:
                raise OverlayError(
                    f"overlay {self.name!r}: {name} = {value} is outside {low}..{high}"
                )
        if self.rows & (self.rows - 1) or self.rows % self.bus_bytes:
            raise OverlayError(
                f"overlay {self.name!r}: rows = {self.rows} must be a power of two and a multiple "
                f"of bus_bytes = {self.bus_bytes}"
            )
        if self.multiplier not in ("single", "packed"):
            raise OverlayError(unknown("multiplier", self.multiplier, ["single", "packed"]))
        if self.weight_bits not in ((8,) if self.multiplier == "packed" else (8, 16)):
            raise OverlayError(
                f"overlay {self.name!r}: weight_bits = {self.weight_bits}; the array takes weights "
                "of 8 bits or, with one product per DSP, of 16"
            )
        overlay_checks.check_sparse(self)
        overlay_checks.check_stream(self)
        self._check_units()
        return self

    def _check_units(self) -> None:
        """Raises OverlayError for a unit without the memory or the methods that it works with."""
        for unit in self.units:
            if unit not in UNITS:
                raise OverlayError(f"overlay {self.name!r}: {unknown('unit', unit, UNITS)}")
        needs = {unit: ["wide_words"] for unit in ("attention", "norm", "rotate")}
        needs["attention"].append("operand_words")
        for unit, memories in needs.items():
            for memory in memories:
                if unit in self.units and getattr(self, memory) < self.rows:
                    raise OverlayError(
                        f"overlay {self.name!r}: unit {unit} needs {memory} of at least "
                        f"{self.rows}, not {getattr(self, memory)}"
                    )
        if "ranges" in self.units and "norm" not in self.units:
            raise OverlayError(
                f"overlay {self.name!r}: unit ranges makes them of what unit norm gives, which is "
                f"none of {', '.join(self.units)}"
            )
        if "packed_cache" in self.units and not self.cached:
            raise OverlayError(
                f"overlay {self.name!r}: unit packed_cache unpacks what comes through the weight "
                "ports, for unit attention and engine matvec; it lacks one of them"
            )
        self._check_token_ranges()
        if "attention" in self.units and "systolic" not in self.engines:
            raise OverlayError(
                f"overlay {self.name!r}: unit attention runs on engine systolic, which is none of "
                f"{', '.join(self.engines)}"
            )
        for unit, methods in (("attention", self.softmax), ("norm", self.norm)):
            if unit in self.units:
                self._check_methods(unit, methods)

    def _check_token_ranges(self) -> None:
        """Raises OverlayError for ranges of tokens that nothing makes, or nothing reads."""
        missing = [u for u in ("attention", "rotate") if u not in self.units]
        if "token_ranges" in self.units and missing:
            raise OverlayError(
                f"overlay {self.name!r}: unit token_ranges needs units attention and rotate, but "
                f"{' and '.join(missing)} is none of {', '.join(self.units)}"
            )

    def _check_methods(self, unit: str, methods: tuple[str, ...]) -> None:
        from weft.nonlinear import method

        if not 1 <= len(methods) <= 8:
            raise OverlayError(
                f"overlay {self.name!r}: {len(methods)} methods for unit {unit}; it takes 1 to 8"
            )
        for name in methods:
            if name == TABLE_METHOD:
                continue
            if not method("exp" if unit == "attention" else "rsqrt", name).cpp:
                raise OverlayError(
                    f"overlay {self.name!r}: method {name} of unit {unit} is no hardware; "
                    "`weft units list` names those that are"
                )


def overlay_names() -> list[str]:
    """Names of the overlays that come with weft."""
    return sorted(p.parent.name for p in (data_root() / "overlays").glob("*/overlay.toml"))


def board_names() -> list[str]:
    """Names of the boards that come with weft, as PYNQ spells them."""
    return sorted(p.stem for p in (data_root() / "boards").glob("*.toml"))


def load_overlay(name: str | Path) -> Overlay:
    """The overlay of that name, or the one described by a .toml file.

    Raises OverlayError for a malformed description, UsageError for an unknown name.
    """
    path = Path(name)
    if path.suffix != ".toml":
        if str(name) not in overlay_names():
            raise UsageError(unknown("overlay", str(name), overlay_names()))
        path = data_root() / "overlays" / str(name) / "overlay.toml"
    facts = _read_toml(path)
    for key in ("engines", "formats", "units", "boards", "softmax", "norm"):
        if isinstance(facts.get(key), list):
            facts[key] = tuple(facts[key])
    overlay: Overlay = _build(Overlay, facts, path)
    return overlay.verify()


def load_board(name: str | Path) -> Board:
    """The board of that name, or the one described by a .toml file.

    Raises OverlayError for a malformed description, UsageError for an unknown name.
    """
    path = Path(name)
    if path.suffix != ".toml":
        if str(name) not in board_names():
            raise UsageError(unknown("board", str(name), board_names()))
        path = data_root() / "boards" / f"{name}.toml"
    facts = _read_toml(path)
    resources = facts.pop("resources", {})
    shell = facts.pop("shell", {})
    for table, found in (("resources", resources), ("shell", shell)):
        if not isinstance(found, dict):
            raise OverlayError(f"{path}: [{table}] is a table of numbers, not {found!r}")
    if isinstance(facts.get("ports"), list):
        facts["ports"] = tuple(facts["ports"])
    shell = {f"shell_{key}": value for key, value in shell.items()}
    board: Board = _build(Board, {**facts, **resources, **shell}, path)
    return board.verify()


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text())
    except FileNotFoundError:
        raise OverlayError(f"{path}: no such file") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise OverlayError(f"{path}: {error}") from None


def _build(kind: type[Any], facts: dict[str, Any], path: Path) -> Any:
    """`facts` as a `kind`, with types checked by pydantic (imported here: it takes a while)."""
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(kind).validate_python(facts)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise OverlayError(f"{path}: {where}: {first['msg']} (got {first['input']!r})") from None
