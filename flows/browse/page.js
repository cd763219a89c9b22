'use strict';

const get = id => document.getElementById(id);
const COLOURS = ['#2f7fc1', '#d9822b', '#3c9d5d', '#b04ea8', '#c2484d', '#8a7a2e', '#5a6ad0'];
const OTHERS = '#8b8f97';
const SYMBOLS = { at_least: '≥', at_most: '≤', is: '=', is_not: '≠', contains: 'contains', lacks: 'lacks', empty: 'is empty', filled: 'is there', yes: 'yes', no: 'no' };
const state = { about: null, config: {}, filters: [], next: null, clip: null, entry: null, border: null, played: null, asked: 0, visit: 0 };

// ---- small parts

function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === 'class') node.className = value;
    else if (name.startsWith('on')) node.addEventListener(name.slice(2), value);
    else if (value !== false && value != null) node.setAttribute(name, value === true ? '' : value);
  }
  node.append(...children.filter(child => child != null));
  return node;
}

async function ask(path, method = 'GET', body) {
  const options = { method, headers: body === undefined ? {} : { 'Content-Type': 'application/json' } };
  if (body !== undefined) options.body = JSON.stringify(body);
  const answer = await fetch(path, options);
  if (answer.status === 401) await login();
  if (answer.status === 401) return ask(path, method, body);
  const found = await answer.json();
  if (!answer.ok) throw new Error(found.error);
  return found;
}

function login() {
  const dialog = get('login');
  if (!dialog.open) dialog.showModal();
  return new Promise(done => {
    get('login-form').onsubmit = async event => {
      event.preventDefault();
      const answer = await fetch('/api/login', { method: 'POST', body: get('key').value });
      if (!answer.ok) { get('login-message').textContent = (await answer.json()).error; return; }
      dialog.close();
      done();
    };
  });
}

function complain(error) {
  get('message').textContent = error ? error.message : '';
  get('message').hidden = !error;
}

const whole = value => value.toLocaleString('en');
const hours = value => value >= 100 ? whole(Math.round(value)) : value.toFixed(1);
const short = value => value == null ? '–' : Number.isInteger(value) ? String(value)
  : Math.abs(value) >= 1000 ? value.toFixed(0) : Math.abs(value) >= 10 ? value.toFixed(1) : Math.abs(value) >= 0.1 ? value.toFixed(2) : value.toPrecision(2);
const clock = seconds => `${Math.floor(seconds / 60)}:${String(Math.floor(seconds % 60)).padStart(2, '0')}`;
const span = value => value >= 1 ? `${hours(value)} h` : `${(60 * value).toFixed(1)} min`;
const UNITS = { s: 's', db: 'dB', hz: 'Hz', dbfs: 'dBFS', lufs: 'LUFS' }, SHORT = /\b(snr|rms|asr|id|url|dnsmos)\b/g;
const SPELT = { min_s: 'min duration, s', max_s: 'max duration, s' };

function plain(name) {  // snr_db: SNR, dB
  if (Object.hasOwn(SPELT, name)) return SPELT[name];
  const [, stem, unit] = /^(.*?)(?:(?<!_per)_(s|db|hz|dbfs|lufs))?$/.exec(name);
  return stem.replaceAll('_', ' ').replace(SHORT, word => word.toUpperCase()) + (unit ? `, ${UNITS[unit]}` : '');
}

function once(task, say = complain) {  // one at a time, and the last one that was asked for
  let running = false, again = false;
  return async function run() {
    if (running) { again = true; return; }
    running = true;
    do {
      again = false;
      try { await task(); say(null); } catch (error) { say(error); }
    } while (again);
    running = false;
  };
}

// ---- thresholds

function colourOf(source) {
  return source < COLOURS.length ? COLOURS[source] : OTHERS;
}

function showLegend() {
  const names = state.about.sources.slice(0, COLOURS.length);
  const items = names.map((name, at) => swatch(colourOf(at), name));
  if (state.about.sources.length > names.length) items.push(swatch(OTHERS, `${state.about.sources.length - names.length} others`));
  get('legend').replaceChildren(...items, make('span', {}, 'height: square root of clips'));
}

