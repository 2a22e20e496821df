"""The only places that sleep, lock, draw chance and read the clock, one module per world."""
