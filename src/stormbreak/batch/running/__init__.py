"""Run a batch: send rows, count results, record why rows failed, stop."""
