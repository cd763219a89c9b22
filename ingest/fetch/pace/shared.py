"""The pace of a host, kept by processes on many machines with files in a place that all of them reach.

::

    <shared_pace>/agreement.json               the settings that must be the same for all, as the first of them has them
    <shared_pace>/<host>/turns/<number>        a request that begins at ``number / requests_per_s``, seconds since 1970
    <shared_pace>/<host>/slots/<period>-<i>    who has the host's ``i``-th connection from ``period * lease_s`` on

A file is made by one process alone and never by two (`storage.create`): there is nothing else to hold, and nothing that
a killed process leaves locked. A turn that it took passes unused, and a connection that it held is free after one and a
half leases at most (`triforce.ingest.locks.Leases`).

Machines' clocks may differ by up to half a lease. A turn comes early by as much as its machine's clock is ahead, and no
oftener. A process that is stopped, or cut off from the place, for longer than half a lease loses its connection in
the books while it may still receive: for this time a host can have one connection more.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import re
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from triforce.ingest import storage
from triforce.ingest.config import Settings
from triforce.ingest.corpus.records import RejectReason
from triforce.ingest.errors import Rejected
from triforce.ingest.locks import OWNER, Leases

Result = TypeVar("Result")

AGREED = ("requests_per_s", "connections_per_host", "lease_s")
"""Settings that all processes of a shared pace must have alike."""
KEPT_TURNS = 16
"""Turns that have passed and are kept: a process that looked before others may still come for them. Assumed."""


class SharedPace:
    """The turns and connections of one host, as all processes at ``place`` keep them."""

    def __init__(self, place: str, host: str, settings: Settings) -> None:
        """Raises ValueError where others at ``place`` have other settings, or the store cannot keep two from making the
        same file; `Rejected` where it cannot be reached.
        """
        self._settings = settings
        folder = storage.join(place, _folder_name(host))
        self._turns = storage.join(folder, "turns")
        self._slots = Leases(storage.join(folder, "slots"), settings.connections_per_host, settings.lease_s)
        _reaching(place, lambda: _agree(place, settings))

    def take_turn(self) -> float:
        """Return when the next request to the host may begin, seconds since 1970; the turn is this caller's alone."""
        return _reaching(self._turns, self._take_turn)

    def _take_turn(self) -> float:
        rate = self._settings.requests_per_s
        taken = sorted(int(name) for name in storage.list_files(self._turns) if name.isdigit())
        now = time.time() * rate
        number = max(math.ceil(now), taken[-1] + 1 if taken else 0)
        waiting = sum(one >= now for one in taken)
        if (ahead := number - now - waiting - 1) > rate * self._settings.lease_s:
            raise Rejected(
                RejectReason.NETWORK,
                f"{self._turns}: turns are taken {ahead / rate:.0f} s ahead, lease_s is {self._settings.lease_s:g}: a "
                "machine's clock is, or was, wrong; set it, then remove this folder",
            )
        while not storage.create(storage.join(self._turns, str(number)), OWNER):
            number += 1
        for passed in taken:
            if passed < time.time() * rate - KEPT_TURNS:
                storage.remove(storage.join(self._turns, str(passed)))
        return number / rate

    @contextlib.contextmanager
    def slot(self) -> Iterator[None]:
        """Hold one of the host's connections, waiting for it where all are held."""
        with contextlib.ExitStack() as stack:
            _reaching(self._slots.folder, lambda: stack.enter_context(self._slots.hold()))
            yield


def _folder_name(host: str) -> str:
    """Return a folder's name for a host, which comes from outside: readable, and no other host's."""
    return f"{re.sub(r'[^a-z0-9.-]', '_', host)[:80].lstrip('.')}-{hashlib.sha256(host.encode()).hexdigest()[:8]}"


def _agree(place: str, settings: Settings) -> None:
    own = {name: getattr(settings, name) for name in AGREED}
    uri, data = storage.join(place, "agreement.json"), json.dumps(own, sort_keys=True).encode()
    if storage.create(uri, data) and storage.create(uri, data):
        raise ValueError(f"shared_pace {place}: this store makes a file twice; use a folder or an S3-compatible store")
    others = json.loads(storage.read_bytes(uri))
    if others != own:
        raise ValueError(
            f"shared_pace {place}: this process has {own}, others have {others}: give all the same settings; "
            f"where no other ingest runs any more, remove {uri}"
        )


def _reaching(place: str, action: Callable[[], Result]) -> Result:
    """Return what ``action`` does; an error of the store, or of the network on the way to it, passes in a later run."""
    try:
        return action()
    except ValueError:
        raise
    except Exception as error:
        detail = f"the shared pace at {place} cannot be kept: {type(error).__name__}: {error}"
        raise Rejected(RejectReason.NETWORK, detail) from error
