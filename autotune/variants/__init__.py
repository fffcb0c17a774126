"""Compressed versions of the model, each an ONNX file: pruned, recovered and converted to a precision."""
