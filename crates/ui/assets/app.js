// Views, by the fragment of the URL: #VIEW?PARAMETERS.
import { announce, byId, el } from './dom.js';
import { ask, exported, isExport, refresh } from './source.js';
import { mark, showRows, startList } from './list.js';
import { drawPicture } from './picture.js';
import { finding, showService } from './service.js';
import { showTrace } from './trace.js';

const INTERVAL = 700;
const state = { nodes: [], node: '', turn: 0 };

function fragment() {
  const [view, query] = location.hash.slice(1).split('?', 2);
  return { view: view || 'services', query: new URLSearchParams(query ?? '') };
}

function go(view, parameters) {
  location.hash = `${view}?${new URLSearchParams(parameters)}`;
}

function openService(name) {
  go('service', { node: state.node, name });
}

function openTraces(sides) {
  go('trace', sides.flatMap((side, at) => Object.entries(side).filter(([, value]) => value !== '').map(([name, value]) => [`${at}.${name}`, value])));
}

function sidesOf(query) {
  const sides = [];
  for (const [name, value] of query) {
    const [at, field] = name.split('.', 2);
    if (!/^[01]$/.test(at) || !field) continue;
    sides[Number(at)] ??= {};
    sides[Number(at)][field] = value;
  }
  const given = sides.filter(Boolean).map((side) => ({ node: state.node, ...side }));
  return given.length > 0 ? given : [{ node: state.node, proto: 'tcp', reply: 'true' }];
}

const pause = () => new Promise((done) => { setTimeout(done, INTERVAL); });

/** Show the Services of the node, and again when the check of the rules has ended. */
async function follow(node) {
  state.turn += 1;
  const turn = state.turn;
  let { progress, rows } = await ask('services', { node });
  if (turn !== state.turn) return;
  showRows(rows);
  byId('about').textContent = about(node, progress);
  while (!progress.finished && !isExport) {
    await pause();
    ({ progress } = await ask('progress', { node }));
    if (turn !== state.turn) return;
    byId('about').textContent = about(node, progress);
    if (progress.finished) {
      ({ rows } = await ask('services', { node }));
      if (turn === state.turn) showRows(rows);
    }
  }
}

function about(name, progress) {
  const node = state.nodes.find((one) => one.name === name);
  if (!node) return '';
  const check = progress.error ? `check failed: ${progress.error}`
    : progress.finished ? 'rules checked' : `checking rules: ${progress.done} of ${progress.all}`;
  return [`${node.mode} mode`, node.kernel && `Linux ${node.kernel}`, `from ${node.origin}`, check].filter(Boolean).join(' · ');
}

async function showProblems(main, node) {
  const { progress, answer } = await ask('problems', { node });
  if (!answer) {
    main.replaceChildren(el('h2', null, 'Problems'), el('p', { role: 'status' }, progress.error ?? `Checking rules: ${progress.done} of ${progress.all} Services.`));
    if (progress.error || isExport) return;
    await pause();
    if (fragment().view === 'problems') await route();
    return;
  }
  const links = (problem) => problem.services.map((name) => el('a', { class: 'service', href: `#service?${new URLSearchParams({ node, name })}` }, name));
  main.replaceChildren(
    el('h2', null, answer.problems.length === 0 ? `No problems found on ${answer.node}` : `Problems on ${answer.node}`),
    el('p', { class: 'quiet' }, `${answer.services} Services and ${answer.connections} connections were checked.`),
    el('ul', { class: 'findings' }, answer.problems.map((problem) => {
      const item = finding({ ...problem, what: problem.example });
      if (problem.count > 0) {
        const more = problem.count - problem.services.length;
        item.append(el('p', null, `in ${problem.count} Service${problem.count === 1 ? '' : 's'}: `, links(problem).flatMap((link) => [link, ' ']), more > 0 && `and ${more} more`));
      }
      return item;
    })),
    ...answer.notes.map((note) => el('p', { class: 'quiet' }, `note: ${note}`)));
}

async function showRules(main, node) {
  const { picture, rules } = await ask('rules', { node });
  main.replaceChildren(el('h2', null, `Chains of ${node}`), el('p', { class: 'quiet' }, `${rules} rules. Chains with many jumps are folded.`),
    picture.boxes.length > 0 ? drawPicture(picture, 'All chains') : el('p', null, 'No rules.'));
}

function showStart(main) {
  main.replaceChildren(el('h2', null, 'Services'),
    el('p', null, 'Choose a Service from the list to see its findings, its plan and the paths of its connections, or trace any packet.'));
}

async function route() {
  const { view, query } = fragment();
  const node = query.get('node') ?? state.node;
  if (node !== state.node && state.nodes.some((one) => one.name === node)) await choose(node);
  for (const link of document.querySelectorAll('nav a')) {
    const isOpen = link.dataset.view === (view === 'service' ? 'services' : view);
    if (isOpen) link.setAttribute('aria-current', 'page');
    else link.removeAttribute('aria-current');
  }
  const main = byId('main');
  main.dataset.state = 'busy';
  announce('');
  try {
    if (view === 'service') {
      mark(query.get('name') ?? '');
      await showService(main, state.node, query.get('name') ?? '', (side) => openTraces([side]));
    } else if (view === 'trace') await showTrace(main, state.nodes, sidesOf(query), openTraces);
    else if (view === 'problems') await showProblems(main, state.node);
    else if (view === 'rules') await showRules(main, state.node);
    else showStart(main);
  } catch (error) {
    main.replaceChildren(el('p', { class: 'warning' }, error.message));
    announce(error.message);
  }
  main.dataset.state = 'done';
  document.title = `${main.querySelector('h2')?.textContent ?? 'sluice'} – sluice`;
}

async function choose(name) {
  state.node = name;
  byId('node').value = name;
  await Promise.race([follow(name).catch((error) => announce(error.message)), pause()]);
}

function showNodes(nodes) {
  state.nodes = nodes;
  byId('node').replaceChildren(...nodes.map((node) => el('option', { value: node.name }, node.name)));
}

async function save() {
  const blob = await exported();
  const link = el('a', { href: URL.createObjectURL(blob), download: `sluice-${state.node}.html` });
  link.click();
  URL.revokeObjectURL(link.href);
}

function theme(name) {
  if (name) document.documentElement.dataset.theme = name;
  else delete document.documentElement.dataset.theme;
}

async function start() {
  startList(openService);
  byId('theme').addEventListener('change', (event) => theme(event.target.value));
  byId('node').addEventListener('change', async (event) => {
    await choose(event.target.value);
    const { view, query } = fragment();
    if (view === 'trace') await route();
    else go(view, { ...Object.fromEntries(query), node: state.node });
  });
  const failed = (error) => announce(error.message);
  byId('refresh').hidden = isExport;
  byId('export').hidden = isExport;
  byId('export').addEventListener('click', () => save().catch(failed));
  byId('refresh').addEventListener('click', async () => {
    try {
      showNodes((await refresh()).nodes);
      await choose(state.nodes.some((node) => node.name === state.node) ? state.node : state.nodes[0].name);
      await route();
    } catch (error) {
      failed(error);
    }
  });
  document.addEventListener('keydown', (event) => {
    const isTyping = /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName);
    if (event.key === '/' && !isTyping) {
      event.preventDefault();
      byId('search').focus();
    }
  });
  const { nodes } = await ask('nodes');
  showNodes(nodes);
  if (nodes.length > 0) await choose(fragment().query.get('node') ?? nodes[0].name);
  window.addEventListener('hashchange', route);
  await route();
  document.body.dataset.ready = 'true';
}

start().catch((error) => announce(error.message));
