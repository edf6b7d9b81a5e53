"""Notebooks of weft for PYNQ's `pynq get-notebooks` (entry point `pynq.notebooks`)."""
