/**
 * The picture of the demo: from a snapshot and a size to lines of styled text. Pure: it knows no terminal.
 * Every character is one column wide; what may come from elsewhere is made so.
 */
import type { ActView, Slot, Snapshot } from './act.js';

export type Style = 'plain' | 'strong' | 'dim' | 'good' | 'bad' | 'accent';

export interface Span {
  text: string;
  style: Style;
}

export type Line = readonly Span[];

export interface Glyphs {
  /** From low to high. */
  spark: string;
  full: string;
  empty: string;
  mark: string;
  lost: string;
}

export const UNICODE: Glyphs = { spark: '▁▂▃▄▅▆▇█', full: '█', empty: '░', mark: '▲', lost: 'x' };
export const ASCII: Glyphs = { spark: '_.-~=+*#', full: '#', empty: '.', mark: '^', lost: 'x' };

const STEPS = [1, 2, 5, 10, 20, 50, 100]; // ms: the upper ends of the spark's levels, the same for all acts
const TITLE_WIDTH = 28;
const MAX_BAR = 60;

export function textOf(line: Line): string {
  return line.map(({ text }) => text).join('');
}

/** All acts, in at most `rows` lines of at most `columns` characters. What is less important goes first. */
export function frame(snapshot: Snapshot, glyphs: Glyphs, columns: number, rows: number = Infinity): Line[] {
  const levels = ['spacious', 'dense', 'short'] as const;
  const frames = levels.map((level) => {
    const acts = snapshot.acts.map((act, i) => actLines(act, i + 1, glyphs, columns, level === 'short'));
    const gap = level === 'spacious' ? [[]] : [];
    return [...head(snapshot, columns), ...acts.flatMap((lines) => [...gap, ...lines])];
  });
  const fitting = frames.find((lines) => lines.length <= rows) ?? frames.at(-1) ?? [];
  return fitting.slice(0, rows);
}

/** What each act did and lost. Columns that do not fit are left out, the least important first. */
export function table(acts: readonly ActView[], columns: number): Line[] {
  const milliseconds = (value: number | undefined): string =>
    value === undefined || Number.isNaN(value) ? '-' : `${value.toFixed(1)} ms`;
  const lost = (act: ActView, count: number): Span => span(number(count), lostStyle(act, count));
  const all: { title: string; rank: number; cell: (act: ActView) => Span }[] = [
    { title: '', rank: 0, cell: (act) => span(act.name) },
    { title: 'done', rank: 6, cell: ({ done, total }) => span(`${done} of ${total}`) },
    { title: 'sent', rank: 3, cell: ({ sent }) => span(number(sent.new + sent.keepAlive)) },
    { title: 'lost: new', rank: 1, cell: (act) => lost(act, act.lost.new) },
    { title: 'keep-alive', rank: 2, cell: (act) => lost(act, act.lost.keepAlive) },
    { title: 'reconnects', rank: 4, cell: (act) => lost(act, reconnects(act)) },
    { title: 'carried', rank: 5, cell: ({ carried }) => span(number(carried)) },
    { title: 'p99: new', rank: 7, cell: ({ latency }) => span(milliseconds(latency?.new.p99)) },
    { title: 'keep-alive', rank: 8, cell: ({ latency }) => span(milliseconds(latency?.keepAlive.p99)) },
    { title: 'max', rank: 9, cell: ({ max }) => span(milliseconds(max)) },
  ];
  const sized = all.map((column) => {
    const cells = acts.map(column.cell);
    return { ...column, cells, width: Math.max(column.title.length, ...cells.map(({ text }) => text.length)) };
  });
  const GAP = 2;
  const total = (chosen: typeof sized): number => chosen.reduce((sum, { width }) => sum + width + GAP, -GAP);
  let chosen = sized;
  while (chosen.length > 1 && total(chosen) > columns) {
    const last = Math.max(...chosen.map(({ rank }) => rank));
    chosen = chosen.filter(({ rank }) => rank !== last);
  }
  const line = (pick: (column: (typeof sized)[number]) => Span): Line => {
    const spans = chosen.flatMap((column, i) => {
      const { text, style } = pick(column);
      return i === 0
        ? span(text.padEnd(column.width), style)
        : span(' '.repeat(GAP) + text.padStart(column.width), style);
    });
    return clip(spans, columns);
  };
  return [line(({ title }) => span(title, 'dim')), ...acts.map((_, i) => line(({ cells }) => cells[i] ?? span('')))];
}

