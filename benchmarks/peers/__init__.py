"""What a user would pick instead, on the same ONNX file, pictures and cores: see docs/benchmarks.md."""
