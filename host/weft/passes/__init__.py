"""Graph → Graph: fusing and quantization."""
