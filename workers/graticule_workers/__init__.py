"""The worker: takes jobs from the queues, runs ONNX models and writes results back to object storage."""
