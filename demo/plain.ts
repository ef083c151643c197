/** The demo in plain lines, for pipes and files. Pure: text in, lines out. */
import type { Step } from './acts.js';
import type { ActView, Snapshot } from './act.js';
import { number, paragraph, textOf } from './layout.js';

const WIDTH = 100;

export function introduction({ script, address, load }: Snapshot): string {
  const { newPerSecond, keepAlive, requestsPerSecond } = load;
  return `${script} listens on ${address}
load: ${newPerSecond} new connections/s; ${keepAlive} keep-alive connections x ${requestsPerSecond} requests/s`;
}

export function actHeading(n: number, { title }: ActView): string {
  const columns = ['step', 'generation', 'pid old -> new', 'first reply', 'old gone after', 'lost'];
  return `\n${n} ${title}\n${columns.map((name, i) => name.padStart(WIDTHS[i] ?? 0)).join('   ')}`;
}

/** A line of the act's table. The first reply and the end of the old process: ms after the signal. */
export function stepLine(
  { done, note }: ActView,
  { what, generation, old, pid, firstReply, gone, lost }: Step,
): string {
  const isSurvived = what === 'survived';
  const cells = [
    String(done),
    String(generation),
    isSurvived ? `${old} stays` : `${old} -> ${pid}`,
    `${firstReply.toFixed(0)} ms`,
    isSurvived ? '-' : `${gone.toFixed(0)} ms`,
    number(lost),
  ];
  const line = cells.map((cell, i) => cell.padStart(WIDTHS[i] ?? 0)).join('   ');
  const said = isSurvived && note !== undefined ? paragraph(note, WIDTH, 'plain', '        ').map(textOf) : [];
  return [line, ...said].join('\n');
}

const WIDTHS = [5, 10, 20, 11, 14, 6];
