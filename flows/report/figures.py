"""The report's figures: charts as SVG in the page's text colour, mels as small PNGs, sound as MP3."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Sequence

import numpy as np

from triforce.ingest.media.encode import encode_mp3

INK = "#010203"
"""Colour that `to_svg` replaces by ``currentColor``, the page's text colour, so that charts follow light and dark."""
COLOURS = ("#3b82c4", "#d9822b", "#3f9c6d", "#b8509b")
"""Readable on white and on near-black (contrast over 3 to 1 on both), and apart for the colour-blind by lightness."""
MP3_LEVEL = 0.2
"""libsndfile's compression level: about 60 kbit/s for speech at 24 kHz, far finer than what is compared. Measured."""


def line_chart(series: dict[str, tuple[Sequence[float], Sequence[float]]], *, x_label: str, name: str) -> str:
    """Draw lines over a shared x, ``{label: (x, y)}``, as SVG; a line of one point is a dot."""
    figure, axes = new_figure(4.2, 2.4, name)
    for number, (label, (x, y)) in enumerate(series.items()):
        style = {"marker": "o", "markersize": 4} if len(x) < 20 else {}
        axes.plot(x, y, label=label, color=COLOURS[number % len(COLOURS)], linewidth=1.6, **style)
    axes.set_xlabel(x_label)
    if len(series) > 1:
        _legend(axes)
    return to_svg(figure, name)


def histogram(groups: dict[str, Sequence[float]], *, x_label: str, y_label: str, num_bins: int = 30, name: str) -> str:
    """Draw groups of values stacked in shared bins, as SVG."""
    figure, axes = new_figure(6.4, 2.6, name)
    values = np.concatenate([np.asarray(part, float) for part in groups.values()])
    edges = np.histogram_bin_edges(values, bins=num_bins)
    parts = {label: part for label, part in groups.items() if len(part)}
    axes.hist(list(parts.values()), bins=edges, stacked=True, label=list(parts), color=COLOURS[: len(parts)])
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    if len(parts) > 1:
        _legend(axes)
    return to_svg(figure, name)


def rank_chart(counts: Sequence[int], *, name: str) -> str:
    """Draw how often each code occurs, the most frequent first, as SVG."""
    figure, axes = new_figure(6.4, 2.6, name)
    ordered = np.sort(np.asarray(counts))[::-1]
    axes.fill_between(np.arange(1, ordered.size + 1), ordered, step="mid", color=COLOURS[0], alpha=0.8, linewidth=0)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("code, by frequency")
    axes.set_ylabel("occurrences")
    return to_svg(figure, name)


def interval_chart(rows: Sequence[tuple[str, float, float, float]], *, x_label: str, name: str) -> str:
    """Draw rows of label, value, low and high as dots with their intervals, the first on top, as SVG."""
    figure, axes = new_figure(6.4, 0.6 + 0.36 * len(rows), name)
    for y, (_, value, low, high) in enumerate(rows):
        axes.plot([low, high], [y, y], color=COLOURS[0], linewidth=2.5, alpha=0.55, solid_capstyle="round")
        axes.plot([value], [y], "o", color=COLOURS[0], markersize=6)
    axes.set_yticks(range(len(rows)), [row[0] for row in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlim(left=0)
    axes.set_xlabel(x_label)
    return to_svg(figure, name)


def mel_png(mel: np.ndarray, low: float, high: float) -> str:
    """Draw a log-mel ``(num_mels, T)`` as a PNG data URI: a pixel a value, low bins below, from ``low`` to ``high``."""
    import matplotlib
    from PIL import Image

    levels = np.clip((mel.astype(np.float32) - low) / max(high - low, 1e-6), 0, 1)
    image = Image.fromarray((levels[::-1] * 255).round().astype(np.uint8), mode="P")
    palette = (matplotlib.colormaps["magma"](np.arange(256))[:, :3] * 255).round().astype(np.uint8)
    image.putpalette(palette.tobytes())
    file = io.BytesIO()
    image.save(file, format="PNG", optimize=True)
    return data_uri(file.getvalue(), "image/png")


def mp3(flac: bytes) -> str:
    """Return a sound file as MP3 in a data URI: every browser plays it, and it is a sixth of the FLAC's size."""
    import soundfile

    waveform, rate = soundfile.read(io.BytesIO(flac), dtype="float32")
    return data_uri(encode_mp3(waveform, rate, MP3_LEVEL), "audio/mpeg")


def data_uri(data: bytes, media_type: str) -> str:
    """Return data as a data URI."""
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"


def new_figure(width: float, height: float, name: str):
    """Return a figure and its axes, without a box and all in `INK`; no display and no global state of pyplot."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": name, "font.size": 9})
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasSVG(figure)
    axes = figure.add_subplot()
    figure.patch.set_alpha(0)
    axes.patch.set_alpha(0)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(INK)
        spine.set_alpha(0.4)
    axes.tick_params(colors=INK, labelsize=8)
    axes.xaxis.label.set_color(INK)
    axes.yaxis.label.set_color(INK)
    axes.grid(axis="y", color=INK, alpha=0.12, linewidth=0.6)
    axes.set_axisbelow(True)
    return figure, axes


def _legend(axes) -> None:
    axes.legend(frameon=False, labelcolor=INK, fontsize=8)


def to_svg(figure, name: str) -> str:
    """Return the figure as an inline ``<svg>``: no prologue, no metadata with addresses, ids of its own."""
    import matplotlib

    file = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(\bid="|url\(#|href="#)', lambda match: f"{match[1]}{name}-", svg)
    svg = re.sub(r'<svg [^>]*?(viewBox="[^"]*")[^>]*>', r'<svg \1 aria-hidden="true">', svg, count=1)
    svg = svg.replace("xlink:href", "href")
    return svg.replace(INK, "currentColor")
