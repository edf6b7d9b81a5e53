"""Which weights become zero, and how the others make up for it: see `passes/prune.py`."""
