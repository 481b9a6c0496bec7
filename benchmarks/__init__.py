"""Benchmarks: what the library costs in time, and what it reaches in a given time."""