/** One paragraph in lines of at most `columns`, the later ones indented. */
export function paragraph(
  text: string,
  columns: number,
  style: Style = 'plain',
  indent: string = '',
  most: number = Infinity,
): Line[] {
  const lines: string[] = [];
  let line = indent;
  for (const word of printable(text).split(' ')) {
    const isFirst = line.trim() === '';
    if (!isFirst && line.length + 1 + word.length > columns) {
      lines.push(line);
      line = indent + word;
    } else line += isFirst ? word : ` ${word}`;
  }
  lines.push(line);
  return lines.slice(0, most).map((each) => clip([span(each, style)], columns));
}

/** Latencies and losses over time, in `columns` columns: a line of levels, and a line of marks below it. */
export function timeline(slots: readonly Slot[], glyphs: Glyphs, columns: number): { levels: string; marks: string } {
  const group = Math.max(1, Math.ceil(slots.length / Math.max(1, columns)));
  const groups = Array.from({ length: Math.ceil(slots.length / group) }, (_, i) =>
    slots.slice(i * group, (i + 1) * group),
  );
  const level = (part: readonly Slot[]): string => {
    if (part.every(({ answered }) => answered === 0)) return ' ';
    const max = Math.max(...part.map((slot) => slot.max));
    const index = STEPS.findIndex((step) => max <= step);
    return glyphs.spark.at(index) ?? ' '; // -1, above all steps: the last
  };
  const mark = (part: readonly Slot[]): string => {
    if (part.some(({ lost }) => lost > 0)) return glyphs.lost; // a loss is never hidden
    return part.some(({ isMarked }) => isMarked) ? glyphs.mark : ' ';
  };
  return { levels: groups.map(level).join(''), marks: groups.map(mark).join('').trimEnd() };
}

export function number(value: number): string {
  return Math.round(value).toLocaleString('en-US');
}

/** Without what would move the cursor, or take more or less than one column. */
export function printable(text: string): string {
  return text.replace(/[^\x20-\x7e]/gu, '?');
}

function head({ script, address, load, elapsed }: Snapshot, columns: number): Line[] {
  const seconds = Math.floor(elapsed / 1000);
  const clock = `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, '0')}`;
  const title = clip([span('fdpass demo', 'strong'), span(`  ${printable(script)} on ${printable(address)}`)], columns);
  const free = columns - textOf(title).length - clock.length;
  const { newPerSecond, keepAlive, requestsPerSecond } = load;
  return [
    free >= 2 ? [...title, span(' '.repeat(free)), span(clock, 'dim')] : title,
    row(columns, [
      span(`${number(newPerSecond)} new connections/s`, 'dim'),
      span(`, ${number(keepAlive)} keep-alive`, 'dim'),
      span(` connections x ${number(requestsPerSecond)} requests/s`, 'dim'),
    ]),
  ];
}

