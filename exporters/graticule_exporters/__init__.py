"""Exporters: turn trained models into ONNX model folders and prove that the answers stay the same."""
