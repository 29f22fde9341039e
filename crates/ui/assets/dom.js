// Elements. Texts become text nodes: nothing from a node is interpreted as markup.

const SVG = 'http://www.w3.org/2000/svg';

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith('on')) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? '' : String(value));
  }
  for (const child of children.flat(Infinity)) {
    if (child !== undefined && child !== null && child !== false) node.append(child);
  }
  return node;
}

/** Create an HTML element. Attributes that begin with `on` are listeners. */
export function el(name, attributes, ...children) {
  return fill(document.createElement(name), attributes, children);
}

/** Create an SVG element. */
export function svg(name, attributes, ...children) {
  return fill(document.createElementNS(SVG, name), attributes, children);
}

/** Return the element with an id. */
export function byId(id) {
  return document.getElementById(id);
}

/** Create a table. Cells are texts or elements. */
export function table(head, rows, caption) {
  return el('div', { class: 'scroll' }, el('table', null,
    caption && el('caption', null, caption),
    el('thead', null, el('tr', null, head.map((cell) => el('th', { scope: 'col' }, cell)))),
    el('tbody', null, rows.map((row) => el('tr', null, row.map((cell) => el('td', null, cell)))))));
}

/** Format a share: `33.33%`. */
export function percent(share) {
  return `${Number((share * 100).toFixed(2))}%`;
}

/** Show a message that screen readers announce; an empty one hides it. */
export function announce(text) {
  const message = byId('message');
  message.textContent = text;
  message.hidden = !text;
}
