"""Quantization-aware training for PyTorch, and the way from there to a program.

    qat = weft.torch.prepare(model, weights="int4", activations="int8", example=x)
    weft.torch.calibrate(qat, batches)
    ...                                            # train it as any module
    program = weft.compile(weft.torch.export(qat, x), overlay="lab")

Needs the extra `torch`; `import weft` alone does not import it.
"""

from __future__ import annotations

from weft.errors import MissingDependency

try:
    import torch as _torch
except ImportError:
    raise MissingDependency(
        "weft.torch needs PyTorch, which is not installed: pip install 'weft[torch]'"
    ) from None

from weft.torch.activations import ActivationQuant, ElasticBinary
from weft.torch.augment import Augment
from weft.torch.deploy import export
from weft.torch.distill import Schedule, distill
from weft.torch.module import from_graph
from weft.torch.prepare import calibrate, prepare, scale_parameters
from weft.torch.pruning import Pruner, prune
from weft.torch.sharing import SharedWeight, share, unshare
from weft.torch.split import split_layer
from weft.torch.vision import LogSoftmax, PowerOfTwoFactors, TwinGelu, TwinSoftmax
from weft.torch.weights import METHODS, WeightQuant

del _torch

__all__ = [
    "METHODS",
    "ActivationQuant",
    "Augment",
    "ElasticBinary",
    "LogSoftmax",
    "PowerOfTwoFactors",
    "Pruner",
    "Schedule",
    "SharedWeight",
    "TwinGelu",
    "TwinSoftmax",
    "WeightQuant",
    "calibrate",
    "distill",
    "export",
    "from_graph",
    "prepare",
    "prune",
    "scale_parameters",
    "share",
    "split_layer",
    "unshare",
]
