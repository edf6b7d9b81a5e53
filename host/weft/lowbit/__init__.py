"""Quantizers of one to four bits that training uses, as functions on numpy arrays.

`ternary`, `binary`: weights of Transformers and small networks; `vision`: activations of Vision
Transformers. `weft.torch` makes them differentiable; each function is the definition of its values.
"""