function swatch(colour, name) {
  const mark = make('i', { 'aria-hidden': 'true' });
  mark.style.background = colour;
  return make('span', {}, mark, name);
}

function stepOf(threshold, edges) {
  return threshold.whole ? 1 : 10 ** Math.floor(Math.log10((edges[edges.length - 1] - edges[0]) / 150));
}

function showScores() {
  const judged = new Map();
  for (const one of state.about.thresholds) judged.set(one.score, [...(judged.get(one.score) || []), one]);
  const known = new Map(state.about.histograms.map(one => [one.score, one]));
  get('scores').replaceChildren(...[...judged].map(([score, limits]) => scoreCard(known.get(score), limits)));
  get('other-scores').replaceChildren(...state.about.histograms.filter(one => !judged.has(one.score)).map(one => scoreCard(one, [])));
  drawHistograms();
}

function scoreCard(histogram, limits) {
  const about = state.about.columns.find(one => one.name === histogram.score).about;
  const missing = histogram.missing ? `${whole(histogram.missing)} without` : '';
  const known = histogram.mean != null;
  const head = make('div', { class: 'score-head' }, make('b', { title: about }, plain(histogram.score)), make('span', {}, known ? `mean ${short(histogram.mean)}${missing && ' · ' + missing}` : 'no clip has it'));
  const card = make('div', { class: 'score', 'data-score': histogram.score }, head);
  if (!known) return card;
  const label = `Histogram of ${plain(histogram.score)}, mean ${short(histogram.mean)}`;
  const { edges } = histogram;
  card.append(make('canvas', { role: 'img', 'aria-label': label }), make('div', { class: 'ticks', 'aria-hidden': 'true' }, make('span', {}, short(edges[0])), make('span', {}, short((edges[0] + edges[edges.length - 1]) / 2)), make('span', {}, short(edges[edges.length - 1]))));
  for (const limit of limits) card.append(limitRow(limit, edges));
  return card;
}

function limitRow(limit, edges) {
  const step = stepOf(limit, edges), low = Math.max(edges[0], limit.low ?? -Infinity), value = state.config[limit.field];
  // The slider spans the histogram above it, so that its thumb stands under the bar.
  const slider = make('input', { type: 'range', min: edges[0], max: edges[edges.length - 1], step: 'any', 'aria-label': `${plain(limit.field)}, slider`, 'data-field': limit.field });
  const number = make('input', { type: 'number', step: 'any', min: limit.low, max: limit.high, id: `limit-${limit.field}`, 'data-field': limit.field });
  slider.value = value;
  number.value = value;
  const set = (chosen, from) => {
    const bounded = Math.min(Math.max(chosen, limit.low ?? -Infinity), limit.high ?? Infinity);
    const rounded = from === slider ? +(Math.round(bounded / step) * step).toFixed(10) : bounded;
    state.config[limit.field] = limit.whole ? Math.max(1, Math.round(rounded)) : rounded;
    slider.value = state.config[limit.field];
    if (from !== number) number.value = state.config[limit.field];
    slider.setAttribute('aria-valuetext', short(state.config[limit.field]));
    showBorder(limit);
  };
  slider.addEventListener('input', () => set(+slider.value, slider));
  slider.addEventListener('keydown', event => {  // a step that is worth a key
    const by = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1, PageDown: -10, PageUp: 10 }[event.key];
    if (by === undefined) return;
    event.preventDefault();
    set(Math.max(low, state.config[limit.field] + by * step), slider);
  });
  number.addEventListener('input', () => { if (number.value !== '' && Number.isFinite(+number.value)) set(+number.value, number); });
  number.addEventListener('change', () => { number.value = state.config[limit.field]; });
  slider.addEventListener('focus', () => activate(limit.score));
  return make('div', { class: 'limit' }, make('label', { for: number.id, title: limit.about }, plain(limit.field)), number, slider);
}

function activate(score) {
  for (const card of document.querySelectorAll('.score')) card.classList.toggle('active', card.dataset.score === score);
}

function showBorder(limit) {
  state.border = limit.field;
  activate(limit.score);
  drawHistogram(document.querySelector(`.score[data-score="${limit.score}"]`));
  preview();
  soon(search);
}

