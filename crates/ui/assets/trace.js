// The trace of any packet, and two traces side by side.
import { el, percent } from './dom.js';
import { ask, isExport } from './source.js';
import { drawPicture } from './picture.js';

const FIELDS = [
  ['src', 'Source address', '10.244.1.5'],
  ['dst', 'Destination address', '10.96.0.10'],
  ['dport', 'Destination port', '80'],
  ['sport', 'Source port', 'any'],
];

function choice(name, label, options, value) {
  const select = el('select', { name }, options.map(([key, text]) => el('option', { value: key, selected: key === value }, text)));
  return el('label', null, `${label} `, select);
}

function form(side, nodes, submit) {
  const field = ([name, label, example]) => el('label', null, `${label} `,
    el('input', { name, value: side[name] ?? '', placeholder: example, autocomplete: 'off', spellcheck: 'false', required: name === 'src' || name === 'dst' }));
  return el('form', {
    class: 'form', onsubmit: (event) => {
      event.preventDefault();
      const given = Object.fromEntries(new FormData(event.target));
      submit({ ...given, reply: given.reply ?? '' });
    },
  },
  choice('node', 'Node', nodes.map((node) => [node.name, `${node.name} (${node.mode})`]), side.node),
  FIELDS.slice(0, 2).map(field),
  choice('proto', 'Protocol', ['tcp', 'udp', 'sctp', 'icmp'].map((p) => [p, p]), side.proto ?? 'tcp'),
  FIELDS.slice(2).map(field),
  choice('from', 'Origin', [['', 'guess from the source'], ['pod', 'pod of this node'], ['node', 'this node'], ['outside', 'outside']], side.from ?? ''),
  el('label', { class: 'check' }, el('input', { type: 'checkbox', name: 'reply', value: 'true', checked: (side.reply ?? 'true') === 'true' }), ' Also the answers'),
  el('button', { type: 'submit' }, 'Trace'));
}

function ends(answer) {
  const groups = new Map();
  for (const outcome of answer.outcomes) {
    const key = JSON.stringify([outcome.verdict, outcome.snat, outcome.hairpin, outcome.assuming ?? []]);
    const group = groups.get(key) ?? { ...outcome, share: 0, to: new Set() };
    group.share += outcome.probability;
    if (outcome.dnat) group.to.add(outcome.dnat);
    groups.set(key, group);
  }
  return el('ul', { class: 'ends' }, [...groups.values()].map((group) => {
    const all = [...group.to];
    const to = all.slice(0, 6).join(', ') + (all.length > 6 ? ` and ${all.length - 6} more` : '');
    return el('li', { class: group.verdict },
      el('strong', null, `${group.verdict} ${group.assuming ? 'perhaps' : percent(group.share)}`),
      to && ` to ${to}`,
      group.snat && `, source ${group.snat === 'masquerade' ? 'masqueraded' : group.snat}`,
      group.hairpin && ', back to its sender',
      group.assuming && el('span', { class: 'quiet' }, ` assuming ${group.assuming.join('; ')}`));
  }));
}

function result(answer, others) {
  return [
    ends(answer.answer),
    answer.answer.warnings.map((warning) => el('p', { class: 'warning' }, warning)),
    drawPicture(answer.forward.picture, 'Path of the packet', others),
    answer.back && answer.back.picture.boxes.length > 0 && el('details', { class: 'back', open: true }, el('summary', null, 'Path of the answers'),
      drawPicture(answer.back.picture, 'Path of the answers'),
      answer.back.more > 0 && el('p', { class: 'quiet' }, `Answers of ${answer.back.more} more endpoints are not drawn.`)),
    el('details', null, el('summary', null, 'Path as text, as sluice trace prints it'), el('pre', { class: 'text', tabindex: 0 }, answer.text)),
  ];
}

const titles = (answer) => new Set(answer.forward.picture.boxes.map((box) => box.title));

/** Show one or two traces in `main`. `change` receives the sides after each change. */
export async function showTrace(main, nodes, sides, change) {
  const isAsked = (side) => side.src && side.dst;
  const answers = await Promise.all(sides.map((side) => (isAsked(side) ? ask('trace', side).catch((error) => error) : null)));
  const both = answers.length === 2 && answers.every((answer) => answer && !(answer instanceof Error));
  const panes = sides.map((side, at) => {
    const answer = answers[at];
    const submit = (given) => change(sides.map((other, number) => (number === at ? given : other)));
    return el('section', { class: 'pane', 'aria-label': sides.length === 2 ? `Trace ${at + 1} of 2` : 'Trace' },
      form(side, nodes, submit),
      answer instanceof Error ? el('p', { class: 'warning', role: 'alert' }, answer.message)
        : answer ? result(answer, both && titles(answers[1 - at])) : el('p', { class: 'quiet' }, 'Enter a packet.'));
  });
  main.replaceChildren(
    el('h2', null, sides.length === 2 ? 'Two traces' : 'Trace a packet'),
    isExport ? el('p', { class: 'quiet' }, 'This file contains the traces that were opened before the export.') : '',
    el('p', null, sides.length === 2
      ? el('button', { type: 'button', onclick: () => change(sides.slice(0, 1)) }, 'Close the second trace')
      : el('button', { type: 'button', onclick: () => change([sides[0], { ...sides[0] }]) }, 'Compare with another trace'),
    both ? el('span', { class: 'quiet' }, ' Boxes with a dashed frame occur in one trace only.') : ''),
    el('div', { class: sides.length === 2 ? 'panes two' : 'panes' }, panes));
}
