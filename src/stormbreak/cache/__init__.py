"""Answers that were good once, kept for the time when no other can be had."""
