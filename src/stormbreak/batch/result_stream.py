"""Results on their way from a run to a reader in another thread, one by one, as they come.

The run makes room for its reader: while `MAX_UNREAD` results wait, it sends no row that was not sent before.
"""

from collections import deque
from collections.abc import Callable

from stormbreak.batch.store.reader import Answered, Failed, parse_result

MAX_UNREAD = 256  # results that wait for the reader before the run stops sending


class ResultStream:
    """A queue of lines of the journal. The run calls `put`, its reader the rest; appending and popping is atomic.

    `on_put` wakes the reader, `on_room` the run; each is called in the other's thread.
    """

    def __init__(self, on_put: Callable[[], object]) -> None:
        self._lines: deque[bytes] = deque()
        self._on_put = on_put
        self.on_room: Callable[[], object] = lambda: None

    @property
    def has_room(self) -> bool:
        return len(self._lines) < MAX_UNREAD

    @property
    def is_empty(self) -> bool:
        return not self._lines

    def put(self, line: bytes) -> None:
        self._lines.append(line)
        self._on_put()

    def get(self) -> Answered | Failed | None:
        """Take the next result; None if there is none at present."""
        if not self._lines:
            return None
        line = self._lines.popleft()
        if len(self._lines) == MAX_UNREAD - 1:
            self.on_room()
        return parse_result(line)
