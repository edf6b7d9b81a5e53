"""Quantizers: how the numbers of a layer become codes, beyond rounding each to the nearest."""
