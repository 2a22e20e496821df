"""Figures: see docs/benchmarks.md."""