let waiting = 0;
function soon(task) {
  clearTimeout(waiting);
  waiting = setTimeout(task, 300);
}

function drawHistograms() {
  for (const card of document.querySelectorAll('.score')) drawHistogram(card);
}

function canvasOf(canvas, height) {
  const ratio = window.devicePixelRatio || 1, width = canvas.clientWidth;
  canvas.width = Math.max(1, Math.round(width * ratio));
  canvas.height = Math.round(height * ratio);
  const context = canvas.getContext('2d');
  context.scale(ratio, ratio);
  return { context, width, height };
}

function drawHistogram(card) {
  const canvas = card.querySelector('canvas');
  if (!canvas || !canvas.clientWidth) return;
  const { edges, counts } = state.about.histograms.find(one => one.score === card.dataset.score);
  const { context, width, height } = canvasOf(canvas, 56);
  const bins = edges.length - 1, margin = 8, inner = width - 2 * margin;
  const totals = Array.from({ length: bins }, (_, at) => counts.reduce((sum, source) => sum + source[at], 0));
  // Roots, for the few clips far out are those that a threshold is about.
  const scale = height / Math.sqrt(Math.max(1, ...totals));
  for (let at = 0; at < bins; at++) {
    const full = Math.sqrt(totals[at]) * scale;
    let top = height;
    counts.forEach((source, number) => {
      if (!source[at]) return;
      const tall = full * source[at] / totals[at];
      context.fillStyle = colourOf(number);
      context.fillRect(margin + inner * at / bins, top - Math.max(tall, .75), inner / bins - .75, Math.max(tall, .75));
      top -= tall;
    });
  }
  const style = getComputedStyle(document.documentElement), at = value => margin + inner * (value - edges[0]) / (edges[bins] - edges[0]);
  for (const limit of state.about.thresholds.filter(one => one.score === card.dataset.score)) {
    const place = Math.min(Math.max(at(state.config[limit.field]), margin), width - margin);
    context.fillStyle = style.getPropertyValue('--veil');
    if (limit.keeps_above) context.fillRect(0, 0, place, height);
    else context.fillRect(place, 0, width - place, height);
    context.fillStyle = style.getPropertyValue('--ink');
    context.fillRect(place - .75, 0, 1.5, height);
  }
}

const preview = once(async () => {
  const found = await ask('/api/preview', 'POST', { config: state.config, border: state.border });
  showSummary(found.summary);
  if (found.border) showBorderClips(found.border);
});

function showSummary(summary) {
  const share = summary.hours ? (100 * summary.kept_h / summary.hours).toFixed(1) : '0';
  get('kept-hours').textContent = span(summary.kept_h);
  get('kept-rest').textContent = `kept of ${span(summary.hours)} (${share} %)`;
  get('kept').title = `${whole(summary.num_kept)} of ${whole(summary.num_clips)} clips`;
  const reasons = [...summary.by_reason].sort((one, other) => other.hours - one.hours);
  get('reasons').replaceChildren(...reasons.map(one => make('tr', {},
    make('td', {}, make('button', { type: 'button', onclick: () => addFilter({ column: 'verdict', operator: 'is', value: one.reason }) }, plain(one.reason))),
    make('td', { class: 'number' }, whole(one.num_clips)), make('td', { class: 'number' }, span(one.hours)))));
  get('by-source').replaceChildren(...summary.by_source.map(one => make('tr', {},
    make('td', {}, make('button', { type: 'button', onclick: () => addFilter({ column: 'source', operator: 'is', value: one.source }) }, one.source)),
    make('td', { class: 'number' }, `${span(one.kept_h)} of ${span(one.hours)}`))));
}

function showBorderClips(border) {
  placeBorder(border.score);
  get('border').hidden = false;
  const value = state.config[border.field];
  get('border-title').textContent = `${plain(border.field)}: ${short(value)} alone drops ${whole(border.num_outside)} clips, ${span(border.hours_outside)}`;
  for (const side of ['outside', 'inside']) {
    const items = border[side].map(entry => clipItem(entry, border.score));
    get(`border-${side}`).replaceChildren(...items.length ? items : [make('li', { class: 'soft' }, 'none')]);
  }
  showCurrent();
}

