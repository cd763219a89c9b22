"""Locks that a killed process leaves free: against processes of this machine, and against those of many."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import random
import re
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from triforce.ingest import storage

logger = logging.getLogger(__name__)

FIRST_POLL_S, MAX_POLL_S = 0.1, 2.0
"""Waits between two looks for a free place: at first, and doubled up to. Assumed."""
MAINTENANCE_LEASE_S = 20.0
"""Lease of the lock of a corpus in an object store, in seconds. Assumed."""
OWNER = uuid.uuid4().hex[:12].encode()
"""What this process writes into files whose existence is all that counts, for who looks at them."""


@contextlib.contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold ``path`` as a lock against threads and processes of this machine; the lock of a dead process is free."""
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        handle = os.open(path, os.O_CREAT | os.O_RDWR)
        fcntl.flock(handle, fcntl.LOCK_EX)
        try:
            if os.stat(path).st_ino == os.fstat(handle).st_ino:
                break
        except FileNotFoundError:
            pass
        os.close(handle)  # the holder before us removed the file that we waited for
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(handle)


def maintenance(corpus_uri: str) -> contextlib.AbstractContextManager[None]:
    """Return the lock of whoever writes settled files of a corpus again, packs them or removes them, on any machine.

    Only one of them does so at a time: what one has read, no other changes before it is written. An ingest needs it
    not, as it writes what was not there. On a local disk it is free at once when its holder dies, in an object store
    after `MAINTENANCE_LEASE_S` and a half. A holder must not ask for it again.
    """
    if storage.is_local(corpus_uri):
        return exclusive(Path(storage.resolve(storage.join(corpus_uri, "state", "maintenance.lock"))[1]))
    return Leases(storage.join(corpus_uri, "state", "maintenance"), 1, MAINTENANCE_LEASE_S).hold()


@dataclass(frozen=True)
class Leases:
    """A number of places that processes on many machines hold, each for as long as it lives and says so.

    Files ``<period>-<place>`` in ``folder`` say that a place is held from ``period * lease_s`` on, seconds since 1970,
    for that long. A file is made by one process alone (`storage.create`), which claims the next period halfway through
    each. So what a killed process held is free after one and a half leases at most, and no step reads a file and then
    writes it. Clocks may differ by up to half a lease. A process that is stopped, or cut off from the folder, for
    longer than half a lease loses its place, is told so in the log, and goes on.
    """

    folder: str
    num_places: int
    lease_s: float

    @contextlib.contextmanager
    def hold(self) -> Iterator[None]:
        """Hold a place, waiting for one where all are held."""
        poll_s = FIRST_POLL_S
        while (taken := self._take()) is None:
            time.sleep(poll_s * random.uniform(0.5, 1.0))  # else all would look at the same moments
            poll_s = min(2 * poll_s, MAX_POLL_S)
        lease = _Lease(self, *taken)
        try:
            yield
        finally:
            lease.release()

    def _take(self) -> tuple[int, int] | None:
        """Return the period and the number of a place that was free and is now held; None where none is."""
        period = int(time.time() // self.lease_s)
        names = (name for name in storage.list_files(self.folder) if re.fullmatch(r"\d+-\d+", name))
        held = [tuple(map(int, name.split("-"))) for name in names]
        for old in (one for one in held if one[0] < period - 1):
            storage.remove(self.uri(*old))
        for place in range(self.num_places):
            if (period, place) not in held and storage.create(self.uri(period, place), OWNER):
                return period, place
        return None

    def uri(self, period: int, place: int) -> str:
        return storage.join(self.folder, f"{period}-{place}")


class _Lease:
    """A place that is held, period after period, until it is released."""

    def __init__(self, leases: Leases, period: int, place: int) -> None:
        self._leases, self._place = leases, place
        self._periods, self._ended = [period], threading.Event()
        self._thread = threading.Thread(target=self._renew, daemon=True)
        self._thread.start()

    def _renew(self) -> None:
        """Claim the next period halfway through each. Where another has it already, this one was away for too long."""
        lease_s = self._leases.lease_s
        while not self._ended.wait(max((self._periods[-1] + 0.5) * lease_s - time.time(), 0.0)):
            following = max(self._periods[-1] + 1, int(time.time() // lease_s))
            uri = self._leases.uri(following, self._place)
            try:
                if storage.create(uri, OWNER):
                    self._periods.append(following)
                    continue
                logger.warning("%s: another process took this place, as it was not claimed again in time", uri)
            except Exception as error:  # of any library below; the work goes on, and so does the trying
                logger.warning("%s cannot be claimed: %s", uri, error)
            if self._ended.wait(lease_s / 16):
                return

    def release(self) -> None:
        """Give the place back, the last period first: nobody can take it between the two."""
        self._ended.set()
        self._thread.join()
        for period in reversed(self._periods[-2:]):
            with contextlib.suppress(Exception):  # it is free by itself after its period
                storage.remove(self._leases.uri(period, self._place))
