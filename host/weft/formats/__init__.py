"""Number formats: how weights become codes, and codes become rows of the weight stream."""

from weft.formats import int8
from weft.formats.base import Format

FORMATS: dict[str, Format] = {f.name: f for f in (int8.INT8,)}

__all__ = ["FORMATS", "Format"]