function placeBorder(score) {  // beside the slider, where only one part of the page is seen
  const card = document.querySelector(`.score[data-score="${score}"]`);
  if (isNarrow()) card.after(get('border'));
  else get('list').before(get('border'));
}

async function save() {
  try {
    const found = await ask('/api/config', 'POST', state.config);
    const copy = make('button', { type: 'button', class: 'plain', onclick: () => navigator.clipboard?.writeText(found.command).then(() => { copy.textContent = 'Copied'; }) }, 'Copy');
    get('saved').replaceChildren('Saved. This applies it:', make('code', { id: 'command' }, found.command), copy);
    complain(null);
  } catch (error) { complain(error); }
}

function reset() {
  get('list').before(get('border'));
  state.config = { ...state.about.defaults };
  state.border = null;
  get('border').hidden = true;
  showOtherLimits();
  showScores();
  preview();
  search();
}

function showOtherLimits() {
  get('languages').value = (state.config.languages || []).join(', ');
  get('max-rate-iqr').value = state.config.max_rate_iqr ?? '';
}

// ---- the list

function query(after) {
  const sort = get('sort').value || null;
  return { filters: state.filters, search: get('search').value, sort, descending: get('direction').getAttribute('aria-pressed') === 'true', after, limit: 50, config: state.config };
}

const search = once(async () => {
  const number = ++state.asked, found = await ask('/api/clips', 'POST', query(null));
  if (number !== state.asked) return;
  get('found').textContent = `${whole(found.num_clips)} · ${span(found.hours)}`;
  get('list').replaceChildren(...found.clips.map(entry => clipItem(entry, shownScore())));
  if (!found.clips.length) get('list').append(make('li', { class: 'empty soft' }, 'No clip fits. Take a filter away.'));
  state.next = found.next;
  get('more').hidden = !state.next;
  showCurrent();
});

let loading = false;
async function more() {
  if (!state.next || loading) return false;
  loading = true;
  try {
    const number = state.asked, found = await ask('/api/clips', 'POST', query(state.next));
    if (number !== state.asked) return false;
    get('list').append(...found.clips.map(entry => clipItem(entry, shownScore())));
    state.next = found.next;
    get('more').hidden = !state.next;
    return found.clips.length > 0;
  } catch (error) {
    complain(error);
    return false;
  } finally { loading = false; }
}

function shownScore() {
  const sort = get('sort').value;
  return state.about.columns.find(one => one.name === sort)?.is_score ? sort : 'duration_s';
}

function clipItem(entry, score) {
  const value = score === 'duration_s' ? `${entry.scores.duration_s.toFixed(1)} s` : short(entry.scores[score]);
  const verdict = entry.verdict ? make('span', { class: 'badge dropped' }, plain(entry.verdict)) : make('span', { class: 'badge kept' }, 'kept');
  const text = make('span', { class: entry.text ? 'text' : 'text none', dir: 'auto' }, entry.text || (entry.modality ? entry.modality : 'no text'));
  const about = make('span', { class: 'about' }, [entry.source, entry.title, clock(entry.start_s)].filter(Boolean).join(' · '));
  const button = make('button', { type: 'button', class: `clip${entry.marked ? ' is-marked' : ''}`, 'data-clip': entry.clip_id, onclick: event => choose(entry, event.currentTarget) }, text, make('span', { class: 'value', title: plain(score) }, value), about, verdict);
  return make('li', {}, button);
}

const isNarrow = () => matchMedia('(max-width: 760px)').matches;
const items = () => [...document.querySelectorAll('.clip')].filter(node => !node.closest('[hidden]'));

function showCurrent() {
  for (const node of document.querySelectorAll('.clip')) node.setAttribute('aria-current', String(node === state.item || node.dataset.clip === state.entry?.clip_id && !state.item?.isConnected));
}

async function move(by) {
  let list = items();
  let at = list.indexOf(state.item?.isConnected ? state.item : list.find(node => node.dataset.clip === state.entry?.clip_id));
  if (at + by >= list.length && await more()) list = items();
  const next = list[Math.min(Math.max(at + by, 0), list.length - 1)];
  if (!next || next === state.item) return;
  next.focus({ preventScroll: true });
  next.click();
  next.scrollIntoView({ block: 'nearest' });
}

