"""The browse page in a real browser: sliders, border clips, keys, sound, marks, sizes and colours."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
import tiny_run
from chromium import Tab, browser
from mixed_corpus import TITLE, write_heard, write_mixed
from test_browse_server import serving

from triforce.flows.browse.server import BrowseConfig
from triforce.ingest.clips.filters import FilterConfig
from triforce.ingest.clips.marks import marked_ids, read_mark
from triforce.ingest.corpus.store import Corpus
from triforce.ingest.strict_yaml import load_model

READY = "document.body.dataset.ready === 'true'"
SLIDE = """(() => { const slider = document.querySelector('input[type=range][data-field=min_snr_db]');
  slider.value = VALUE; slider.dispatchEvent(new Event('input', { bubbles: true })); return true; })()"""
BORDER = (
    "[...document.querySelectorAll('#border-outside .clip, #border-inside .clip')].map(one => one.dataset.clip).join()"
)
KEPT = "document.getElementById('kept-hours').textContent"
TITLE_OF_BORDER = "document.getElementById('border-title').textContent"
UNNAMED = """[...document.querySelectorAll('button, input, select, audio, canvas, img')].filter(one =>
  !(one.labels?.length || one.getAttribute('aria-label') || one.getAttribute('alt') || one.textContent.trim()))
  .map(one => one.outerHTML)"""
CONTRASTS = """(() => {
  const parts = colour => colour.match(/[\\d.]+/g).map(Number);
  const light = ([red, green, blue]) => [red, green, blue].map(c => c / 255).map(c => c <= .03928 ? c / 12.92
    : ((c + .055) / 1.055) ** 2.4).reduce((sum, c, at) => sum + c * [.2126, .7152, .0722][at], 0);
  const behind = node => { for (; node; node = node.parentElement) {
    const [r, g, b, alpha = 1] = parts(getComputedStyle(node).backgroundColor); if (alpha === 1) return [r, g, b]; }
    return [255, 255, 255]; };
  const worst = {};
  for (const node of document.querySelectorAll('main *, section *, header *')) {
    if (!node.offsetParent || ![...node.childNodes].some(one => one.nodeType === 3 && one.data.trim())) continue;
    const [one, other] = [light(parts(getComputedStyle(node).color)), light(behind(node))];
    const ratio = (Math.max(one, other) + .05) / (Math.min(one, other) + .05);
    if (ratio < 4.5) worst[node.textContent.slice(0, 30)] = ratio;
  }
  return JSON.stringify(worst); })()"""


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Iterator[tuple[Tab, Corpus, str, str]]:
    """A tab, the corpus it shows, where its thresholds are saved, and its address."""
    folder = tmp_path_factory.mktemp("page")
    corpus = write_heard(folder / "corpus", 12)
    release = tiny_run.write_release(folder / "release", stages=("dvae",))
    saved = str(folder / "filter.yaml")
    with (
        serving(BrowseConfig(corpus=corpus.uri, release=release, config=saved)) as address,
        browser(folder / "profile") as tab,
    ):
        tab.size(1400, 900)
        yield tab, corpus, saved, address


@pytest.fixture
def tab(page) -> Tab:
    """The page as it is opened."""
    tab, _, _, address = page
    tab.size(1400, 900)
    tab.open("about:blank")
    tab.open(address)
    tab.until(READY)
    tab.until("document.querySelectorAll('#list .clip').length > 20")
    return tab


@pytest.mark.slow
def test_kept_hours_and_border_clips_follow_a_slider_and_are_saved(tab, page):
    _, _, saved, _ = page
    seen = {}
    for value in (12, 16, 20):
        tab.run(SLIDE.replace("VALUE", str(value)))
        tab.until(f"{TITLE_OF_BORDER}.startsWith('min SNR, dB: {value}')")
        seen[value] = tab.run(KEPT), tab.run(BORDER)
    assert len({kept for kept, _ in seen.values()}) == 3
    assert len({border for _, border in seen.values()}) == 3
    minutes = [float(kept.split()[0]) for kept, _ in seen.values()]
    assert minutes == sorted(minutes, reverse=True)
    tab.run("document.querySelector('[data-field=min_snr_db]').focus()")
    tab.press("ArrowRight")
    tab.run("document.getElementById('save').click()")
    command = tab.until("document.getElementById('command')?.textContent")
    assert command.endswith(f"--config {saved}")
    limit = load_model(saved, FilterConfig).min_snr_db
    assert 20 <= limit <= 20.5
    assert tab.run("+document.getElementById('limit-min_snr_db').value") == limit
    tab.run("document.getElementById('reset').click()")
    tab.until("document.getElementById('limit-min_snr_db').value === '10'")
    assert tab.errors == []


@pytest.mark.slow
def test_the_keyboard_goes_through_clips_plays_and_marks(tab, page):
    _, corpus, _, _ = page
    shown = "document.getElementById('clip-title').textContent"
    order = tab.run("[...document.querySelectorAll('#list .clip')].map(one => one.dataset.clip)")
    for key, expected in (("j", 0), ("j", 1), ("ArrowDown", 2), ("k", 1), ("ArrowUp", 0), ("k", 0), ("j", 1)):
        tab.press(key)
        tab.until(f"{shown} === '{order[expected]}'")
    tab.until("document.querySelector('#list .clip[aria-current=true]') === document.activeElement")
    tab.until("document.getElementById('decoded-mel').hidden === false")
    tab.press(" ")
    tab.until(
        "document.getElementById('player').currentTime > 0.3 && document.querySelectorAll('.word.now').length === 1"
    )
    assert float(tab.run("parseFloat(document.getElementById('playhead').style.left)")) > 0
    tab.press(" ")
    tab.until("document.getElementById('player').paused")
    tab.press("d")
    tab.until("document.getElementById('decoded-player').currentTime > 0")
    tab.press("d")

    tab.press("r")
    for letter in "bad cut":
        tab.press(letter)
    tab.press("Escape")
    tab.press("x")
    tab.until("document.getElementById('marked-about').textContent.includes('bad cut')")
    source = corpus.clips(["clip_id", "source"]).to_pylist()
    [source] = [row["source"] for row in source if row["clip_id"] == order[1]]
    assert marked_ids(corpus, source) == {order[1]}
    assert read_mark(corpus, source, order[1]).reason == "bad cut"
    tab.press("x")
    tab.until("document.getElementById('marked-about').textContent === ''")
    assert marked_ids(corpus, source) == set()
    tab.press("?")
    tab.until("document.getElementById('help').open")
    tab.press("x")
    assert marked_ids(corpus, source) == set(), "keys reach the clip behind a dialog"
    tab.press("Escape")
    tab.until("!document.getElementById('help').open")
    tab.press("/")
    assert tab.run("document.activeElement.id") == "search"
    assert tab.errors == []


HELD = """(() => { const plain = window.fetch; window.asked = []; window.loads = 0;
  const open = new Promise(go => { window.letGo = go; });
  window.fetch = async path => { if (!String(path).endsWith('/codes')) return plain(path);
    asked.push(path); const answer = await plain(path); await open; return answer; };
  get('decoded-player').addEventListener('loadstart', () => loads++); return true; })()"""


@pytest.mark.slow
def test_a_clip_that_is_come_back_to_is_loaded_once(tab):
    """Codes that were asked for on an earlier visit are late: taken, they would load the sound again under a player."""
    tab.run(HELD)
    shown = "document.getElementById('clip-title').textContent"
    order = tab.run("[...document.querySelectorAll('#list .clip')].map(one => one.dataset.clip)")
    for key, expected in (("j", 0), ("j", 1), ("j", 2), ("k", 1), ("k", 0)):
        tab.press(key)
        tab.until(f"{shown} === '{order[expected]}'")
    tab.run("letGo(true)")
    tab.until("get('decoded-player').readyState === 4")
    tab.press("d")
    tab.until("get('decoded-player').ended")
    assert tab.run("loads") == 1
    assert tab.run("asked") == [f"/api/clips/{order[0]}/codes"] * 2, "decodes of clips that nobody looks at any more"
    assert tab.errors == []


@pytest.mark.slow
def test_a_title_of_markup_is_text(tab):
    tab.run("document.getElementById('search').value = '<script>'")
    tab.run("document.getElementById('search-form').requestSubmit()")
    tab.until("document.getElementById('found').textContent.startsWith('12 ')")
    tab.press("j")
    tab.until("document.getElementById('clip-origin').textContent.includes('street-talks')")
    assert TITLE in tab.run("document.getElementById('clip-origin').textContent")
    assert "taken" not in tab.run("document.title")
    assert tab.run("document.querySelectorAll('article b, #list b, body script').length") == 0
    assert tab.errors == []


@pytest.mark.slow
def test_filters_and_order(tab):
    tab.run("addFilter({ column: 'source', operator: 'is', value: 'library' })")
    tab.run("get('sort').value = 'snr_db'; get('sort').dispatchEvent(new Event('change'))")
    tab.run("get('direction').click()")
    values = "[...document.querySelectorAll('#list .value')].map(one => one.textContent)"
    tab.until(f"{values}.length === 13 && {values}.slice(1, 12).every((one, at) => +one <= +{values}[at])")
    assert tab.run(values)[12] == "–"
    assert tab.run("document.querySelector('#filters li').textContent") == "source = library×"
    tab.run("document.querySelector('#filters button').click()")
    tab.until(f"{values}.length === 25")
    tab.run("document.querySelector('#list li:last-child .clip').click()")
    tab.until("document.getElementById('image').naturalWidth === 32")
    assert tab.errors == []


@pytest.mark.slow
def test_a_long_list_goes_on_as_it_is_scrolled_and_by_keys(tmp_path, page):
    tab, _, _, _ = page
    corpus = write_mixed(tmp_path / "corpus", clips_per_recording=20)
    with serving(BrowseConfig(corpus=corpus.uri)) as address:
        tab.size(1400, 900)
        tab.open(address)
        tab.until(READY)
        count = "document.querySelectorAll('#list .clip').length"
        tab.until(f"{count} === 50")
        tab.run("document.getElementById('more').scrollIntoView()")
        tab.until(f"{count} === 100")
        tab.run("document.querySelectorAll('#list .clip')[99].click()")
        tab.run("document.querySelectorAll('#list .clip')[99].focus()")
        tab.press("j")
        tab.until(f"{count} === 120 && document.activeElement === document.querySelectorAll('#list .clip')[100]")
        ids = tab.run("[...document.querySelectorAll('#list .clip')].map(one => one.dataset.clip)")
        assert ids == corpus.clips(["clip_id"])["clip_id"].to_pylist()
        tab.open("about:blank")
    tab.errors.clear()


@pytest.mark.slow
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [1400, 900, 400])
def test_it_fits_names_every_control_and_has_contrast(tab, width, dark):
    tab.size(width, 850, dark=dark)
    tab.press("j")
    tab.until("document.getElementById('codes').hidden === false")
    for part in ("scores", "clips", "clip"):
        tab.run(f"show('{part}')")
        tab.run(SLIDE.replace("VALUE", "15"))
        tab.until(f"{TITLE_OF_BORDER}.startsWith('min SNR')")
        assert tab.run("document.documentElement.scrollWidth") <= width
        wide = "[...document.querySelectorAll('.panel')].filter(one => one.scrollWidth > one.clientWidth + 1)"
        assert tab.run(f"{wide}.map(one => one.id)") == [], part
        assert json.loads(tab.run(CONTRASTS)) == {}, part
    assert tab.run(UNNAMED) == []
    assert tab.errors == []


@pytest.mark.slow
def test_a_server_with_a_key_asks_for_it(tmp_path, page):
    tab, corpus, _, _ = page
    with serving(BrowseConfig(corpus=corpus.uri), "k-1234") as address:
        tab.open(address)
        tab.until("document.getElementById('login').open")
        tab.run("get('key').value = 'wrong'; get('login-form').requestSubmit()")
        tab.until("get('login-message').textContent.includes('wrong key')")
        tab.run("get('key').value = 'k-1234'; get('login-form').requestSubmit()")
        tab.until(READY)
        tab.press("j")
        tab.until("document.getElementById('player').duration > 3")
    tab.errors.clear()
