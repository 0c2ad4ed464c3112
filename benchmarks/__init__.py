"""Measurements. Run them with `make bench` while nothing else runs; each prints ratios of one run on one machine."""
