"""CSC, compressed sparse columns: columns of zero activations are skipped."""

from __future__ import annotations

from weft.sparse.compressed import make
from weft.sparse.nonzeros import by_column

CSC = make("csc", 1, by_column, "compressed sparse columns, as scipy's csc_array")
