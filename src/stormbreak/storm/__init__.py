"""Simulated storms: real engines against the provider model, in virtual time."""

from stormbreak.storm.result import Result
from stormbreak.storm.simulation import simulate

__all__ = ["Result", "simulate"]
