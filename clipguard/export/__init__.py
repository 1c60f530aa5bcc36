"""ONNX files, and the proof that they equal PyTorch."""
