"""CSR, compressed sparse rows: row-wise dot products."""

from __future__ import annotations

from weft.sparse.compressed import make
from weft.sparse.nonzeros import by_row

CSR = make("csr", 0, by_row, "compressed sparse rows, as scipy's csr_array")
