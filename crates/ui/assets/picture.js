// A picture: lanes, boxes and arrows at the places that the server computed.
import { el, svg, table } from './dom.js';

const LINE = 16;
const PAD = 8;
const BASE = 19;
const SMALLEST = 0.7;
let pictures = 0;

function path(points) {
  let text = '';
  points.forEach(([x, y], at) => {
    if (at === 0) {
      text = `M${x} ${y}`;
      return;
    }
    const [before, top] = points[at - 1];
    const middle = (top + y) / 2;
    text += before === x ? `V${y}` : `C${before} ${middle} ${x} ${middle} ${x} ${y}`;
  });
  return text;
}

function drawLane(lane, width) {
  if (!lane.name) return null;
  const classes = ['lane', lane.is_hook && 'hook', !lane.is_used && 'empty'].filter(Boolean).join(' ');
  return svg('g', { class: classes },
    svg('rect', { x: 4, y: lane.y + 2, width: width - 8, height: lane.height - 4, rx: 6 }),
    svg('text', { x: 14, y: lane.y + 19 }, lane.name));
}

function drawBox(box, label, open) {
  const texts = [];
  if (box.table) texts.push(['table', box.table]);
  texts.push(...box.name.map((text) => ['name', text]), ...box.lines.map((text) => ['line', text]));
  const canOpen = box.steps.length > 0;
  return svg('g', {
    class: `box ${box.kind}${box.differs ? ' differs' : ''}`,
    role: canOpen ? 'button' : 'img', tabindex: canOpen ? 0 : null, 'aria-label': label,
    'aria-pressed': canOpen ? 'false' : null, 'data-title': box.title,
    onclick: canOpen && open,
    onkeydown: canOpen && ((event) => {
      if (event.key === 'Enter' || event.key === ' ') {
        event.preventDefault();
        open();
      }
    }),
  },
  svg('rect', { x: box.x, y: box.y, width: box.width, height: box.height, rx: box.kind === 'hook' ? 10 : 4 }),
  texts.map(([kind, text], at) => svg('text', { class: kind, x: box.x + PAD, y: box.y + BASE + at * LINE }, text)));
}

/** Show what happens to the packet in a box: each rule, why it matched, and its effect. */
export function stepsOf(box) {
  return el('section', { class: 'steps', 'aria-label': `Steps in ${box.title}` },
    el('h4', null, box.title),
    el('ol', null, box.steps.map((step) => el('li', null,
      el('code', { class: 'rule' }, step.rule),
      step.conditions.length > 0 && table(['it matched because the rule wants', 'and the packet has'],
        step.conditions.map((condition) => [el('code', null, condition.rule), condition.packet])),
      el('p', null, el('strong', null, 'effect: '), step.effect),
      step.counters && el('p', { class: 'quiet' }, `counted by the kernel: ${step.counters[0]} packets, ${step.counters[1]} bytes`)))));
}

/** Create the figure of a picture. Boxes whose title is not in `others` are marked as different. */
export function drawPicture(picture, title, others) {
  const number = pictures;
  pictures += 1;
  const steps = el('div', { class: 'opened', 'aria-live': 'polite' },
    picture.boxes.some((box) => box.steps.length > 0)
      && el('p', { class: 'quiet' }, 'Choose a box to see its rules, why they matched, and what they changed.'));
  const drawn = picture.boxes.map((box) => {
    const isDifferent = others && !others.has(box.title) && box.kind !== 'folded';
    const label = [box.title, ...box.lines, isDifferent ? 'only in this trace' : ''].filter(Boolean).join('; ');
    const open = () => {
      for (const node of drawn) if (node.hasAttribute('aria-pressed')) node.setAttribute('aria-pressed', node === shown);
      steps.replaceChildren(stepsOf(box));
    };
    const shown = drawBox({ ...box, differs: isDifferent }, label, open);
    return shown;
  });
  const arrows = picture.arrows.map((arrow) => svg('path', { class: 'arrow', d: path(arrow.points), 'marker-end': `url(#tip-${number})` }));
  const labels = picture.arrows.filter((arrow) => arrow.label)
    .map((arrow) => svg('text', { class: 'share', x: arrow.label_at[0], y: arrow.label_at[1], dy: 4 }, arrow.label));
  const drawing = svg('svg', {
    class: 'picture', viewBox: `0 0 ${picture.width} ${picture.height}`, role: 'group', 'aria-label': title,
  },
  svg('defs', null, svg('marker', {
    id: `tip-${number}`, viewBox: '0 0 8 8', refX: 7, refY: 4, markerWidth: 8, markerHeight: 8, orient: 'auto',
  }, svg('path', { d: 'M0 0L8 4L0 8z', class: 'tip' }))),
  picture.lanes.map((lane) => drawLane(lane, picture.width)), arrows, drawn, labels);
  drawing.style.width = `${picture.width}px`;
  // Wide pictures shrink, as long as their texts stay readable.
  drawing.style.maxWidth = `max(100%, ${picture.width * SMALLEST}px)`;
  const canvas = el('div', { class: 'canvas', tabindex: 0, role: 'region', 'aria-label': `${title}, scrollable` }, drawing);
  // Once it is on the page: the first box in the middle.
  requestAnimationFrame(() => {
    const [first] = picture.boxes;
    const scale = drawing.clientWidth / picture.width;
    if (first) canvas.scrollLeft = (first.x + first.width / 2) * scale - canvas.clientWidth / 2;
  });
  return el('figure', null, el('figcaption', null, title), canvas, steps);
}
