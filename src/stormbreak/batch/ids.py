"""A table that finds one custom_id among millions, in about 20 bytes each.

It keeps a 64-bit hash per id and an open-addressed table of numbers; the ids themselves stay in their file.
Two ids with one hash are told apart by reading the real id back, so an answer is never a guess.
"""

from array import array
from collections.abc import Callable

_START = 1024  # slots; always a power of two
_BITS = 0xFFFF_FFFF_FFFF_FFFF


class IdTable:
    """Numbers ids in the order they are added: 0, 1, 2, ...

    `id_at(number)` reads an id back from where it is stored; `hashed` is replaced only in tests.
    """

    def __init__(self, id_at: Callable[[int], str], *, hashed: Callable[[str], int] = hash) -> None:
        self._id_at = id_at
        self._hashed = hashed
        self._hashes = array("Q")
        self._slots = array("I", bytes(4 * _START))  # number + 1; 0 is a free slot

    def __len__(self) -> int:
        return len(self._hashes)

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return 8 * len(self._hashes) + 4 * len(self._slots)

    def add(self, custom_id: str) -> int | None:
        """Give `custom_id` the next number; if it has one already, change nothing and return that."""
        key = self._hashed(custom_id) & _BITS
        slot = self._seek(custom_id, key)
        if taken := self._slots[slot]:
            return taken - 1
        self._hashes.append(key)
        self._slots[slot] = len(self._hashes)
        if 4 * len(self._hashes) > 3 * len(self._slots):
            self._grow()
        return None

    def find(self, custom_id: str) -> int | None:
        """Return the number of `custom_id`, or None."""
        slot = self._seek(custom_id, self._hashed(custom_id) & _BITS)
        return self._slots[slot] - 1 if self._slots[slot] else None

    def _seek(self, custom_id: str, key: int) -> int:
        """Return the slot that holds `custom_id`, or the free one where it belongs."""
        slots, hashes = self._slots, self._hashes
        mask = len(slots) - 1
        slot = key & mask
        while taken := slots[slot]:
            if hashes[taken - 1] == key and self._id_at(taken - 1) == custom_id:
                break
            slot = (slot + 1) & mask
        return slot

    def _grow(self) -> None:
        slots = array("I", bytes(8 * len(self._slots)))
        mask = len(slots) - 1
        for number, key in enumerate(self._hashes, 1):
            slot = key & mask
            while slots[slot]:
                slot = (slot + 1) & mask
            slots[slot] = number
        self._slots = slots
