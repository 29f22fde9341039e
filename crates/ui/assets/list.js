// The list of Services. Only the visible rows exist as elements.
import { byId, el } from './dom.js';

const ROW = 52;
const SPARE = 6;

/** Names of the states, the most severe first. */
export const STATES = {
  refused: 'refused',
  differs: 'differs from the plan',
  'no-ready-endpoint': 'no ready endpoint',
  shadowed: 'shadowed',
  'not-checked': 'not checked yet',
  'not-served': 'not served here',
  served: 'served',
};

const list = { rows: [], shown: [], at: -1, name: '', states: new Set(), open: () => {} };

const SHORT = { differs: 'differs', 'no-ready-endpoint': 'no endpoint', 'not-served': 'not served', 'not-checked': 'not checked' };

/** Return a mark for a state: a word, not only a colour. */
export function badge(state, isShort) {
  return el('span', { class: `badge ${state}`, title: STATES[state] }, (isShort && SHORT[state]) || STATES[state] || state);
}

function words(row) {
  row.words ??= [row.name, row.kind, row.addresses.join(' '), row.ports.join(' '), STATES[row.state]].join(' ').toLowerCase();
  return row.words;
}

function draw() {
  const box = byId('services');
  const first = Math.max(0, Math.floor(box.scrollTop / ROW) - SPARE);
  const last = Math.min(list.shown.length, Math.ceil((box.scrollTop + box.clientHeight) / ROW) + SPARE);
  const holder = byId('rows');
  holder.style.height = `${list.shown.length * ROW}px`;
  const rows = [];
  for (let at = first; at < last; at += 1) {
    const row = list.shown[at];
    const item = el('div', {
      class: 'row', role: 'option', id: `row-${at}`, 'data-at': at,
      'aria-selected': row.name === list.name, 'aria-setsize': list.shown.length, 'aria-posinset': at + 1,
    },
    el('span', { class: 'name' }, row.name),
    el('span', { class: 'side' }, badge(row.state, true)),
    el('span', { class: 'more' }, [row.kind, row.addresses[0] ?? 'no address', row.ports.join(', ')].join(' · ')),
    el('span', { class: 'side more' }, `${row.ready}/${row.endpoints} ready`));
    item.style.top = `${at * ROW}px`;
    if (at === list.at) item.classList.add('at');
    rows.push(item);
  }
  holder.replaceChildren(...rows);
  const active = list.at >= first && list.at < last ? `row-${list.at}` : null;
  if (active) box.setAttribute('aria-activedescendant', active);
  else box.removeAttribute('aria-activedescendant');
}

function reveal() {
  const box = byId('services');
  const top = list.at * ROW;
  if (top < box.scrollTop) box.scrollTop = top;
  if (top + ROW > box.scrollTop + box.clientHeight) box.scrollTop = top + ROW - box.clientHeight;
  draw();
}

function filter() {
  const wanted = byId('search').value.toLowerCase().split(/\s+/).filter(Boolean);
  const isWanted = (row) => (list.states.size === 0 || list.states.has(row.state))
    && wanted.every((word) => words(row).includes(word));
  list.shown = list.rows.filter(isWanted);
  list.at = list.shown.findIndex((row) => row.name === list.name);
  byId('count').textContent = `${list.shown.length} of ${list.rows.length} Services`;
  draw();
}

function filters() {
  const counts = new Map();
  for (const row of list.rows) counts.set(row.state, (counts.get(row.state) ?? 0) + 1);
  byId('states').replaceChildren(...Object.keys(STATES).filter((state) => counts.has(state)).map((state) => el('button', {
    type: 'button', class: `badge ${state}`, 'aria-pressed': list.states.has(state),
    onclick: () => {
      if (!list.states.delete(state)) list.states.add(state);
      filters();
      filter();
    },
  }, `${STATES[state]} ${counts.get(state)}`)));
}

/** Show these rows. */
export function showRows(rows) {
  list.rows = rows;
  filters();
  filter();
}

/** Return the row of a Service. */
export function rowOf(name) {
  return list.rows.find((row) => row.name === name);
}

/** Mark the open Service. */
export function mark(name) {
  list.name = name;
  list.at = list.shown.findIndex((row) => row.name === name);
  if (list.at >= 0) reveal();
  else draw();
}

/** Let the list call `open` with the name of a chosen Service. */
export function startList(open) {
  list.open = open;
  const box = byId('services');
  byId('search').addEventListener('input', () => {
    box.scrollTop = 0;
    filter();
  });
  byId('search').addEventListener('keydown', (event) => {
    if (event.key === 'Enter' && list.shown.length > 0) list.open(list.shown[0].name);
    if (event.key === 'ArrowDown') {
      event.preventDefault();
      box.focus();
    }
  });
  box.addEventListener('scroll', draw, { passive: true });
  window.addEventListener('resize', draw);
  box.addEventListener('click', (event) => {
    const row = event.target.closest('[data-at]');
    if (row) list.open(list.shown[Number(row.dataset.at)].name);
  });
  box.addEventListener('focus', () => {
    if (list.at < 0 && list.shown.length > 0) {
      list.at = 0;
      reveal();
    }
  });
  const page = () => Math.max(1, Math.floor(box.clientHeight / ROW) - 1);
  box.addEventListener('keydown', (event) => {
    const moves = { ArrowDown: 1, ArrowUp: -1, PageDown: page(), PageUp: -page(), Home: -Infinity, End: Infinity };
    if (event.key in moves) {
      event.preventDefault();
      list.at = Math.min(list.shown.length - 1, Math.max(0, list.at + moves[event.key]));
      reveal();
    } else if ((event.key === 'Enter' || event.key === ' ') && list.shown[list.at]) {
      event.preventDefault();
      list.open(list.shown[list.at].name);
    }
  });
}
