"""Bitstream files: where they lie, what their header says, what must hold before one is loaded."""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from pathlib import Path

from weft import overlays
from weft.build import cache_dir
from weft.config import Overlay, data_root
from weft.errors import DeviceError, WeftError
from weft.overlays import links

_MAGIC = bytes.fromhex("00090ff00ff00ff00ff000")


@dataclass(frozen=True)
class Bitstream:
    """A .bit file: the design, part and date of its header, and the configuration data."""

    design: str
    part: str
    date: str
    data: bytes

    def encode(self) -> bytes:
        """The file's bytes."""
        texts = ((b"a", self.design), (b"b", self.part), (b"c", self.date), (b"d", "00:00:00"))
        fields = b"".join(
            key + struct.pack(">H", len(text) + 1) + text.encode() + b"\0" for key, text in texts
        )
        return _MAGIC + b"\0\x01" + fields + b"e" + struct.pack(">I", len(self.data)) + self.data

    @staticmethod
    def decode(path: Path) -> Bitstream:
        """Reads a .bit file. Raises DeviceError where it is none, or ends before its data does."""
        content = read(path)
        texts: dict[bytes, str] = {}
        try:
            at = 2 + struct.unpack_from(">H", content)[0] + 2
            while (key := content[at : at + 1]) != b"e":
                (length,) = struct.unpack_from(">H", content, at + 1)
                texts[key] = content[at + 3 : at + 3 + length].rstrip(b"\0").decode("ascii")
                at += 3 + length
            (size,) = struct.unpack_from(">I", content, at + 1)
        except (struct.error, UnicodeDecodeError):
            raise DeviceError(f"{path}: not a bitstream: its header can't be read") from None
        data = content[at + 5 :]
        if len(data) < size:
            raise DeviceError(
                f"{path}: the bitstream is truncated: its header announces {size:,} bytes, "
                f"{len(data):,} are there; copy it again and compare checksums"
            )
        design, part, date = (texts.get(key, "") for key in (b"a", b"b", b"c"))
        return Bitstream(design, part, date, data[:size])


def read(path: Path) -> bytes:
    """A file's content. Raises DeviceError if it can't be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise DeviceError(f"{path}: {error.strerror}") from None


def file_name(overlay: Overlay) -> str:
    """`<overlay>-<digest>.bit`: another design never has the same name."""
    return f"{overlay.name}-{overlay.digest()}.bit"


def folders() -> list[Path]:
    """Where bitstreams are looked for: $WEFT_BITSTREAMS, here, weft's own folders, the cache."""
    named = os.environ.get("WEFT_BITSTREAMS", "")
    given = [Path(name) for name in named.split(os.pathsep) if name]
    own = [*sorted((data_root() / "overlays").glob("*/")), Path(overlays.__file__).parent]
    return [*given, Path.cwd(), *own, cache_dir()]


def find(overlay: Overlay) -> Path:
    """The bitstream of an overlay; where there is only a .link to it, it is downloaded beside.

    DeviceError says what was looked for, and what is there; links.fetch tells what it raises.
    """
    name = file_name(overlay)
    for folder in folders():
        if (folder / name).is_file():
            return folder / name
    for folder in folders():
        if (folder / f"{name}{links.SUFFIX}").is_file():
            return _fetch(folder / f"{name}{links.SUFFIX}")
    others = sorted({p.name for f in folders() for p in f.glob(f"{overlay.name}-*.bit")})
    there = f" Of other versions there are: {', '.join(others)}." if others else ""
    raise DeviceError(
        f"no {name} in {', '.join(map(str, folders()[:2]))} or weft's own folders.{there} Build it "
        f"for your board, or name its folder in WEFT_BITSTREAMS, or pass bitfile=..."
    )


def _fetch(link: Path) -> Path:
    """The bitstream that a .link stands for, and its .hwh, for the board that $BOARD names."""
    board = os.environ.get("BOARD", "")  # PYNQ's images set it
    if not board and links.ANY not in links.read(link):
        raise DeviceError(
            f"{link}: for which board? Set BOARD to one of {', '.join(links.read(link))}"
        )
    handoff = link.with_name(link.name.removesuffix(f".bit{links.SUFFIX}") + f".hwh{links.SUFFIX}")
    # The .hwh comes first: a .bit that is there has its .hwh.
    first = links.fetch(handoff, board, link.parent) if handoff.is_file() else None
    try:
        return links.fetch(link, board, link.parent)
    except WeftError:
        if first is not None:
            first.unlink(missing_ok=True)
        raise


def check(path: Path, overlay: Overlay) -> Bitstream:
    """The bitstream at `path`, with its .hwh beside it and no other overlay's digest in its name.

    Raises DeviceError that says which of these does not hold.
    """
    if not path.is_file():
        raise DeviceError(f"{path}: no such bitstream")
    handoff = path.with_suffix(".hwh")
    if not handoff.is_file():
        raise DeviceError(f"{handoff}: missing; PYNQ reads a design's registers from it")
    digest = path.stem.rpartition("-")[2]
    named = len(digest) == 16 and all(c in "0123456789abcdef" for c in digest)
    if named and digest != overlay.digest():
        raise DeviceError(
            f"{path.name} is design {digest}; the program needs {overlay.digest()} "
            f"(overlay {overlay.name!r}): compile it again, or load {file_name(overlay)}"
        )
    return Bitstream.decode(path)
