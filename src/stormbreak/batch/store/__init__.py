"""The files of a run (output, failures, journal, run file, lock) and its cost."""
