"""16-bit samples and floats: every integer comes back, and what is too loud is clipped."""

import numpy as np

from triforce.ingest.media.samples import to_float32, to_int16


def test_every_integer_comes_back():
    samples = np.arange(-32768, 32768).astype(np.int16)
    waveform = to_float32(samples)
    assert (waveform.dtype, waveform.min(), waveform.max()) == (np.float32, -1.0, 32767 / 32768)
    assert np.array_equal(to_int16(waveform), samples)


def test_what_is_between_is_rounded_and_what_is_outside_is_clipped():
    waveform = np.array([0.6, -0.6, 1.5, 2.5, 40_000, -40_000], np.float32) / 32768
    assert to_int16(waveform).tolist() == [1, -1, 2, 2, 32767, -32768]
    assert to_int16(waveform.reshape(2, 3)).shape == (2, 3)
