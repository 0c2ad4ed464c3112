"""Producers: whatever puts images into the cluster. Light; none of them imports onnxruntime."""