// ---- filters

function showFilters() {
  get('filters').replaceChildren(...state.filters.map((one, at) => make('li', {},
    `${plain(one.column)} ${SYMBOLS[one.operator]}${one.value == null ? '' : ' ' + one.value}`,
    make('button', { type: 'button', 'aria-label': `Take away: ${plain(one.column)}`, onclick: () => { state.filters.splice(at, 1); showFilters(); search(); } }, '×'))));
}

function addFilter(one) {
  if (!state.filters.some(known => JSON.stringify(known) === JSON.stringify(one))) state.filters.push(one);
  showFilters();
  show('clips');
  search();
}

const chosenColumn = () => state.about.columns.find(one => one.name === get('filter-column').value);

function showFilterForm() {
  const column = chosenColumn();
  get('filter-operator').replaceChildren(...column.operators.map(name => new Option(SYMBOLS[name], name)));
  get('filter-choices').replaceChildren(...(column.choices || []).map(name => new Option(name)));
  get('filter-value').type = column.kind === 'number' ? 'number' : 'text';
  get('filter-value').step = 'any';
  get('filter-value').value = '';
  get('filter-about').textContent = column.about;
  showFilterValue();
}

function showFilterValue() {
  const takes = !['empty', 'filled', 'yes', 'no'].includes(get('filter-operator').value);
  get('filter-value-label').hidden = !takes;
  get('filter-value').required = takes;
}

// ---- one clip

async function choose(entry, item) {
  const visit = ++state.visit;  // not the clip's id: answers of an earlier visit to the same clip are late, too
  state.entry = entry;
  state.item = item;
  showCurrent();
  if (item) show('clip');
  history.replaceState(null, '', `#${entry.clip_id}`);
  try {
    const found = await ask(`/api/clips/${entry.clip_id}`);
    if (visit !== state.visit) return;
    state.clip = found;
    showClip(entry.clip_id);
    complain(null);
  } catch (error) { complain(error); }
}

function showClip(id) {
  const { clip, recording } = state.clip;
  get('clip-empty').hidden = true;
  get('clip').hidden = false;
  get('clip-title').textContent = clip.clip_id;
  const start = clip.start_sample / clip.sample_rate_hz;
  get('clip-origin').textContent = [clip.source, clip.title, clip.author, `from ${clock(start)}, ${clip.duration_s.toFixed(2)} s`, clip.licence].filter(Boolean).join(' · ');
  showWords(clip);
  showMark();
  showClipTables(clip, recording);
  const isSound = !['image', 'video'].includes(clip.modality);
  get('sound').hidden = !isSound;
  get('visual').hidden = isSound;
  get('player').pause();
  get('decoded-player').pause();
  if (isSound) {
    get('player').src = `/api/clips/${id}/media`;
    loadPicture(id);
  } else get('image').src = `/api/clips/${id}/media`;
  showNoCodes(clip, isSound);
  if (!get('decode').hidden) loadCodes();
}

async function loadPicture(id) {
  const shown = state.clip;
  state.picture = null;
  get('waveform').parentElement.setAttribute('aria-busy', 'true');
  try {
    const picture = await ask(`/api/clips/${id}/picture`);
    if (shown !== state.clip) return;
    state.picture = picture;
    drawClip();
  } catch (error) { complain(error); }
  get('waveform').parentElement.removeAttribute('aria-busy');
}

function showNoCodes(clip, isSound) {
  state.codes = null;
  get('decode').hidden = !(state.about.has_release && (clip.modality || 'speech') === state.about.modality);
  get('codes').hidden = get('decoded-mel').hidden = true;
  get('decoded-player').hidden = !isSound;
  get('decoded-image').hidden = isSound;
  get('decoded-player').removeAttribute('src');
  get('decode-about').textContent = 'Decoding …';
}

