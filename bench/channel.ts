/**
 * (f) Passing descriptors from process to process: how many in a second, and what one costs the processors of both sides. A Channel beside a
 * C program that does nothing but sendmsg and recvmsg, and beside what else there is. In each round every way has its turn, forwards and
 * backwards: the ratios are those of one round. Also the time of a round trip, and the memory after ten million.
 */
import { readFileSync } from 'node:fs';

import { type Figure, pairRow, type Pairs, type Row } from './measure.js';
import { type Pair, type Rate, startPair, type Way } from './pairs.js';

const WAYS: readonly Way[] = ['C', 'fdpass', 'fdpass/raw', 'Python', 'usocket', 'send(handle)'];
const BATCHES = [1, 64, 253]; // 253: SCM_MAX_FD, unix(7)
const ROUNDS = 5;
const WARM_UP = 2; // rounds: compiled by then
/** How many go in one sample: so that most take a quarter of a second. */
const SAMPLE = { 1: 100_000, many: 500_000 };
const SLOW = { ways: new Set<Way>(['send(handle)']), part: 30 };
/** What cannot carry such a message: one handle, and the room that usocket receives into. */
const LARGEST: Partial<Record<Way, number>> = { 'send(handle)': 1, usocket: 64 };
const WANTED: Record<number, number> = { 1: 0.5, 64: 0.9, 253: 0.9 };
const ROUND_TRIPS = 2_000;
const MIB = 2 ** 20;

export const channel: Figure = async ({ quick, scope }) => {
  const started = WAYS.map((way) => ({ way, pair: startPair(scope, way) }));
  const missing = started.flatMap(({ way, pair }) => (typeof pair === 'string' ? [`${way}: ${pair}`] : []));
  const pairs = started.filter((each): each is { way: Way; pair: Pair } => typeof each.pair !== 'string');

  const rows: Row[] = [];
  for (const batch of BATCHES) rows.push(...(await throughput(pairs, batch, quick ? 1 : ROUNDS, quick ? 10 : 1)));
  rows.push(...(await roundTrips(pairs, quick ? 1 : ROUNDS)));
  for (const { pair } of pairs) await pair.stop();
  const [first] = rows;
  if (first !== undefined && missing.length > 0) first.note = `not available: ${missing.join('; ')}`;
  return rows;
};

interface Series {
  perSecond: number[];
  cpu: number[];
}

async function throughput(
  all: readonly { way: Way; pair: Pair }[],
  batch: number,
  rounds: number,
  share: number,
): Promise<Row[]> {
  const pairs = all.filter(({ way }) => batch <= (LARGEST[way] ?? Infinity));
  const series = new Map<Way, Series>(pairs.map(({ way }) => [way, { perSecond: [], cpu: [] }]));
  const messages = Math.ceil((batch === 1 ? SAMPLE[1] : SAMPLE.many) / share / batch);
  for (let round = -WARM_UP; round < rounds; round++) {
    for (const { way, pair } of round % 2 === 0 ? pairs : pairs.toReversed()) {
      const count = SLOW.ways.has(way) ? Math.ceil(messages / SLOW.part) : messages;
      const rate: Rate = await pair.stream(count * batch, batch);
      if (round < 0) continue;
      series.get(way)?.perSecond.push(rate.perSecond);
      series.get(way)?.cpu.push(rate.cpu);
    }
  }
  const ours = series.get('fdpass');
  if (ours === undefined) return [];
  const what = batch === 1 ? 'one at a time' : `${batch} in a message`;
  const rows: Row[] = [];
  for (const [against, { perSecond }] of series) {
    if (against === 'fdpass') continue;
    const wanted = against === 'C' ? WANTED[batch] : against === 'send(handle)' ? 10 : undefined;
    rows.push(
      pairRow(
        { fdpass: ours.perSecond, other: perSecond },
        {
          ...{ figure: `descriptors, ${what}`, unit: 'per s', against, ratioOf: 'fdpass / other' },
          ...(wanted === undefined ? {} : { wanted: { atLeast: wanted } }),
        },
      ),
    );
  }
  for (const [against, { cpu }] of series) {
    if (against === 'fdpass') continue;
    const figure = `processor time of one, ${what}`;
    rows.push(pairRow({ fdpass: ours.cpu, other: cpu }, { figure, unit: 'us', against, ratioOf: 'fdpass / other' }));
  }
  return rows;
}

async function roundTrips(pairs: readonly { way: Way; pair: Pair }[], rounds: number): Promise<Row[]> {
  const compared = pairs.filter(({ way }) => way === 'C' || way === 'fdpass').reverse();
  const times: Record<'p50' | 'p99', Pairs> = { p50: { fdpass: [], other: [] }, p99: { fdpass: [], other: [] } };
  for (let round = -1; round < rounds; round++) {
    for (const { way, pair } of compared) {
      const answer = await pair.pingPong(ROUND_TRIPS);
      if (round < 0) continue;
      for (const key of ['p50', 'p99'] as const) times[key][way === 'fdpass' ? 'fdpass' : 'other'].push(answer[key]);
    }
  }
  if (compared.length < 2) return [];
  return (['p50', 'p99'] as const).map((key) =>
    pairRow(times[key], {
      ...{ figure: `round trip with one each way, ${key}`, unit: 'us', against: 'C', ratioOf: 'fdpass / other' },
    }),
  );
}

/** What a part of the ten million is: a quarter one at a time, the rest in messages of 64. */
const PART = { total: 500_000, single: 125_000, batch: 64 };

export const memory: Figure = async ({ quick, scope }) => {
  const pair = startPair(scope, 'fdpass');
  if (typeof pair === 'string') throw new Error(pair);
  const marks = (quick ? [1, 2, 3] : [1, 5, 10]).map((millions) => (quick ? PART.total : 1_000_000) * millions);
  const seen: number[][] = [];
  for (let passed = 0; passed < Math.max(...marks);) {
    await pair.stream(PART.single, 1);
    await pair.stream(PART.total - PART.single, PART.batch);
    passed += PART.total;
    if (marks.includes(passed)) seen.push(pair.pids.map(residentSize));
  }
  await pair.stop();
  const [first = [], middle = [], last = []] = seen;
  const millions = marks.map((mark) => mark / 1_000_000);
  return ['sender', 'receiver'].map((end, index): Row => {
    const [fdpass = NaN, other = NaN, before = NaN] = [last[index], middle[index], first[index]];
    return {
      figure: `memory of the ${end}, ${millions[2] ?? NaN} million passed`,
      ...{ unit: 'MiB', fdpass: fdpass / MIB, other: other / MIB, against: `after ${millions[1] ?? NaN} million` },
      ...{ ratio: fdpass / other, ratioOf: 'fdpass / other', wanted: { atMost: 1.1 }, samples: 1 },
      note: `RSS; after ${millions[0] ?? NaN} million ${(before / MIB).toFixed(1)} MiB`,
    };
  });
};

/** In bytes. proc(5): VmRSS, in kB that are KiB. */
function residentSize(pid: number): number {
  return Number(/^VmRSS:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, 'latin1'))?.[1]) * 1024;
}
