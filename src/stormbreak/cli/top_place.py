"""Finding what to watch: by what its user typed, or the one batch that runs here."""

from collections.abc import Callable
from pathlib import Path

from stormbreak.batch.files import BatchPaths
from stormbreak.batch.lock import held
from stormbreak.batch.plain import path_of
from stormbreak.errors import ConfigurationError
from stormbreak.telemetry.looking import Place, place_of


def find(text: str | None) -> Place:
    """Where the state of `text` is served; None: that of the only batch at work in this folder.

    Raises:
        ConfigurationError: there is no such thing, or more than one.
    """
    if text is None:
        return _only_one(Path())
    return place_of(text) or _of_path(Path(text))


def _of_path(path: Path) -> Place:
    if _is(path.is_socket):
        return Place(path=path)
    files = BatchPaths.of(path)
    if _is(files.socket.is_socket) and held(files):
        return Place(path=files.socket, name=str(path))
    if held(files):
        said = "a run is at work on it, but has no socket here; give that run a --metrics-port"
    elif _is(files.run.is_file):
        said = "no run is at work on it"
    else:
        said = "neither the OUTPUT of a batch, nor a socket, nor a port"
    raise ConfigurationError(f"{path_of(path)}: {said}")


def _only_one(folder: Path) -> Place:
    outputs = [
        each.with_suffix("") for each in sorted(folder.glob("*.sock")) if _is(each.is_socket)
    ]
    at_work = [output for output in outputs if held(BatchPaths.of(output))]
    if not at_work:
        raise ConfigurationError(
            "no batch is at work in this folder: name an OUTPUT, a port or a socket"
        )
    if len(at_work) > 1:
        names = ", ".join(path_of(output) for output in at_work[:5])
        raise ConfigurationError(f"several batches are at work in this folder ({names}): name one")
    return Place(path=BatchPaths.of(at_work[0]).socket, name=str(at_work[0]))


def _is(fact: Callable[[], bool]) -> bool:
    """Whether the file system says so; no, where it says nothing, such as of a folder that is not ours."""
    try:
        return fact()
    except OSError:
        return False
