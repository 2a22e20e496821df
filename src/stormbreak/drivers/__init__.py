"""Drivers: the only modules that sleep, lock, draw random numbers and read the clock."""
