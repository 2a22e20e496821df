"""Storms on real sockets: the embedded provider against any program that asks it."""

from stormbreak.storm.live.playing import Played, play
from stormbreak.storm.live.programs import Program, ProgramError

__all__ = ["Played", "Program", "ProgramError", "play"]
