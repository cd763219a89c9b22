"""The one thread that computes for all who listen: it draws their sentences side by side and sends them the sound.

A text is a job. Of each the next sentences are in a pool of readings, first one, and `AHEAD` as soon as its first
sound has left; the pool gives the next free row to the job that has the fewest. Sound leaves while its sentence is
still being drawn. A release that does not read word by word, or that Whisper listens to, speaks sentence by sentence: a
sentence of each job in turn.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from triforce.flows.speech.loudness import faded, silence
from triforce.flows.speech.speaker import PAUSE_S, Speaker, Utterance
from triforce.flows.speech.utterance_stream import FIRST_S, MOST_S, UtteranceStream, measure_gain
from triforce.models.reading.pool import Reading
from triforce.models.release import Release

logger = logging.getLogger(__name__)

AHEAD = 3
"""Sentences of a text that are drawn at once. Assumed."""
JOINS = 4
"""Texts that are let into the pool at once: their prompts hold up those that are being read. Assumed."""
BUFFER_S = 30.0
"""Sound that waits for a slow listener before its text goes on. Assumed."""

ENDED = "the engine's thread has ended; start the server again, its log says why"

Send = Callable[[np.ndarray | Exception | None], None]
"""Takes samples ``(N,)`` float32, None behind the last ones, or what went wrong; called in the engine's thread."""


@dataclass(eq=False)
class Job:
    """A text that somebody waits for."""

    speaker: Speaker
    voice: str
    """Name of its voice."""
    sentences: deque[str]
    """Those that were not begun."""
    seed: int
    send: Send
    readings: deque[tuple[Reading, str]] = field(default_factory=deque)
    """Sentences that were begun, in order; the first is the one that is heard."""
    sound: UtteranceStream | None = None
    """Sound of the first of them."""
    part_s: float = FIRST_S
    """Length of the next part."""
    begun: bool = False
    """Whether any sound has left."""
    num_sent: int = 0
    num_taken: int = 0
    cancelled: bool = False


