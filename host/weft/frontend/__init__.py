"""Model files → Graph, one module per source."""
