"""PYNQ's .link files: where a board's bitstream is downloaded from, and its checksum.

`tiny-<digest>.bit.link` stands for `tiny-<digest>.bit`, `tiny-<digest>.hwh.link` for its .hwh. The
content is JSON, {"KV260": {"url": "https://...", "md5sum": "..."}, ...}, or one such pair without
a board's name, which holds for every board; PYNQ's own tools read the same files.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from weft.errors import DeviceError, UsageError, unknown
from weft.program_file import replacing

ANY = ""  # the key of a pair that holds for every board
SUFFIX = ".link"
SILENCE_S = 30.0  # a server that sends nothing for so long is given up
_CHUNK = 1 << 16


class Source(NamedTuple):
    """A file to download: its address, and the MD5 of its content in 32 hexadecimal digits."""

    url: str
    md5: str


def read(path: str | Path) -> dict[str, Source]:
    """The sources of a .link file by board. Raises DeviceError if it is not one."""
    path = Path(path)
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise DeviceError(f"{path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise DeviceError(f"{path}: not a .link file: its JSON can't be read ({error})") from None
    if not isinstance(content, dict) or not content:
        raise DeviceError(f"{path}: not a .link file: expected {{board: {{url, md5sum}}}}")
    if {"url", "md5sum"} <= content.keys():
        content = {ANY: content}
    return {board: _source(path, board, entry) for board, entry in content.items()}


def write(path: str | Path, sources: Mapping[str, tuple[str, str]]) -> Path:
    """Writes {board: (url, md5)} as a .link file; the board ANY must be the only one.

    Raises UsageError for what `read` would refuse.
    """
    path = Path(path)
    if path.suffix != SUFFIX:
        raise UsageError(f"{path}: the name must be that of the file with {SUFFIX} behind it")
    if not sources or (ANY in sources and len(sources) > 1):
        raise UsageError(f"{path}: needs boards, or one source for all, not {sorted(sources)}")
    entries = {board: {"url": url, "md5sum": md5} for board, (url, md5) in sources.items()}
    try:
        for board, entry in entries.items():
            _source(path, board, entry)
    except DeviceError as error:
        raise UsageError(str(error)) from None
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(entries.get(ANY, entries), indent=2) + "\n")
    return path


def fetch(link: str | Path, board: str, folder: str | Path) -> Path:
    """Downloads what `link` names for `board` to `folder`, and returns the file.

    The file is there once it is complete and its checksum is right; on an error nothing is left.
    Raises UsageError for a board that the link has no source for, DeviceError if the link can't be
    read, the server does not deliver, or the checksum is wrong, WeftError if the folder can't be
    written.
    """
    link = Path(link)
    sources = read(link)
    source = sources.get(board) or sources.get(ANY)
    if source is None:
        raise UsageError(f"{link.name}: {unknown('board', board, sources)}")
    target = Path(folder) / link.name.removesuffix(SUFFIX)
    # MD5 is what the format has: it finds broken downloads, and does not prove an origin.
    md5 = hashlib.md5(usedforsecurity=False)
    with replacing(target) as temporary:
        with temporary.open("wb") as file:
            for chunk in _chunks(source.url):
                md5.update(chunk)
                file.write(chunk)
        if md5.hexdigest() != source.md5:
            raise DeviceError(
                f"{source.url}: MD5 is {md5.hexdigest()}, {link.name} says {source.md5}: the "
                "download broke off, or the file was replaced; try again, then get a newer .link"
            )
    return target


def _source(path: Path, board: str, entry: Any) -> Source:
    """A checked pair of a .link file."""
    place = f"{path}: {board or 'every board'}"
    url, md5 = (entry.get(k) if isinstance(entry, dict) else None for k in ("url", "md5sum"))
    if not isinstance(url, str) or not isinstance(md5, str):
        raise DeviceError(f"{place}: expected a url and an md5sum, found {str(entry)[:80]}")
    # Nothing else: urllib would open file: and ftp:, too.
    if not re.match(r"https?://[^/\s]", url):
        raise DeviceError(f"{place}: url {url[:80]!r}: only http:// and https:// are fetched")
    if not re.fullmatch(r"[0-9a-fA-F]{32}", md5):
        raise DeviceError(f"{place}: md5sum {md5[:80]!r}: expected 32 hexadecimal digits")
    return Source(url, md5.lower())


def _chunks(url: str) -> Iterator[bytes]:
    """The content at `url`. Raises DeviceError for whatever the network does."""
    from http.client import HTTPException
    from urllib.error import HTTPError
    from urllib.request import urlopen

    try:
        with urlopen(url, timeout=SILENCE_S) as answer:
            while chunk := answer.read(_CHUNK):
                yield chunk
    except HTTPError as error:
        error.close()
        raise DeviceError(f"{url}: the server answers {error.code} {error.reason}") from None
    except (OSError, HTTPException, ValueError) as error:
        raise DeviceError(
            f"{url}: can't be downloaded ({error}); without a network, copy the file to the board"
        ) from None
