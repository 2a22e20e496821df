"""Read the rows of an input file, and build a request from each."""
