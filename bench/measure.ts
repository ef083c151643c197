/**
 * What every figure is made of: pairs of samples, rows of the table, and where things stand in the repository.
 * Ratios are taken pair by pair, and the median of them counts: both halves of a pair ran within the same second or so, and whatever
 * else the machine did then slowed both. Pure, but for the clock and `sampleSeries`, which calls what it is given.
 */
import { setImmediate as turn } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';

import type { Scope } from '../test/support/fixture.js';

/** The folder of the package, seen from dist/bench. */
export const root: string = fileURLToPath(new URL('../../', import.meta.url));

/** One figure of the bench: measures, and returns its rows. What it starts it ends through `scope`. */
export type Figure = (options: { quick: boolean; scope: Scope }) => Promise<Row[]>;

/** One line of the table. */
export interface Row {
  /** What was measured. */
  figure: string;
  unit: 's' | 'ms' | 'us' | 'MiB' | 'requests/s' | 'per s' | '';
  /** What fdpass takes, a median as a rule; and what it is held against, which `against` names. */
  fdpass: number;
  other?: number;
  against?: string;
  /** Of the two, as `ratioOf` says. */
  ratio?: number;
  ratioOf?: 'fdpass / other' | 'other / fdpass';
  /** Half of the ratios lie between these two. */
  quartiles?: [number, number];
  /** What is wanted of the ratio, or of `fdpass` where there is none. Without: the row informs. */
  wanted?: { atMost: number } | { atLeast: number };
  /** How many samples each side has. */
  samples: number;
  /** What else is worth knowing: stands below the table, and in the JSON. */
  note?: string;
}

/** Two series that were sampled in turn: the n-th of one belongs to the n-th of the other. */
export interface Pairs {
  fdpass: number[];
  other: number[];
}

/** Samples A, B, A, B, ... so often, one after the other. */
export async function samplePairs(
  count: number,
  fdpass: () => number | Promise<number>,
  other: () => number | Promise<number>,
): Promise<Pairs> {
  const pairs: Pairs = { fdpass: [], other: [] };
  for (let i = 0; i < count; i++) {
    pairs.fdpass.push(await fdpass());
    pairs.other.push(await other());
    await turn();
  }
  return pairs;
}

export function median(values: readonly number[]): number {
  return quantile(values, 0.5);
}

/** The value below which such a part of them lies; between two of them in proportion. */
export function quantile(values: readonly number[], part: number): number {
  const sorted = [...values].sort((a, b) => a - b);
  const at = part * (sorted.length - 1);
  const below = sorted[Math.floor(at)] ?? NaN;
  const above = sorted[Math.ceil(at)] ?? NaN;
  return below + (above - below) * (at - Math.floor(at));
}

/** a / b pair by pair: the median, and the quartiles. */
export function ratios(a: readonly number[], b: readonly number[]): { ratio: number; quartiles: [number, number] } {
  const each = a.map((value, i) => value / (b[i] ?? NaN));
  return { ratio: median(each), quartiles: [quantile(each, 0.25), quantile(each, 0.75)] };
}

/** The median of a - b, pair by pair. */
export function medianDifference(a: readonly number[], b: readonly number[]): number {
  return median(a.map((value, i) => value - (b[i] ?? NaN)));
}

/** A row of two series. */
export function pairRow(
  pairs: Pairs,
  row: Pick<Row, 'figure' | 'unit' | 'against' | 'wanted' | 'note'> & { ratioOf: NonNullable<Row['ratioOf']> },
): Row {
  const { fdpass, other } = pairs;
  const compared = row.ratioOf === 'fdpass / other' ? ratios(fdpass, other) : ratios(other, fdpass);
  return { ...row, ...compared, fdpass: median(fdpass), other: median(other), samples: fdpass.length };
}

/** Whether the row is as wanted; undefined where nothing was. */
export function isMet({ wanted, ratio, fdpass }: Row): boolean | undefined {
  if (wanted === undefined) return undefined;
  const value = ratio ?? fdpass;
  return 'atMost' in wanted ? value <= wanted.atMost : value >= wanted.atLeast;
}

/** The rows as text, with the notes below. */
export function formatTable(rows: readonly Row[]): string {
  const header = ['figure', 'fdpass', 'other', 'ratio', 'wanted', 'met', 'n'];
  const lines = rows.map((row) => {
    const met = isMet(row);
    return [
      row.figure,
      quantity(row.fdpass, row.unit),
      row.other === undefined ? '-' : `${quantity(row.other, row.unit)} ${row.against ?? ''}`.trim(),
      row.ratio === undefined ? '-' : number(row.ratio) + spread(row.quartiles),
      row.wanted === undefined ? '-' : 'atMost' in row.wanted ? `<= ${row.wanted.atMost}` : `>= ${row.wanted.atLeast}`,
      met === undefined ? '-' : met ? 'yes' : 'NO',
      String(row.samples),
    ];
  });
  const all = [header, ...lines];
  const widths = header.map((_, column) => Math.max(...all.map((cells) => (cells[column] ?? '').length)));
  const text = all.map((cells) =>
    cells
      .map((cell, i) => cell.padEnd(widths[i] ?? 0))
      .join('  ')
      .trimEnd(),
  );
  text.splice(1, 0, widths.map((width) => '-'.repeat(width)).join('  '));
  const notes = rows.flatMap(({ figure, note }) => (note === undefined ? [] : [`${figure}: ${note}`]));
  return [...text, ...(notes.length > 0 ? ['', ...notes] : [])].join('\n');
}

function quantity(value: number, unit: Row['unit']): string {
  return unit === '' ? number(value) : `${number(value)} ${unit}`;
}

function spread(quartiles: Row['quartiles']): string {
  return quartiles === undefined ? '' : ` (${quartiles.map(number).join('..')})`;
}

/** Three digits are more than these measurements carry. */
function number(value: number): string {
  if (Number.isInteger(value) || Math.abs(value) >= 100) return value.toFixed(0);
  return value.toPrecision(3);
}