const loadCodes = once(async () => {  // of the clip that is shown; who hurries past many waits for two decodes at most
  const shown = state.clip, { clip } = shown, path = `/api/clips/${clip.clip_id}`;
  try {
    const codes = await ask(`${path}/codes`);
    if (shown !== state.clip) return;
    const isSound = !['image', 'video'].includes(clip.modality);
    state.codes = codes;
    get('decode-about').textContent = `${codes.codes.length} codes from a codebook of ${whole(codes.num_codes)}, ${codes.origin}; what they decode to:`;
    if (isSound) get('decoded-player').src = `${path}/decoded`;
    else get('decoded-image').src = `${path}/decoded`;
    get('codes').hidden = get('decoded-mel').hidden = !isSound;
    drawClip();
  } catch (error) { if (shown === state.clip) get('decode-about').textContent = error.message; }
}, () => {});

function showWords(clip) {
  const place = get('words');
  place.lang = clip.language || '';
  place.dir = 'auto';
  if (!clip.words?.length) { place.replaceChildren(clip.text || make('span', { class: 'soft' }, 'no text')); return; }
  place.replaceChildren(...clip.words.flatMap(word => {
    const unsure = word.probability != null && word.probability < 0.5;
    const title = `${short(word.start_s)} – ${short(word.end_s)} s${word.probability == null ? '' : `, probability ${short(word.probability)}`}`;
    return [make('span', { class: unsure ? 'word unsure' : 'word', title, onclick: () => { get('player').currentTime = word.start_s; get('player').play(); } }, word.word.trim()), ' '];
  }));
}

function showMark() {
  const { mark } = state.clip;
  get('mark-button').replaceChildren(mark ? 'Take back ' : 'Mark wrong ', make('kbd', {}, 'x'));
  get('mark-button').setAttribute('aria-pressed', String(Boolean(mark)));
  get('mark-reason').value = mark?.reason || '';
  get('marked-about').textContent = mark ? `Marked wrong${mark.reason ? `: ${mark.reason}` : ''}; refilter drops it.` : '';
}

async function toggleMark() {
  if (!state.clip) return;
  const id = state.clip.clip.clip_id, path = `/api/clips/${id}/mark`;
  try {
    const reason = get('mark-reason').value.trim() || null;
    const found = state.clip.mark ? await ask(path, 'DELETE') : await ask(path, 'PUT', { reason });
    for (const node of document.querySelectorAll(`.clip[data-clip="${id}"]`)) {
      node.classList.toggle('is-marked', Boolean(found.mark));
      const badge = node.querySelector('.badge');
      if (found.mark) { badge.textContent = 'marked wrong'; badge.className = 'badge dropped'; }
    }
    if (state.clip.clip.clip_id === id) { state.clip.mark = found.mark; showMark(); }
    preview();
    if (!found.mark) search();
  } catch (error) { complain(error); }
}

function tableRows(object) {
  return Object.entries(object).map(([name, value]) => {
    const text = value != null && typeof value === 'object' ? JSON.stringify(value) : String(value ?? '–');
    const isLink = /^https?:\/\//.test(text) && name.endsWith('url');
    return make('tr', {}, make('th', { scope: 'row' }, plain(name)), make('td', { dir: 'auto' }, isLink ? make('a', { href: text, rel: 'noreferrer noopener', target: '_blank' }, text) : text));
  });
}

function showClipTables(clip, recording) {
  const scores = state.about.columns.filter(one => one.is_score && (one.name in clip ? clip[one.name] : state.entry.scores?.[one.name]) != null);
  const pairs = [];
  for (let at = 0; at < scores.length; at += 2) {
    pairs.push(make('tr', {}, ...scores.slice(at, at + 2).flatMap(one => [make('th', { scope: 'row', title: one.about }, plain(one.name)), make('td', { class: 'number' }, short(clip[one.name] ?? state.entry.scores[one.name]))])));
  }
  get('clip-scores').replaceChildren(...pairs);
  const { words, text, ...others } = clip;
  get('clip-columns').replaceChildren(...tableRows(others));
  get('clip-recording').replaceChildren(...tableRows(recording));
}

// ---- pictures

const MAGMA = [[0, 0, 4], [40, 17, 89], [114, 31, 129], [183, 55, 121], [241, 96, 93], [254, 176, 120], [252, 253, 191]];

function heat(value) {
  const at = value / 255 * (MAGMA.length - 1), low = Math.min(Math.floor(at), MAGMA.length - 2), share = at - low;
  return MAGMA[low].map((channel, index) => channel + share * (MAGMA[low + 1][index] - channel));
}
const HEAT = Array.from({ length: 256 }, (_, value) => heat(value));

