// The answers: from the server, or from the document itself if it is an export.
import { byId } from './dom.js';

const data = JSON.parse(byId('data').textContent);

/** Whether the page works without a server. */
export const isExport = data.answers !== null;

const answered = new Map();

function keyOf(kind, parameters) {
  const given = Object.entries(parameters).filter(([, value]) => value !== '' && value !== undefined);
  given.sort(([a], [b]) => (a < b ? -1 : 1));
  return JSON.stringify([kind, given.map(([name, value]) => [name, String(value)])]);
}

async function checked(response) {
  const text = await response.text();
  const value = JSON.parse(text);
  if (!response.ok) throw new Error(value.error ?? response.statusText);
  return value;
}

/** Ask a question; an error is thrown with the server's reason. */
export async function ask(kind, parameters = {}) {
  const key = keyOf(kind, parameters);
  if (isExport) {
    const answer = data.answers[key];
    if (answer === undefined) {
      throw new Error('This file does not contain the answer. Ask on the node with sluice ui, or export again after opening it.');
    }
    return answer;
  }
  const query = new URLSearchParams(parameters);
  const answer = await checked(await fetch(`api/${kind}?${query}`));
  answered.set(key, true);
  return answer;
}

/** Let the server read rules and objects again. */
export async function refresh() {
  answered.clear();
  return checked(await fetch('refresh', { method: 'POST' }));
}

/** Return everything that was asked so far as one HTML document. */
export async function exported() {
  const response = await fetch('export', { method: 'POST', body: JSON.stringify([...answered.keys()]) });
  if (!response.ok) await checked(response);
  return response.blob();
}
