// The random tester itself: a seed is a history; what the judge lets pass and what it does not; and 20 s of histories.
import assert from 'node:assert/strict';
import { test } from 'node:test';

import { describeHistory, type History, historyOf, random } from './history.js';
import { type Act, type Event, judge, now, parseEvents, type Request } from './judge.js';
import { runHistory } from './run.js';

test('the same seed is the same history', () => {
  for (let seed = 0; seed < 200; seed++) assert.deepEqual(historyOf(seed), historyOf(seed));
});

test('another seed is another history', () => {
  const histories = Array.from({ length: 500 }, (_, seed) => describeHistory({ ...historyOf(seed), seed: 0 }));

  assert.equal(new Set(histories).size, histories.length);
});

test('the numbers are those of mulberry32', () => {
  const next = random(1);

  assert.deepEqual(
    [next(), next(), next()].map((value) => value.toFixed(6)),
    ['0.627074', '0.002736', '0.527447'],
  );
});

test('a thousand histories have everything in them, and web is always served', () => {
  const histories = Array.from({ length: 1000 }, (_, seed) => historyOf(seed));
  const all = histories.map(describeHistory).join('\n');

  for (const word of [
    'SIGKILL to one',
    'SIGSTOP to one',
    'table full',
    'crash-serving',
    'old is committing',
    'never-ready',
  ])
    assert.ok(all.includes(word), word);
  for (const { set, steps } of histories) {
    assert.ok(set.includes('web'));
    assert.equal(steps[0]?.action.type, 'restart');
  }
});

// ---- The judge -----------------------------------------------------------------------------------------------------

const HISTORY: History = { ...historyOf(0), overlap: 'join', readyTimeout: 4000 };

const LOG = `
100 1 start {"parent":0,"plan":{},"hasPredecessor":false}
110 1 new alone
110 1 alone {"web":80,"hello":81}
200 2 start {"parent":1,"plan":{},"hasPredecessor":true}
300 2 serving 2
310 1 accept web 5001
320 2 accept web 5002
`;

const LOST: Request = {
  ...{ id: 'r1', kind: 'new', listener: 'web', port: 80, peer: '', openedAt: 305, sentAt: 305, endedAt: 400 },
  outcome: 'reset',
};

/** What the judge says of one request, which is lost at 400. */
function verdict(request: Partial<Request>, acts: Act[] = [], log = ''): { violations: string[]; excused: number } {
  const events: Event[] = parseEvents(LOG + log);
  return judge(HISTORY, {
    requests: [{ ...LOST, ...request }],
    events,
    acts: [{ at: 90, type: 'start', pid: 0 }, ...acts],
  });
}

const ALLOWED: [name: string, request: Partial<Request>, acts: Act[], log?: string][] = [
  ['the process that had accepted it was killed before', { peer: '5001' }, [{ at: 390, type: 'kill', pid: 1 }]],
  ['the process that had accepted it was to die then', { peer: '5002' }, [], '390 2 dying crash-serving'],
  ['a kill hit between accept and the log', { peer: '5003' }, [{ at: 390, type: 'kill', pid: 1 }]],
  [
    'nobody was left',
    { outcome: 'refused' },
    [
      { at: 390, type: 'kill', pid: 1 },
      { at: 391, type: 'kill', pid: 2 },
    ],
  ],
  ['a generation does without the listener', { listener: 'hello', port: 81 }, [], '390 2 alone {"web":80}'],
];
for (const [name, request, acts, log] of ALLOWED) {
  test(`a request may be lost where ${name}`, () => {
    assert.deepEqual(verdict(request, acts, log), { violations: [], excused: 1 });
  });
}

const FORBIDDEN: [name: string, pattern: RegExp, request: Partial<Request>, acts: Act[], log?: string][] = [
  ['the process that had accepted it lives', /pid 1 had accepted it, and lives/, { peer: '5001' }, []],
  ['another process was killed', /pid 1 had accepted it/, { peer: '5001' }, [{ at: 390, type: 'kill', pid: 2 }]],
  ['it was lost before the kill', /pid 1 had accepted it/, { peer: '5001' }, [{ at: 410, type: 'kill', pid: 1 }]],
  ['the process had handed over, and drained', /exited/, { peer: '5001' }, [], '380 1 handedOver 2\n390 1 exit 0'],
  ['nobody had accepted it', /nobody had accepted it/, { peer: '5003' }, []],
  ['somebody lives and it was refused', /nobody listened/, { outcome: 'refused' }, [{ at: 390, type: 'kill', pid: 1 }]],
  [
    'a frozen process never answers',
    /never answered/,
    { peer: '5001', outcome: undefined, endedAt: undefined } as object,
    [],
  ],
  ['a generation does without another listener', /nobody had/, { peer: '5003' }, [], '390 2 alone {"web":80}'],
];
for (const [name, pattern, request, acts, log] of FORBIDDEN) {
  test(`a request may not be lost where ${name}`, () => {
    const { violations, excused } = verdict(request, acts, log);

    assert.equal(excused, 0);
    assert.match(violations.join('\n'), pattern);
  });
}

test('one kill explains one connection that nobody logged, and no more', () => {
  const requests = ['a', 'b'].map((id) => ({ ...LOST, id, peer: id }));
  const acts: Act[] = [
    { at: 90, type: 'start', pid: 0 },
    { at: 390, type: 'kill', pid: 1 },
  ];

  const { violations, excused } = judge(HISTORY, { requests, events: parseEvents(LOG), acts });

  assert.deepEqual([violations.length, excused], [1, 1]);
});

test('a process that ends without a reason is a violation', () => {
  const { violations } = verdict({ outcome: 'ok', peer: '5001' }, [], '390 2 exit 1');

  assert.deepEqual(violations, ['pid 2 exited with code 1, and nobody had asked it to']);
});

// ---- The histories ---------------------------------------------------------------------------------------------------

/** A crash in the probation; a kill in it, a frozen process, a set that grows; full tables; a successor that hangs; sets that change. */
const SEEDS = [553, 217, 823, 2893, 2244];
const TIME = 20_000; // ms

test(
  '20 s of random histories: no client sees a failure that the rules do not allow',
  { skip: process.platform !== 'linux' },
  async (t) => {
    const end = now() + TIME;
    const fresh = Math.floor(Math.random() * 2 ** 32);
    for (const seed of [fresh, ...SEEDS]) {
      if (now() > end) break; // the machine is slow: the rest another time
      t.diagnostic(`seed ${seed}`);
      const { violations, evidence, history } = await runHistory(historyOf(seed));
      const text = `${describeHistory(history)}\n${evidence}\n${violations.join('\n')}\nAgain: npm run torture -- --seed ${seed}`;
      assert.deepEqual(violations, [], text);
    }
  },
);