function drawMel(canvas, mel) {
  const bytes = Uint8Array.from(atob(mel.data), char => char.charCodeAt(0)), { num_mels: rows, num_frames: columns } = mel;
  const image = new ImageData(columns, rows);
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++) {
      const [red, green, blue] = HEAT[bytes[row * columns + column]];
      image.data.set([red, green, blue, 255], 4 * ((rows - 1 - row) * columns + column));
    }
  }
  canvas.width = columns;
  canvas.height = rows;
  canvas.getContext('2d').putImageData(image, 0, 0);
}

function drawWaveform(canvas, peaks) {
  const { context, width, height } = canvasOf(canvas, 64);
  context.fillStyle = getComputedStyle(document.documentElement).getPropertyValue('--accent');
  const loudest = Math.max(10, ...peaks.flat().map(Math.abs));
  peaks.forEach(([low, high], at) => {
    const top = height / 2 * (1 - high / loudest), bottom = height / 2 * (1 - low / loudest);
    context.fillRect(width * at / peaks.length, top, Math.max(width / peaks.length, .6), Math.max(bottom - top, 1));
  });
}

function drawCodes(canvas, codes, seconds) {
  const { context, width, height } = canvasOf(canvas, 20), each = width * codes.seconds_per_code / seconds;
  codes.codes.forEach((code, at) => {
    context.fillStyle = `hsl(${(code * 137.508) % 360} 55% 55%)`;
    context.fillRect(at * each, 0, Math.max(each - .5, .5), height);
    if (each < 26) return;
    context.fillStyle = '#000';
    context.font = '9px system-ui';
    context.fillText(code, at * each + 2, 13);
  });
}

function drawClip() {
  if (!state.picture) return;
  drawWaveform(get('waveform'), state.picture.peaks);
  drawMel(get('mel'), state.picture.mel);
  if (state.codes?.mel) {
    drawCodes(get('codes'), state.codes, state.clip.clip.duration_s);
    drawMel(get('decoded-mel'), state.codes.mel);
  }
  follow();
}

function follow() {
  const player = !get('decoded-player').paused ? get('decoded-player') : get('player');
  const seconds = state.clip?.clip.duration_s || 1, now = player.currentTime;
  get('playhead').style.left = `${Math.min(100, 100 * now / seconds)}%`;
  const words = state.clip?.clip.words;
  if (words?.length) {
    const spoken = words.findIndex(word => now >= word.start_s && now < word.end_s && now > 0);
    get('words').querySelectorAll('.word').forEach((node, at) => node.classList.toggle('now', at === spoken));
  }
  if (!player.paused) requestAnimationFrame(follow);
}

function play(player) {
  const other = player === get('player') ? get('decoded-player') : get('player');
  other.pause();
  if (player.paused) player.play().catch(complain);
  else player.pause();
}

// ---- the page

function show(tab) {
  document.body.dataset.tab = tab;
  for (const button of document.querySelectorAll('.tabs button')) button.setAttribute('aria-current', String(button.dataset.tab === tab));
  if (tab === 'scores') drawHistograms();
  if (tab === 'clip') drawClip();
}

const KEYS = {
  j: () => move(1), ArrowDown: () => move(1), k: () => move(-1), ArrowUp: () => move(-1),
  ' ': () => state.clip && play(get('player')), d: () => get('decoded-player').src && play(get('decoded-player')), x: toggleMark,
  r: () => { show('clip'); get('mark-reason').focus(); }, '/': () => get('search').focus(), '?': () => get('help').showModal(),
};

function onKey(event) {
  const target = event.target instanceof Element ? event.target : document.body;
  if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector('dialog[open]')) return;
  if (event.key === 'Escape') { target.blur(); return; }
  if (target.matches('input, select, textarea, audio')) return;
  if (event.key === ' ' && target.matches('button:not(.clip), summary, a')) return;
  if (!Object.hasOwn(KEYS, event.key)) return;
  event.preventDefault();
  KEYS[event.key]();
}

