"""The places of a server: how many texts it works on at once, whose they are, and when one should be free."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

REMEMBERED = 32
"""Texts by which it is judged how long one takes. Assumed."""
MOST_S = 60
"""Seconds after which a client should ask again at most. Assumed."""

Client = tuple[str, int]
"""Address and port of a client's end of its connection."""


@dataclass(eq=False)
class Place:
    """What a text has while it is spoken."""

    client: Client | None
    num_chars: int
    about: str
    """What was asked for, as a log says it."""
    since_s: float
    """When it was taken, by the clock of `Places`."""


class Places:
    """So many texts at once, and no more."""

    def __init__(self, most: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.most = most
        self._clock = clock
        self._taken: set[Place] = set()
        self._stays: deque[tuple[float, int]] = deque(maxlen=REMEMBERED)
        """Seconds and characters of texts that were spoken to their end."""

    def __len__(self) -> int:
        return len(self._taken)

    def take(self, client: Client | None, num_chars: int, about: str) -> Place | None:
        """Return a place, None where all are taken."""
        if len(self._taken) >= self.most:
            return None
        place = Place(client, num_chars, about, self._clock())
        self._taken.add(place)
        return place

    def give_back(self, place: Place, *, done: bool = False) -> None:
        """Free a place, whose text was spoken to its end if ``done``; one that is free already is no error."""
        if place in self._taken and done:
            self._stays.append((self._clock() - place.since_s, place.num_chars))
        self._taken.discard(place)

    def of(self, client: Client) -> Place | None:
        """Return the place of a client, None for one that has none."""
        return next((place for place in self._taken if place.client == client), None)

    def age_s(self, place: Place) -> float:
        """Return for how long a place has been taken."""
        return self._clock() - place.since_s

    def retry_after_s(self) -> int:
        """Return in how many seconds a place should be free, 1 to `MOST_S`.

        A text should take as long as its characters took of late; one that takes longer, and any where nothing is
        known, should take as long again as it is over that.
        """
        chars = sum(num_chars for _, num_chars in self._stays)
        per_char_s = sum(stay_s for stay_s, _ in self._stays) / chars if chars else 0.0
        left_s = [abs(per_char_s * place.num_chars - self.age_s(place)) for place in self._taken]
        return min(max(math.ceil(min(left_s, default=0.0)), 1), MOST_S)
