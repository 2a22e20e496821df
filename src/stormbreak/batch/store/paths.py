"""The files of one batch: OUTPUT and the files beside it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from stormbreak.errors import ConfigurationError
from stormbreak.escape import path_of


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchPaths:
    """OUTPUT (`out.jsonl`) and its neighbours."""

    output: Path
    failed: Path  # out.failed.jsonl: rows that failed, and why
    run: Path  # out.jsonl.run: which input and options this OUTPUT belongs to
    lock: Path  # out.jsonl.lock: held while a run writes
    input: Path  # out.input.jsonl: rows that came from Python
    socket: Path  # out.jsonl.sock: exists during a run, for `stormbreak top`

    @classmethod
    def of(cls, output: Path) -> Self:
        """Name the neighbours of `output`. A link is followed, so that two names of one file share a lock."""
        try:
            real = output.resolve() if output.is_symlink() else output
        except (OSError, RuntimeError):  # too long, or a link to itself: reported when it is opened
            real = output
        if not real.name:
            raise ConfigurationError(f"{path_of(output)}: not a name for an output")
        return cls(
            output=real,
            failed=real.with_name(f"{real.stem}.failed{real.suffix}"),
            run=real.with_name(f"{real.name}.run"),
            lock=real.with_name(f"{real.name}.lock"),
            input=real.with_name(f"{real.stem}.input{real.suffix}"),
            socket=real.with_name(f"{real.name}.sock"),
        )
