"""ONNX files, and the proof that they equal PyTorch."""

import os

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # onnxruntime reads it when it is imported
