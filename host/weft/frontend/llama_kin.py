"""Weights of Llama's kin under Llama's names: matrices that Phi-3 fuses, norms that Gemma shifts.

Abdin et al., Phi-3 Technical Report, 2024; Gemma Team, Gemma, 2024. Tensors as the transformers
library names them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from weft.frontend.decoder import Sizes
from weft.frontend.stored import StoredModel
from weft.frontend.transformer_blocks import Floats, Weights

ATTENTION, GATE = ("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj")


@dataclass(frozen=True)
class KinWeights(Weights):
    """Weights whose parts are taken out of matrices that hold several (`fused`), and whose norms
    are one less than they are meant (`shifted`).
    """

    sizes: Sizes | None = None
    shifted: bool = False

    def has(self, name: str) -> bool:
        """Whether there is such a tensor, or one that holds it."""
        return super().has(name) or super().has(self._whole(name)[0])

    def take(self, name: str, *shape: int) -> Floats:
        """A tensor of that shape; raises as `Weights.take`."""
        whole, rows, first = self._whole(name)
        if not super().has(name) and super().has(whole):
            part = super().take(whole, rows, *shape[1:])
            return np.ascontiguousarray(part[first : first + shape[0]])
        found = super().take(name, *shape)
        norm = self.shifted and name.endswith("norm.weight")
        return found + np.float32(1) if norm else found

    def outside(self) -> Weights:
        """The tensors beside the decoder."""
        return Weights(self.model)

    def _whole(self, name: str) -> tuple[str, int, int]:
        """The tensor that holds another one, its rows, and the first that are meant."""
        s = self.sizes
        before, _, last = name.removesuffix(".weight").rpartition(".")
        if s is None or not name.endswith(".weight"):
            return "", 0, 0
        kinds = (
            (ATTENTION, "qkv_proj", (s.heads * s.head, *(2 * [s.kv_heads * s.head]))),
            (GATE, "gate_up_proj", (s.hidden, s.hidden)),
        )
        for parts, whole, counts in kinds:
            if last in parts:
                at = parts.index(last)
                return f"{before}.{whole}.weight", sum(counts), sum(counts[:at])
        return "", 0, 0


def weights_of(kind: str, model: StoredModel, weights: Weights, sizes: Sizes) -> Weights:
    """The weights of a model of that kind, as Llama's."""
    if kind == "phi3":
        return KinWeights(model, weights.prefix, sizes)
    return KinWeights(model, weights.prefix, None, True) if kind == "gemma" else weights
