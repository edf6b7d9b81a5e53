"""Bitstreams of weft for PYNQ (entry point `pynq.overlays`): a folder that .bit and .hwh go to."""
