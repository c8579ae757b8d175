"""An ONNX embedder as a differentiable torch module."""
