import assert from 'node:assert/strict';
import { test } from 'node:test';

import type { ActView, Slot, Snapshot } from '../../demo/act.js';
import { ASCII, frame, paragraph, printable, table, textOf, timeline, UNICODE } from '../../demo/layout.js';
import { sizeOf, terminalText } from '../../demo/screen.js';
import { svg } from '../../demo/svg.js';

const latency = { count: 10, p50: 1, p99: 2.5, p999: 3, max: 12 };

function slot(values: Partial<Slot> = {}): Slot {
  return { max: 1, answered: 50, lost: 0, isMarked: false, ...values };
}

function act(values: Partial<ActView> = {}): ActView {
  return {
    ...{ title: 'fdpass: restarts', name: 'fdpass restarts', isFdpass: true, state: 'running', done: 3, total: 10 },
    ...{
      pid: 4711,
      generation: 4,
      perSecond: 520,
      sent: { new: 2000, keepAlive: 3200 },
      lost: { new: 0, keepAlive: 0 },
      kept: { wanted: 32, opened: 32 },
      carried: 96,
      oldest: { age: 6_040, processes: 4 },
    },
    ...{ max: 12, latency: undefined, slots: Array.from({ length: 50 }, () => slot()), note: undefined },
    ...values,
  };
}

function snapshot(...acts: ActView[]): Snapshot {
  const load = { newPerSecond: 200, keepAlive: 32, requestsPerSecond: 10 };
  return { script: 'examples/http.mjs', address: '127.0.0.1:40123', load, elapsed: 61_000, acts };
}

const HUGE = 9_007_199_254_740_991;
const huge = { new: HUGE, keepAlive: HUGE };
const cases: Record<string, ActView> = {
  usual: act(),
  'not begun': act({ state: 'waiting', done: 0, pid: undefined, generation: undefined, slots: [], max: 0 }),
  'nothing yet': act({
    done: 0,
    pid: undefined,
    perSecond: 0,
    sent: { new: 0, keepAlive: 0 },
    oldest: undefined,
    slots: [],
  }),
  'no steps': act({ done: 0, total: 0 }),
  'huge counts': act({
    done: HUGE,
    total: HUGE,
    perSecond: HUGE,
    sent: huge,
    lost: huge,
    carried: HUGE,
    oldest: { age: HUGE, processes: HUGE },
    pid: HUGE,
  }),
  'long timeline': act({
    slots: Array.from({ length: 10_001 }, (_, i) => slot({ isMarked: i % 100 === 0, lost: i % 7 })),
  }),
  'done, with a note': act({ state: 'done', latency: { new: latency, keepAlive: latency }, note: 'word '.repeat(200) }),
  'hostile note': act({ note: `\x1b[2J\x1b[H${'漢'.repeat(300)}\r\n\t` }),
  'nothing measured': act({
    state: 'done',
    latency: { new: { ...latency, p99: NaN }, keepAlive: { ...latency, p99: NaN } },
  }),
  contrast: act({
    isFdpass: false,
    lost: { new: 20, keepAlive: 30 },
    slots: [slot({ isMarked: true }), slot({ lost: 3 })],
  }),
};

for (const [name, view] of Object.entries(cases)) {
  for (const glyphs of [UNICODE, ASCII]) {
    for (const columns of [1, 20, 40, 80, 200]) {
      test(`${name}: no line is wider than ${columns}, ${glyphs === ASCII ? 'ASCII' : 'Unicode'}`, () => {
        const lines = [...frame(snapshot(view, view, view), glyphs, columns), ...table([view, view], columns)].map(
          textOf,
        );

        assert.ok(lines.length > 3);
        for (const line of lines) assert.ok(line.length <= columns, `${line.length}: ${line}`);
        const allowed = glyphs === ASCII ? /^[\x20-\x7e]*$/ : /^[\x20-\x7e▁-█░▲]*$/;
        for (const line of lines) assert.match(line, allowed);
      });
    }
  }
}

test('80 x 24 shows all three acts whole', () => {
  const done = act({ state: 'done', latency: { new: latency, keepAlive: latency } });
  const crashed = { ...done, note: `fdpass: the restart failed: ${'x '.repeat(60)}` };

  const lines = frame(snapshot(done, crashed, act({ title: 'plain: stop and start' })), UNICODE, 80, 24).map(textOf);

  assert.ok(lines.length <= 24);
  assert.equal(lines.filter((line) => line.startsWith('  latency')).length, 3);
  assert.equal(lines.filter((line) => line.startsWith('  serving')).length, 1);
  assert.match(lines[0] ?? '', /^fdpass demo {2}examples\/http\.mjs on 127\.0\.0\.1:40123 +1:01$/);
  assert.ok(lines.includes('  serving  pid 4711, generation 4, 520 requests/s'));
  assert.ok(lines.includes('  lost     new 0 of 2,000, keep-alive 0 of 3,200'));
  assert.ok(lines.includes('  kept     32 connections, carried 96 times, the oldest 6.0 s, 4 processes'));
});

