"""The engine: one resident onnxruntime session per model, fed by one thread that batches whatever waits."""
