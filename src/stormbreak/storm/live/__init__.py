"""Storms on real sockets: the embedded provider against any program."""

from stormbreak.storm.live.programs import Program, ProgramError
from stormbreak.storm.live.run import Played, play

__all__ = ["Played", "Program", "ProgramError", "play"]