function actLines(act: ActView, n: number, glyphs: Glyphs, columns: number, isShort: boolean): Line[] {
  const lines = [heading(act, n, glyphs, columns)];
  if (act.state === 'waiting') return lines;
  const label = (text: string): Span => span(`  ${text.padEnd(9)}`, 'dim');

  if (act.state === 'running') {
    const generation = act.generation === undefined ? [] : [span(`, generation ${number(act.generation)}`)];
    const pid = act.pid === undefined ? '-' : String(act.pid);
    const rate = span(`, ${number(act.perSecond)} requests/s`);
    lines.push(row(columns, [label('serving'), span(`pid ${pid}`, 'strong'), ...generation, rate]));
  }
  const lost = (title: string, kind: 'new' | 'keepAlive'): Span[] => [
    span(`${title} `),
    span(number(act.lost[kind]), lostStyle(act, act.lost[kind])),
  ];
  const of = (kind: 'new' | 'keepAlive'): Span => span(` of ${number(act.sent[kind])}`, 'dim');
  const [fresh, kept] = [lost('new', 'new'), lost('keep-alive', 'keepAlive')];
  const long = [label('lost'), ...fresh, of('new'), span(', '), ...kept, of('keepAlive')];
  const isLong = textOf(long).length <= columns;
  lines.push(isLong ? long : clip([label('lost'), ...fresh, span(', '), ...kept], columns));
  lines.push(keptLine(act, label('kept'), columns));
  if (isShort) return lines;

  if (act.note !== undefined) lines.push(...paragraph(act.note, columns, 'accent', '  ', 3));
  const p99 = act.latency ? Math.max(act.latency.new.p99, act.latency.keepAlive.p99) : NaN;
  lines.push(
    row(columns, [
      label('latency'),
      span(`max ${act.max.toFixed(1)} ms`),
      span(Number.isNaN(p99) ? '' : `, p99 ${p99.toFixed(1)} ms`),
      span(`   ${glyphs.spark.at(0) ?? ''} 1 ms, ${glyphs.spark.at(-1) ?? ''} over 100 ms`, 'dim'),
      span(`, ${glyphs.mark} ${act.isFdpass ? 'restart' : 'stop'}`, 'dim'),
      span(act.isFdpass && act.lost.new + act.lost.keepAlive === 0 ? '' : `, ${glyphs.lost} lost`, 'dim'),
    ]),
  );
  const { levels, marks } = timeline(act.slots, glyphs, columns - 2);
  lines.push(clip([span(`  ${levels}`, act.isFdpass ? 'good' : 'plain')], columns));
  lines.push(clip([span('  '), ...colouredMarks(marks, glyphs)], columns));
  return lines;
}

/** What became of the keep-alive connections: counted by their client, by the pids in the replies. */
function keptLine(act: ActView, label: Span, columns: number): Line {
  const { kept, oldest, carried } = act;
  const again = reconnects(act);
  const parts = [label, span(`${number(kept.wanted)} connections`), span(`, carried ${number(carried)} times`)];
  if (oldest === undefined) return row(columns, parts);
  const processes = `${number(oldest.processes)} ${oldest.processes === 1 ? 'process' : 'processes'}`;
  parts.push(span(`, the oldest ${(oldest.age / 1000).toFixed(1)} s, ${processes}`));
  parts.push(span(again > 0 ? `, ${number(again)} reconnects` : ''));
  return row(columns, parts);
}

/** How often a client with a keep-alive connection had to open another one. */
function reconnects({ kept }: ActView): number {
  return Math.max(0, kept.opened - kept.wanted);
}

function heading({ title, state, done, total }: ActView, n: number, glyphs: Glyphs, columns: number): Line {
  const style = state === 'waiting' ? 'dim' : 'strong';
  const name = `${n} ${title}`.padEnd(TITLE_WIDTH);
  const count = ` ${done}/${total}`;
  const bar = Math.min(MAX_BAR, columns - name.length - count.length);
  if (bar < 4) return clip([span(name.trimEnd(), style), span(count)], columns);
  const full = Math.round((bar * Math.min(done, total)) / Math.max(1, total));
  return [
    span(name, style),
    span(glyphs.full.repeat(full), 'accent'),
    span(glyphs.empty.repeat(bar - full), 'dim'),
    span(count, style),
  ];
}

function colouredMarks(marks: string, glyphs: Glyphs): Span[] {
  const runs = marks.match(/(.)\1*/gu) ?? [];
  return runs.map((run) => span(run, run.startsWith(glyphs.lost) ? 'bad' : 'accent'));
}

function lostStyle({ isFdpass }: ActView, count: number): Style {
  if (count > 0) return 'bad';
  return isFdpass ? 'good' : 'plain';
}

function span(text: string, style: Style = 'plain'): Span {
  return { text, style };
}

/** As many of the parts as fit, from the left; of the first two at least a piece. */
function row(columns: number, parts: readonly Span[]): Line {
  const taken: Span[] = [];
  for (const part of parts) {
    if (taken.length >= 2 && textOf([...taken, part]).length > columns) break;
    taken.push(part);
  }
  return clip(taken, columns);
}

function clip(line: Line, columns: number): Line {
  let free = Math.max(0, columns);
  const clipped: Span[] = [];
  for (const { text, style } of line) {
    const piece = text.slice(0, free);
    free -= piece.length;
    if (piece !== '') clipped.push(span(piece, style));
  }
  return clipped;
}
