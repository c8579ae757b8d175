"""From a trained network to a profile that the edge runs: ONNX, document and model card."""
