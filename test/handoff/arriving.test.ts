// What comes to a process that takes over: the set is whole, or nothing of it is left. Each test looks at the table before and after.
import assert from 'node:assert/strict';
import fs from 'node:fs';
import { afterEach, beforeEach, test } from 'node:test';

import { type Arrived, Arriving } from '../../lib/handoff/arriving.js';
import type { Frame, Item, Message } from '../../lib/handoff/frame.js';
import * as raw from '../../lib/raw.js';
import { auditDescriptors } from '../support/audit.js';
import { ListeningSocket } from '../support/socket.js';

let socket: ListeningSocket;
let before: string[];
beforeEach(() => {
  socket = new ListeningSocket();
  before = auditDescriptors();
});
afterEach(() => {
  assert.deepEqual(auditDescriptors(), before); // whatever came is closed
  socket[Symbol.dispose]();
});

const OFFER = {
  type: 'OFFER',
  versions: { min: 1, max: 1 },
  pid: 4711,
  generation: 7,
  probation: 100,
  count: 2,
  items: [],
} as const satisfies Message;

function offer(fields: Partial<Extract<Message, { type: 'OFFER' }>> = {}, fds: number[] = []): Frame<number> {
  return { message: { ...OFFER, items: [], ...fields }, fds };
}

function item(name: string, fields: Partial<Item> = {}): Item {
  const { inode, device } = raw.describe(socket.fd);
  const address = { family: 'IPv4', address: '127.0.0.1', port: socket.port } as const;
  return { name, type: 'stream', address, inode: String(inode), device: String(device), ...fields };
}

function batch(number: number, items: Item[], fds: number[] = items.map(() => raw.dup(socket.fd))): Frame<number> {
  return { message: { type: 'FDS', batch: number, items }, fds };
}

function memory(bytes: Uint8Array): number {
  const fd = raw.memoryFile('state');
  fs.writeSync(fd, bytes);
  return fd;
}

/** Asked anew at each call: the compiler takes a getter for a constant. */
function whole(set: Arriving): Arrived | undefined {
  return set.complete;
}

test('OFFER, then the listeners: complete with the last one, each batch answered', () => {
  const set = new Arriving();

  assert.equal(set.take(offer()), undefined);
  assert.equal(whole(set), undefined);
  assert.deepEqual(set.take(batch(0, [item('web')])), { type: 'FDS_ACK', batch: 0 });
  assert.equal(whole(set), undefined);
  assert.deepEqual(set.take(batch(1, [item('admin', { backlog: 9, supervised: true })])), {
    type: 'FDS_ACK',
    batch: 1,
  });

  const complete = whole(set);
  assert.equal(complete?.offer.generation, 7);
  assert.equal(complete.state, undefined);
  const seen = complete.items.map(({ name, origin, claimed, type }) => ({ name, origin, claimed, type }));
  assert.deepEqual(seen, [
    { name: 'web', origin: 'predecessor', claimed: false, type: 'stream' },
    { name: 'admin', origin: 'systemd', claimed: false, type: 'stream' },
  ]);
  assert.equal(complete.items[1]?.backlog, 9);
  set.close();
});

test('a set without listeners is complete with OFFER', () => {
  const set = new Arriving();

  set.take(offer({ count: 0 }));

  assert.deepEqual(whole(set)?.items, []);
  set.close();
});

test('frames of a later part are not taken, and stay the caller’s', () => {
  const set = new Arriving();
  for (const message of [{ type: 'COMMIT', probation: 1 }, { type: 'RELEASED' }] as const) {
    assert.equal(set.take({ message, fds: [] }), false);
  }
});

const STATES: [name: string, state: unknown, file: Uint8Array | undefined, expected: unknown][] = [
  ['in OFFER', { json: { a: 1 } }, undefined, { a: 1 }],
  ['null', { json: null }, undefined, null],
  ['JSON in a file', { fd: null, length: 5, encoding: 'json' }, Buffer.from('[1,2]'), [1, 2]],
  ['bytes in a file', { fd: null, length: 3, encoding: 'bytes' }, Uint8Array.of(7, 8, 9), Uint8Array.of(7, 8, 9)],
];
for (const [name, state, file, expected] of STATES) {
  test(`the state arrives, and its file is closed: ${name}`, () => {
    const set = new Arriving();

    set.take(offer({ count: 0, state: state as never }, file === undefined ? [] : [memory(file)]));

    assert.deepEqual(whole(set)?.state, expected);
  });
}

