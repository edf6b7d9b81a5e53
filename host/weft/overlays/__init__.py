"""Bitstreams of weft for PYNQ (entry point `pynq.overlays`): a folder for .bit, .hwh and .link."""
