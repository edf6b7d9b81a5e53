"""Number formats: how weights become codes, and codes become rows of the weight stream."""

from weft.format import Format
from weft.formats import int8

FORMATS: dict[str, Format] = {f.name: f for f in (int8.INT8,)}

__all__ = ["FORMATS", "Format"]