test('connections that did not last: how often their clients came again', () => {
  const kept = { wanted: 32, opened: 99 };
  const view = act({ isFdpass: false, kept, carried: 0, oldest: { age: 300, processes: 1 } });

  const lines = frame(snapshot(view), UNICODE, 100).map(textOf);

  const line = '  kept     32 connections, carried 0 times, the oldest 0.3 s, 1 process, 67 reconnects';
  assert.ok(lines.includes(line), lines.join('\n'));
  assert.match(table([view], 200).map(textOf).join('\n'), / reconnects +carried[^]* 67 +0 /);
});

test('40 columns still say how far it is, who serves and what was lost', () => {
  const text = frame(snapshot(act()), UNICODE, 40).map(textOf).join('\n');

  assert.match(text, /^1 fdpass: restarts +█+░+ 3\/10$/m);
  assert.match(text, /pid 4711, generation 4$/m);
  assert.match(text, /new 0, keep-alive 0$/m);
});

for (const rows of [1, 5, 10, 15, 24, 60]) {
  test(`the picture has at most ${rows} lines where the terminal has`, () => {
    const view = act({ note: 'word '.repeat(100) });

    assert.ok(frame(snapshot(view, view, view), UNICODE, 80, rows).length <= rows);
  });
}

test('the timeline: levels by the same steps everywhere, gaps, losses before marks', () => {
  const slots = [
    ...[0.4, 1.5, 3, 7, 15, 30, 70, 5000].map((max) => slot({ max })),
    ...[slot({ answered: 0, max: 0, lost: 2 }), slot({ isMarked: true, lost: 2 })],
  ];

  assert.deepEqual(timeline(slots, UNICODE, 80), { levels: '▁▂▃▄▅▆▇█ ▁', marks: '        xx' });
  assert.deepEqual(timeline(slots, ASCII, 80), { levels: '_.-~=+*# _', marks: '        xx' });
  assert.deepEqual(timeline(slots, UNICODE, 5), { levels: '▂▄▆█▁', marks: '    x' });
  assert.equal(timeline([slot(), slot({ isMarked: true })], UNICODE, 80).marks, ' ▲');
  assert.deepEqual(timeline([], UNICODE, 80), { levels: '', marks: '' });
});

test('the table leaves out what matters least', () => {
  const view = act({ state: 'done', done: 10, latency: { new: latency, keepAlive: latency } });

  const wide = table([view], 200).map(textOf);
  const narrow = table([view], 40).map(textOf);

  assert.match(wide[1] ?? '', /^fdpass restarts +10 of 10 +5,200 +0 +0 +0 +96 +2\.5 ms +2\.5 ms +12\.0 ms$/);
  assert.deepEqual(narrow, ['                 lost: new  keep-alive', 'fdpass restarts          0           0']);
});

test('a paragraph breaks at words and keeps to its number of lines', () => {
  const lines = paragraph('one two three four', 9, 'plain', '  ').map(textOf);

  assert.deepEqual(lines, ['  one two', '  three', '  four']);
  assert.equal(paragraph('word '.repeat(50), 20, 'plain', '', 2).length, 2);
});

test('what would move the cursor, or take two columns, is never written', () => {
  assert.equal(printable('a\x1b[2Jb\n漢é'), 'a?[2Jb???');
});

test('colour only where it is wanted; a terminal that does not know its size has 80 x 24', () => {
  const line = [
    { text: 'a', style: 'bad' },
    { text: 'b', style: 'plain' },
  ] as const;

  assert.equal(terminalText(line, true), '\x1b[1;31ma\x1b[0mb');
  assert.equal(terminalText(line, false), 'ab');
  assert.deepEqual(sizeOf({ columns: 0, rows: 0 }), { columns: 80, rows: 24 });
});

test('the SVG holds the words, draws the blocks and escapes what it must', () => {
  const picture = svg([[{ text: 'a <b> & c ▁▁█░', style: 'good' }]], 40, 'x < y');

  assert.match(picture, /^<svg [^>]*width="352" height="50"/);
  assert.match(picture, />a &lt;b&gt; &amp; c<\/text>/);
  assert.match(picture, /<title>x &lt; y<\/title>/);
  assert.equal(picture.match(/<rect /g)?.length, 4); // the ground, ▁▁, █, ░
});
