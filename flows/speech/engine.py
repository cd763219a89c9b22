"""What computes for all who listen: one thread draws their sentences side by side, others make the sound of them.

A text is a job. Of each the next sentences are in a pool of readings, first one, and `AHEAD` as soon as its first
sound has left; the pool gives the next free row to the job that has the fewest. Sound is made and leaves while its
sentence is still being drawn, a part of each job at a time, and earlier for those who have heard nothing yet. The cores
are shared out: one half makes sound, the other draws. A release that does not read word by word, or that Whisper
listens to, speaks sentence by sentence: a sentence of each job in turn.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch

from triforce.flows.speech.loudness import faded, silence
from triforce.flows.speech.serving.sound_threads import SoundThreads, Work, use_threads
from triforce.flows.speech.speaker import PAUSE_S, Speaker, Utterance
from triforce.flows.speech.utterance_stream import FIRST_S, MOST_S, UtteranceStream, measure_gain
from triforce.ingest.cores import num_cores
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
    making: Future[np.ndarray] | None = None
    """Sound of the first of them that is being made."""
    makes_last: bool = False
    """Whether that sentence ends with it."""
    begun: bool = False
    """Whether any sound has left."""
    num_sent: int = 0
    num_taken: int = 0
    cancelled: bool = False


class SpeechEngine:
    """Owns the networks while it runs; all threads but its own only hand jobs in."""

    def __init__(self, release: Release, *, num_rows: int, pooled: bool) -> None:
        self.release, self.num_rows = release, num_rows
        self.pool = release.pool(num_rows, joins=JOINS) if pooled else None
        cores = min(num_cores(), torch.get_num_threads())  # a user's OMP_NUM_THREADS, and Ray's, count
        num_making = max(1, min(cores // 2, num_rows))
        self.num_drawing = max(1, cores - num_making)
        self.sound = SoundThreads(num_making)
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
        """End the threads; jobs that are not done get an error."""
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
            if self.pool is not None:
                self.sound.start()
                use_threads(self.num_drawing)
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
            self.sound.stop()

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
                if (self.pool is not None and self.pool.busy) or any(map(self._is_due, self.jobs)):
                    break
                self._changed.wait()
            return not self._stopping

    def _is_due(self, job: Job) -> bool:
        """Return whether a turn does something for a job, beside a step of the pool."""
        if job.cancelled:
            return True
        if job.making is not None:
            return job.making.done() or self._may_begin(job)
        return bool(job.readings) or self._may_go_on(job)

    def _made(self, _: Future[np.ndarray]) -> None:
        """Say that sound was made."""
        with self._changed:
            self._changed.notify()

    def _may_go_on(self, job: Job) -> bool:
        return job.num_sent - job.num_taken <= BUFFER_S * self.release.sample_rate_hz

    def _may_begin(self, job: Job) -> bool:
        """Return whether the next sentence of a job may be drawn."""
        return bool(job.sentences) and len(job.readings) < (AHEAD if job.begun else 1) and self._may_go_on(job)

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
        if job.making is not None:
            job.making.cancel()
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
            self._send(job, self._with_pause(job.speaker.speak(job.sentences.popleft(), seed=job.seed)))
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
        while self._may_begin(job):
            text = job.sentences.popleft()
            sampling = self.release.sampling_of(job.speaker.config.sampling)
            prompt = job.speaker.prompt
            reading = self.pool.add(self.release.words(text), sampling, seed=job.seed, prefix=prompt, group=job)
            job.readings.append((reading, text))
            job.seed += 1

    def _send_ready(self, job: Job) -> None:
        """Send the sound that was made of a job's first sentence, and have made what can be heard next."""
        if job.making is not None:
            if not job.making.done():
                return
            made, job.making = job.making, None
            self._send(job, made.result())
            if job.makes_last:
                job.readings.popleft()
                job.sound = None
        if job.readings and (work := self._next_sound(job)) is not None:
            job.making = self.sound.submit(work, urgent=not job.begun)
            job.making.add_done_callback(self._made)
        self._end(job)

    def _next_sound(self, job: Job) -> Work | None:
        """Return what makes the next part of a job's first sentence; None where it is not settled yet."""
        assert self.pool is not None
        reading, text = job.readings[0]
        config = job.speaker.config
        streams, job.makes_last = self.release.streams(config.sampler), reading.done
        if not reading.done and (reading.config.num_candidates > 1 or not streams):
            return None
        if not streams:
            return partial(self._whole, job.speaker, text, reading)
        if job.sound is None:
            stream = self.release.stream(
                seed=reading.seed, speed=config.speed, haste=not job.begun, sampler=config.sampler
            )
            job.sound = UtteranceStream(stream, self._gain(job), self.release.sample_rate_hz)
        if not reading.done and self.pool.num_codes(reading) < job.sound.needs(job.part_s):
            return None
        job.part_s = min(2 * job.part_s, MOST_S) if job.begun else FIRST_S
        codes, spoken = self.pool.codes(reading), self.pool.spoken(reading)
        return partial(job.sound.push, codes, spoken, last=reading.done)

    def _gain(self, job: Job) -> float:
        """Return the gain of a job's voice, measured when it is first heard."""
        if job.voice not in self.gains:
            self.gains[job.voice] = measure_gain(job.speaker)
        return self.gains[job.voice]

    def _whole(self, speaker: Speaker, text: str, reading: Reading) -> np.ndarray:
        """Return the sound of a sentence, for releases that make it of all of its codes."""
        return self._with_pause(speaker.render(text, reading.candidates[0], reading.seed, 0))

    def _with_pause(self, utterance: Utterance) -> np.ndarray:
        rate = self.release.sample_rate_hz
        return np.concatenate([faded(utterance.waveform, rate), silence(PAUSE_S, rate)])
