"""The rows of an input file, and what each asks for."""