class SpeechEngine:
    """Owns the networks while it runs; all other threads only hand jobs in."""

    def __init__(self, release: Release, *, num_rows: int, pooled: bool) -> None:
        self.release, self.num_rows = release, num_rows
        self.pool = release.pool(num_rows, joins=JOINS) if pooled else None
        self.jobs: list[Job] = []
        self.gains: dict[str, float] = {}
        self._inbox: deque[Job] = deque()
        self._changed = threading.Condition()
        self._stopping = self._ended = False
        self._thread = threading.Thread(target=self._run, name="speech-engine", daemon=True)

    def start(self) -> None:
        """Begin to work on jobs."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread; jobs that are not done get an error."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join()

    @property
    def runs(self) -> bool:
        """Whether the thread is at work, or waits for some."""
        return self._thread.is_alive()

    def submit(self, speaker: Speaker, voice: str, sentences: list[str], seed: int, send: Send) -> Job:
        """Hand a text in, as the sentences of `Speaker.sentences`; ``send`` gets its sound.

        ``voice`` is the speaker's name, by which its loudness is remembered. Where the thread has ended, ``send`` gets
        an error at once.
        """
        job = Job(speaker, voice, deque(sentences), seed, send)
        with self._changed:
            if not self._ended:
                self._inbox.append(job)
                self._changed.notify()
                return job
        self._fail(job, RuntimeError(ENDED))
        return job

    def cancel(self, job: Job) -> None:
        """Stop a job, whose rows are free with the next step; one that is done already is no error."""
        with self._changed:
            job.cancelled = True
            self._changed.notify()

    def took(self, job: Job, num_samples: int) -> None:
        """Say that a listener has taken samples, so that more may be made."""
        with self._changed:
            job.num_taken += num_samples
            self._changed.notify()

    def _run(self) -> None:
        try:
            while self._wait():
                try:
                    self._turn()
                except Exception as error:  # the state of all rows may be lost: the texts at work end, not the server
                    logger.exception("the engine failed; the texts at work end, and it goes on with others")
                    self._give_up(error)
                    if self.pool is not None:
                        self.pool = self.release.pool(self.num_rows, joins=JOINS)
        finally:
            with self._changed:
                self._ended = True
                self.jobs += self._inbox
                self._inbox.clear()
            self._give_up(RuntimeError(ENDED))

    def _give_up(self, error: Exception) -> None:
        """End all texts at work."""
        for job in list(self.jobs):
            job.readings.clear()
            self._fail(job, error)

    def _turn(self) -> None:
        """Do for all jobs what can be done at once: a step of the pool, or a sentence of each."""
        for job in [job for job in self.jobs if job.cancelled]:
            self._drop(job)
        if self.pool is None:
            for job in list(self.jobs):
                self._each(job, self._say_sentence)
            return
        for job in list(self.jobs):
            self._each(job, self._begin_sentences)
        self.pool.step()
        for job in sorted(self.jobs, key=lambda job: job.begun):  # who has heard nothing yet comes first
            self._each(job, self._send_ready)

    def _wait(self) -> bool:
        """Take jobs in, and wait while there is nothing to do; return whether to go on."""
        with self._changed:
            while not self._stopping:
                self.jobs += self._inbox
                self._inbox.clear()
                if any(job.cancelled or job.readings or self._may_go_on(job) for job in self.jobs):
                    break
                self._changed.wait()
            return not self._stopping

    def _may_go_on(self, job: Job) -> bool:
        return job.num_sent - job.num_taken <= BUFFER_S * self.release.sample_rate_hz

    def _each(self, job: Job, work: Callable[[Job], None]) -> None:
        """Do a part of a job's work; what goes wrong with it ends no other."""
        try:
            if not job.cancelled:
                work(job)
        except Exception as error:
            if not isinstance(error, ValueError):
                logger.exception("a text failed")
            self._fail(job, error)

    def _fail(self, job: Job, error: Exception) -> None:
        self._drop(job)
        self._send(job, error)

    def _drop(self, job: Job) -> None:
        if self.pool is not None:
            for reading, _ in job.readings:
                self.pool.cancel(reading)
        job.readings.clear()
        if job in self.jobs:
            self.jobs.remove(job)

    def _send(self, job: Job, item: np.ndarray | Exception | None) -> None:
        if isinstance(item, np.ndarray):
            job.num_sent += len(item)
            job.begun |= bool(len(item))
        try:
            job.send(item)
        except RuntimeError:  # the loop of the listener is closed
            job.cancelled = True

    def _say_sentence(self, job: Job) -> None:
        if not self._may_go_on(job):
            return
        if job.sentences:
            self._send_whole(job, job.speaker.speak(job.sentences.popleft(), seed=job.seed))
            job.seed += 1
        self._end(job)

    def _end(self, job: Job) -> None:
        """End a job that has nothing left to say."""
        if not job.sentences and not job.readings:
            self.jobs.remove(job)
            self._send(job, None)

    def _begin_sentences(self, job: Job) -> None:
        """Put the next sentences into the pool."""
        assert self.pool is not None
        while job.sentences and len(job.readings) < (AHEAD if job.begun else 1) and self._may_go_on(job):
            text = job.sentences.popleft()
            sampling = self.release.sampling_of(job.speaker.config.sampling)
            prompt = job.speaker.prompt
            reading = self.pool.add(self.release.words(text), sampling, seed=job.seed, prefix=prompt, group=job)
            job.readings.append((reading, text))
            job.seed += 1

    def _send_ready(self, job: Job) -> None:
        """Send what can be heard already of a job's first sentences."""
        while job.readings:
            reading, text = job.readings[0]
            streams = self.release.streams(job.speaker.config.sampler)
            over = self._send_parts(job, reading) if streams else self._send_sentence(job, reading, text)
            if not over:
                return
            job.readings.popleft()
            job.sound = None
        self._end(job)

    def _send_parts(self, job: Job, reading: Reading) -> bool:
        """Send the next part of a sentence where it is settled; return whether that was the last."""
        assert self.pool is not None
        if reading.config.num_candidates > 1 and not reading.done:
            return False
        if job.sound is None:
            config = job.speaker.config
            stream = self.release.stream(
                seed=reading.seed, speed=config.speed, haste=not job.begun, sampler=config.sampler
            )
            job.sound = UtteranceStream(stream, self._gain(job), self.release.sample_rate_hz)
        if not reading.done and self.pool.num_codes(reading) < job.sound.needs(job.part_s):
            return False
        part = job.sound.push(self.pool.codes(reading), self.pool.spoken(reading), last=reading.done)
        job.part_s = min(2 * job.part_s, MOST_S)
        self._send(job, part)
        return reading.done

    def _gain(self, job: Job) -> float:
        """Return the gain of a job's voice, measured when it is first heard."""
        if job.voice not in self.gains:
            self.gains[job.voice] = measure_gain(job.speaker)
        return self.gains[job.voice]

    def _send_sentence(self, job: Job, reading: Reading, text: str) -> bool:
        """Send a sentence where it has ended, for releases whose sound is made of all of it."""
        if not reading.done:
            return False
        self._send_whole(job, job.speaker.render(text, reading.candidates[0], reading.seed, 0))
        return True

    def _send_whole(self, job: Job, utterance: Utterance) -> None:
        rate = self.release.sample_rate_hz
        self._send(job, np.concatenate([faded(utterance.waveform, rate), silence(PAUSE_S, rate)]))
