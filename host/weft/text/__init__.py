"""Text in, vectors out: what a text encoder needs around its program, on the host."""

from __future__ import annotations

from weft.text.encoder import TextEncoder, embed, open_text
from weft.text.pooling import Pooling

__all__ = ["Pooling", "TextEncoder", "embed", "open_text"]
