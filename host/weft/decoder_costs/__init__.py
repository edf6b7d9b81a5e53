"""What a decoder would take on a board, from its config.json alone: docs/estimates.md."""
