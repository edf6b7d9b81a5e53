"""The integer bias of a quantized Conv or Linear."""

from __future__ import annotations

import numpy as np

from weft.graph import Quant, Tensor

INT32 = np.iinfo(np.int32)


def integer_bias(bias: Tensor, x: Quant, w: Quant) -> Tensor:
    """`bias` as int32 with scale input × weights, zero point 0; itself if it is that already.

    Codes saturate at int32; where the weights' scale is 0 they are 0.
    """
    scale = np.asarray(np.float32(x.scale) * np.asarray(w.scale, np.float32))
    own, data = bias.quant, bias.data
    if own is not None and data is not None and data.dtype == np.int32:
        fits = own.scale.shape in ((), scale.shape)
        if fits and np.allclose(own.scale, scale, rtol=1e-6, atol=0):
            return bias
    real = np.asarray(bias.real(), np.float64)
    wide = np.broadcast_to(scale.astype(np.float64), real.shape if scale.ndim else ())
    with np.errstate(divide="ignore", invalid="ignore"):
        codes = np.rint(np.where(wide > 0, real / wide, 0))
    codes = np.clip(codes, INT32.min, INT32.max).astype(np.int32)
    return Tensor(
        bias.name, codes.shape, "float32", codes, Quant(scale, 0, 0 if scale.ndim else None)
    )
