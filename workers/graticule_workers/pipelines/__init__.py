"""Pipelines: from a picture to measurements, one for each task that a manifest can name."""