function listen() {
  document.addEventListener('keydown', onKey);
  document.addEventListener('keyup', event => { if (event.key === ' ' && event.target.matches('.clip')) event.preventDefault(); });
  get('search').addEventListener('input', () => soon(search));
  get('search-form').addEventListener('submit', event => { event.preventDefault(); search(); });
  get('sort').addEventListener('change', search);
  get('direction').addEventListener('click', () => {
    const pressed = get('direction').getAttribute('aria-pressed') !== 'true';
    get('direction').setAttribute('aria-pressed', String(pressed));
    get('direction').textContent = pressed ? '↓ most' : '↑ least';
    search();
  });
  get('more').addEventListener('click', more);
  new IntersectionObserver(seen => { if (seen.some(one => one.isIntersecting)) more(); }).observe(get('more'));
  get('filter-column').addEventListener('change', showFilterForm);
  get('filter-operator').addEventListener('change', showFilterValue);
  get('filter-form').addEventListener('submit', event => {
    event.preventDefault();
    const column = chosenColumn(), operator = get('filter-operator').value, typed = get('filter-value').value;
    addFilter({ column: column.name, operator, value: get('filter-value-label').hidden ? null : column.kind === 'number' ? +typed : typed });
    get('add-filter').open = false;
  });
  get('save').addEventListener('click', save);
  get('reset').addEventListener('click', reset);
  get('border-close').addEventListener('click', () => { state.border = null; get('border').hidden = true; activate(null); });
  get('languages').addEventListener('change', () => {
    const names = get('languages').value.split(/[\s,]+/).filter(Boolean);
    state.config.languages = names.length ? names : null;
    preview();
    search();
  });
  get('max-rate-iqr').addEventListener('change', () => {
    state.config.max_rate_iqr = get('max-rate-iqr').value === '' ? null : +get('max-rate-iqr').value;
    preview();
    search();
  });
  get('mark-form').addEventListener('submit', event => { event.preventDefault(); toggleMark(); });
  get('previous').addEventListener('click', () => move(-1));
  get('following').addEventListener('click', () => move(1));
  get('help-open').addEventListener('click', () => get('help').showModal());
  for (const name of ['player', 'decoded-player']) {
    for (const kind of ['play', 'seeked', 'timeupdate']) get(name).addEventListener(kind, () => requestAnimationFrame(follow));
  }
  get('stack').addEventListener('click', event => {
    const box = get('stack').getBoundingClientRect();
    get('player').currentTime = (event.clientX - box.left) / box.width * (state.clip?.clip.duration_s || 0);
  });
  for (const button of document.querySelectorAll('.tabs button')) button.addEventListener('click', () => show(button.dataset.tab));
  for (const details of document.querySelectorAll('details')) details.addEventListener('toggle', drawHistograms);
  const redraw = () => {
    const limit = state.about?.thresholds.find(one => one.field === state.border);
    if (limit) placeBorder(limit.score);
    drawHistograms();
    drawClip();
  };
  let resized = 0;
  addEventListener('resize', () => { clearTimeout(resized); resized = setTimeout(redraw, 100); });
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', redraw);
}

function showSorts() {
  const usable = state.about.columns.filter(one => one.name !== 'text' && one.name !== 'clip_id');
  const scores = make('optgroup', { label: 'Scores' }), others = make('optgroup', { label: 'Others' });
  for (const one of usable) (one.is_score ? scores : others).append(new Option(plain(one.name), one.name));
  get('sort').replaceChildren(new Option('as they lie', ''), scores, others);
  get('filter-column').replaceChildren(...state.about.columns.map(one => new Option(plain(one.name), one.name)));
  showFilterForm();
}

async function begin() {
  listen();
  show('clips');
  try {
    state.about = await ask('/api/about');
    state.config = { ...state.about.config };
    const name = state.about.corpus.replace(/\/+$/, '').split('/').slice(-2).join('/');
    get('corpus').textContent = name;
    get('corpus').title = state.about.corpus;
    document.title = `${name} – Triforce`;
    showLegend();
    showSorts();
    showOtherLimits();
    showSummary(state.about.summary);
    showScores();
    await search();
    const wanted = location.hash.slice(1);
    if (/^[\w-]+$/.test(wanted)) choose({ clip_id: wanted }, null);
  } catch (error) { complain(error); }
  document.body.dataset.ready = 'true';
}

begin();