const WRONG: [what: string, frames: () => Frame<number>[], code: string, why: RegExp][] = [
  ['OFFER twice', () => [offer(), offer()], 'PROTOCOL', /twice/],
  ['FDS before OFFER', () => [batch(0, [item('web')])], 'PROTOCOL', /before OFFER/],
  ['the second batch first', () => [offer(), batch(1, [item('web')])], 'PROTOCOL', /batch 1, expected was 0/],
  [
    'a batch twice',
    () => [offer(), batch(0, [item('a')]), batch(0, [item('b')])],
    'PROTOCOL',
    /batch 0, expected was 1/,
  ],
  [
    'more listeners than OFFER names, at once',
    () => [offer(), batch(0, [item('a'), item('b'), item('c')])],
    'PROTOCOL',
    /more than the 2/,
  ],
  [
    'more listeners than OFFER names, in the end',
    () => [offer(), batch(0, [item('a')]), batch(1, [item('b'), item('c')])],
    'PROTOCOL',
    /more than the 2/,
  ],
  [
    'fewer descriptors than items',
    () => [offer(), batch(0, [item('a'), item('b')], [raw.dup(socket.fd)])],
    'PROTOCOL',
    /fewer/,
  ],
  ['no version in common', () => [offer({ versions: { min: 2, max: 3 } })], 'VERSION', /pid 4711.*2 to 3/],
  ['items that a child would have', () => [offer({ items: [{ ...item('web'), fd: 3 }] })], 'PROTOCOL', /child/],
  ['another inode', () => [offer(), batch(0, [item('web', { inode: '1' })])], 'MISMATCH', /"web"/],
  [
    'the second one is another socket: the first is closed as well',
    () => [offer(), batch(0, [item('a'), item('b', { inode: '1' })])],
    'MISMATCH',
    /"b"/,
  ],
  [
    'a file in the place of a listener',
    () => [offer(), batch(0, [item('web')], [memory(Buffer.of(1))])],
    'MISMATCH',
    /./,
  ],
  [
    'a socket that does not listen',
    () => {
      const fd = raw.socket('IPv4', 'stream');
      return [offer(), batch(0, [item('web', { inode: String(raw.describe(fd).inode) })], [fd])];
    },
    'MISMATCH',
    /"web"/,
  ],
  [
    'a state that did not come with it',
    () => [offer({ state: { fd: null, length: 3, encoding: 'bytes' } })],
    'PROTOCOL',
    /did not come/,
  ],
  [
    'a state that is shorter than it says',
    () => [offer({ state: { fd: null, length: 3, encoding: 'bytes' } }, [memory(Buffer.of(1))])],
    'PROTOCOL',
    /3 bytes, and 1/,
  ],
];
for (const [what, frames, code, why] of WRONG) {
  test(`refused, and nothing is left of it: ${what}`, () => {
    const set = new Arriving();
    const all = frames();
    const last = all.pop();
    assert.ok(last);
    for (const frame of all) set.take(frame);

    assert.throws(() => set.take(last), { code: `ERR_FDPASS_${code}`, message: why });

    assert.equal(whole(set), undefined);
    set.close();
  });
}

test('a state that is no JSON: an error, and its file is closed', () => {
  const set = new Arriving();
  const frame = offer({ count: 0, state: { fd: null, length: 1, encoding: 'json' } }, [memory(Buffer.from('{'))]);

  assert.throws(() => set.take(frame), SyntaxError);
  assert.equal(whole(set), undefined);
});

// The steps FDS and FDS_ACK are no states of the machines that the explorer walks: to them the set comes as one event. So every place
// at which its arrival can end is walked here.
for (const sizes of [[1], [2, 1], [1, 1, 1], [253, 253, 94]]) {
  const count = sizes.reduce((sum, size) => sum + size, 0);
  test(`${count} listeners in batches of ${sizes.join(', ')}: wherever it ends, nothing is left, and only the last completes it`, () => {
    for (let end = 0; end <= sizes.length; end++) {
      const set = new Arriving();
      set.take(offer({ count }));

      for (const [number, size] of sizes.slice(0, end).entries()) {
        assert.equal(whole(set), undefined);
        const items = Array.from({ length: size }, (_, index) => item(`n${index}`));
        assert.deepEqual(set.take(batch(number, items)), { type: 'FDS_ACK', batch: number });
      }

      assert.equal(whole(set)?.items.length, end === sizes.length ? count : undefined);
      assert.equal(
        auditDescriptors().length - before.length,
        sizes.slice(0, end).reduce((sum, size) => sum + size, 0),
      );
      set.close();
      assert.deepEqual(auditDescriptors(), before);
    }
  });
}
