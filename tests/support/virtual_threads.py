"""Real threads in virtual time: one runs at a time, the clock jumps when all wait, and every run is the same."""

import heapq
import threading
from collections import deque
from collections.abc import Callable
from itertools import count

PATIENCE = 60.0  # seconds of real time; longer counts as a hang


class Cancelled(BaseException):
    """Raised in a waiting thread, as KeyboardInterrupt would be."""


class Sleeper:
    """A thread that waits for its turn."""

    def __init__(self) -> None:
        self.turn = threading.Semaphore(0)
        self.ready = False
        self.error: BaseException | None = None


class Waiter:
    """The `threading.Event` of these threads."""

    def __init__(self, threads: "Threads") -> None:
        self._threads = threads
        self._is_set = False
        self._sleeper: Sleeper | None = None

    def wait(self, timeout: float) -> None:
        if not self._is_set:
            self._sleeper = Sleeper()
            self._threads.block(self._sleeper, timeout)

    def set(self) -> None:
        self._is_set = True
        if self._sleeper is not None:
            self._threads.wake(self._sleeper)


class Threads:
    """Runs each thread until it waits or ends, in the order of their times."""

    def __init__(self) -> None:
        self.now = 0.0
        self._numbers = count()
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._ready: deque[Sleeper] = deque()
        self._sleeping: dict[int, Sleeper] = {}
        self._back = threading.Semaphore(0)

    def time(self) -> float:
        return self.now

    def parking(self) -> Waiter:
        return Waiter(self)

    def at(self, when: float, do: Callable[[], None]) -> None:
        heapq.heappush(self._timers, (when, next(self._numbers), do))

    def spawn(self, when: float, main: Callable[[], None]) -> threading.Thread:
        sleeper = Sleeper()

        def body() -> None:
            sleeper.turn.acquire()
            try:
                main()
            except Cancelled:
                pass
            finally:
                self._back.release()

        thread = threading.Thread(target=body, daemon=True)
        thread.start()
        self.at(when, lambda: self.wake(sleeper))
        return thread

    def cancel(self, thread: threading.Thread) -> None:
        sleeper = self._sleeping.get(thread.ident or 0)
        if sleeper is not None and not sleeper.ready:
            sleeper.error = Cancelled()
            self.wake(sleeper)

    def sleep(self, seconds: float) -> None:
        self.block(Sleeper(), seconds)

    def block(self, sleeper: Sleeper, seconds: float) -> None:
        if seconds < threading.TIMEOUT_MAX:
            self.at(self.now + seconds, lambda: self.wake(sleeper))
        here = threading.get_ident()
        self._sleeping[here] = sleeper
        self._back.release()
        sleeper.turn.acquire()
        del self._sleeping[here]
        if sleeper.error is not None:
            raise sleeper.error

    def wake(self, sleeper: Sleeper) -> None:
        if not sleeper.ready:
            sleeper.ready = True
            self._ready.append(sleeper)

    def run(self) -> None:
        while self._ready or self._timers:
            if self._ready:
                self._ready.popleft().turn.release()
                assert self._back.acquire(timeout=PATIENCE), "a thread hangs"
            else:
                self.now, _, do = heapq.heappop(self._timers)
                do()
        assert not self._sleeping, "somebody waits for what will never come"
