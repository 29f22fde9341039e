// One Service: findings, objects, plan, endpoints, and the paths of its connections.
import { el, table } from './dom.js';
import { badge } from './list.js';
import { ask } from './source.js';
import { drawPicture } from './picture.js';

const WEIGHTS = { broken: 'connections fail', partly: 'in part', note: 'note' };

/** Show a finding with its fix. */
export function finding(found) {
  return el('li', { class: `finding ${found.weight}` },
    el('p', null, el('strong', null, found.cause), ' ', el('span', { class: 'quiet' }, WEIGHTS[found.weight])),
    el('p', null, found.what),
    found.change && el('p', { class: 'fix' }, el('strong', null, 'fix: '), found.change));
}

function findings(answer) {
  const wrong = answer.findings.filter((found) => found.weight !== 'note').length;
  return el('section', { class: 'card tall' },
    el('h3', null, wrong === 0 ? `No problems found on ${answer.node}` : `Problems found on ${answer.node}`),
    answer.findings.length > 0 && el('ul', { class: 'findings' }, answer.findings.map(finding)),
    answer.notes.map((note) => el('p', { class: 'quiet' }, `note: ${note}`)));
}

function objects(details) {
  const facts = [
    ['type', details.kind],
    ['addresses', details.addresses.join(', ') || 'none'],
    ['ports', details.ports.join(', ')],
    ['internal policy', details.internal_policy],
    ['external policy', details.external_policy],
    ['affinity', details.affinity ? `client IP, ${details.affinity} s` : 'none'],
  ];
  if (details.source_ranges.length > 0) facts.push(['source ranges', details.source_ranges.join(', ')]);
  return el('section', { class: 'card' },
    el('h3', null, 'Objects'),
    el('dl', null, facts.map(([name, value]) => [el('dt', null, name), el('dd', null, value)])),
    details.warnings.map((warning) => el('p', { class: 'warning' }, warning)),
    details.slices.length === 0 ? el('p', null, 'No EndpointSlice.') : table(['EndpointSlice', 'ports', 'ready'],
      details.slices.map((slice) => [slice.is_hidden ? `${slice.name} (hidden by a label)` : slice.name, slice.ports.join(', '), `${slice.ready} of ${slice.endpoints}`])));
}

const TREATMENTS = { cluster: 'to any endpoint', local: 'to endpoints of this node', reject: 'refused: no endpoint', drop: 'dropped: no endpoint on this node' };

function plan(details, node) {
  const listed = (planned) => {
    const shown = planned.to.slice(0, 6).join(', ');
    return planned.endpoints > 6 ? `${shown} and ${planned.endpoints - 6} more` : shown || '–';
  };
  return el('section', { class: 'card' },
    el('h3', null, `Plan on ${node}`),
    details.plan.length === 0 ? el('p', null, 'No rules are planned.') : table(['frontend', 'kind', 'connections go', 'endpoints'],
      details.plan.map((planned) => [planned.frontend, planned.kind, TREATMENTS[planned.treatment], listed(planned)])));
}

function endpoints(details) {
  const shown = details.endpoints.slice(0, 200);
  const rows = shown.map((endpoint) => [
    endpoint.address,
    el('span', { class: endpoint.condition === 'ready' ? 'ok' : 'bad' }, endpoint.condition),
    endpoint.node ? `${endpoint.node}${endpoint.is_local ? ' (this node)' : ''}` : '–',
    endpoint.zone ?? '–',
    endpoint.hints.join(', ') || '–',
    endpoint.is_used ? 'yes' : 'no',
  ]);
  return el('section', { class: 'card wide' },
    el('h3', null, `Endpoints (${details.endpoints.length})`),
    rows.length === 0 ? el('p', null, 'None.') : table(['address', 'condition', 'node', 'zone', 'hints', 'used by this node'], rows),
    details.endpoints.length > shown.length && el('p', { class: 'quiet' }, `${details.endpoints.length - shown.length} more are not shown.`));
}

/** Return the parameters of the trace of a connection. */
export function traceOf(node, connection) {
  const { src, dst, proto, dport, from } = connection;
  return { node, src, dst, proto, dport: String(dport), from, reply: 'true' };
}

function connections(details, node, openTrace) {
  const place = el('div', null);
  const select = el('select', { id: 'connection' }, details.connections.map((c, at) => el('option', { value: at },
    `${c.from} ${c.src} to ${c.dst}:${c.dport}/${c.proto} (plan: ${c.expected})`)));
  const show = async () => {
    const connection = details.connections[Number(select.value)];
    place.replaceChildren(el('p', { class: 'quiet' }, 'Tracing…'));
    try {
      const answer = await ask('trace', traceOf(node, connection));
      place.replaceChildren(drawPicture(answer.forward.picture, 'Path of the packet'));
    } catch (error) {
      place.replaceChildren(el('p', { class: 'warning' }, error.message));
    }
  };
  select.addEventListener('change', show);
  if (details.connections.length > 0) show();
  return el('section', { class: 'card wide' },
    el('h3', null, 'Where connections go, by the rules in the kernel'),
    details.connections.length === 0 ? el('p', null, 'No connection can be checked on this node.')
      : el('p', { class: 'form' }, el('label', null, 'Connection ', select),
        el('button', { type: 'button', onclick: () => openTrace(traceOf(node, details.connections[Number(select.value)])) }, 'Open as trace')),
    place);
}

/** Show a Service in `main`. */
export async function showService(main, node, name, openTrace) {
  main.replaceChildren(el('p', { class: 'quiet' }, `Explaining ${name}…`));
  const { details, answer, note } = await ask('service', { node, name });
  main.replaceChildren(
    el('h2', null, details.name, ' ', badge(details.state)),
    details.reason && el('p', { class: 'quiet' }, details.reason),
    el('div', { class: 'cards' }, findings(answer), objects(details), plan(details, node), endpoints(details),
      connections(details, node, openTrace)),
    note ? el('p', { class: 'quiet' }, note) : '');
}
