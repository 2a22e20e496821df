"""Read the rows of an input file, and build the request of each."""
