"""Storms simulated: real engines against the provider model, in virtual time."""

from stormbreak.storm.simulation import Result, simulate

__all__ = ["Result", "simulate"]
