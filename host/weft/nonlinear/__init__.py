"""Nonlinear functions as hardware units: which methods there are, and what each one is good for.

`METHODS` maps (function, method) to a `Method`: formats, domain, largest error, golden model, C++
type and header. `NOT_APPLICABLE` says why the other pairs are missing. The golden models of the
pieces are in `weft.units` (table, segments, ibert, wang, softermax, polynomial, cordic, gate,
softmax, norm, table_ops), the hardware under the same names in hls/weft/units.
"""

from weft.nonlinear.functions import FUNCTIONS, Fixed, Function
from weft.nonlinear.methods import METHOD_NAMES, METHODS, NOT_APPLICABLE, method, methods_of
from weft.nonlinear.spec import Method

__all__ = [
    "FUNCTIONS",
    "METHODS",
    "METHOD_NAMES",
    "NOT_APPLICABLE",
    "Fixed",
    "Function",
    "Method",
    "method",
    "methods_of",
]
