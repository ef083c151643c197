/** Frames: the layout of docs/protocol.md, and whatever a stream may do to them. Descriptors are plain numbers here: nothing is opened. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';

import {
  type Arrival,
  commonVersion,
  encodeFrame,
  FrameReader,
  HEADER_LENGTH,
  type Item,
  MAX_PAYLOAD,
  MAX_RIGHTS,
  type Message,
  parsePayload,
  rightsOf,
  TYPES,
  VERSIONS,
} from '../../lib/handoff/frame.js';

const item: Item = {
  name: 'web',
  type: 'stream',
  address: { family: 'IPv4', address: '127.0.0.1', port: 8080 },
  inode: '18446744073709551615',
  device: '8',
  backlog: 511,
};

const unixItem: Item = { ...item, name: 'Ünïx "quoted"', address: { family: 'unix', path: '@abstract' } };
const scopedItem: Item = { ...item, address: { family: 'IPv6', address: 'fe80::1', port: 1, scopeId: 2 } };

/** One of each type, and of each shape that a type has. */
const messages: Message[] = [
  { type: 'HELLO', versions: { min: 1, max: 2 }, pid: 4711, features: ['connections'] },
  { type: 'OFFER', versions: VERSIONS, pid: 1, generation: 2, probation: 1000, count: 0, items: [] },
  {
    type: 'OFFER',
    versions: VERSIONS,
    pid: 1,
    generation: 2,
    probation: 0,
    count: 2,
    items: [
      { ...item, fd: 3 },
      { ...unixItem, fd: 4 },
    ],
    state: { json: { nested: [1, null, 'x'] } },
  },
  {
    type: 'OFFER',
    versions: VERSIONS,
    pid: 1,
    generation: 9,
    probation: 1,
    count: 500,
    items: [],
    state: { json: null },
  },
  {
    type: 'OFFER',
    versions: VERSIONS,
    pid: 1,
    generation: 9,
    probation: 1,
    count: 1,
    items: [{ ...item, fd: 3 }],
    state: { fd: 5, length: 2_000_000, encoding: 'bytes' },
  },
  {
    type: 'OFFER',
    versions: VERSIONS,
    pid: 1,
    generation: 9,
    probation: 1,
    count: 3,
    items: [],
    state: { fd: null, length: 7, encoding: 'json' },
  },
  { type: 'FDS', batch: 0, items: [item, unixItem, scopedItem] },
  { type: 'FDS', batch: 1, items: [] },
  { type: 'FDS_ACK', batch: 0 },
  { type: 'READY' },
  { type: 'COMMIT', probation: 1000 },
  { type: 'SERVING', split: true },
  { type: 'SERVING', split: false },
  { type: 'RELEASE' },
  { type: 'RELEASED' },
  { type: 'CONNECTION', batch: 3, items: [{ kind: 'http1', rest: 250 }, {}] },
  { type: 'CONNECTION_ACK', batch: 3, refused: [1] },
  { type: 'ABORT', code: 'ERR_FDPASS_VERSION', message: 'the two share no version' },
];

function header(fields: {
  magic?: string;
  layout?: number;
  type?: number;
  rights?: number;
  reserved?: number;
  length: number;
}): Buffer {
  const { magic = 'FDP', layout = 1, type = TYPES.READY, rights = 0, reserved = 0, length } = fields;
  const bytes = Buffer.alloc(HEADER_LENGTH);
  bytes.write(magic, 'latin1');
  bytes.set([layout, type, rights], 3);
  bytes.writeUInt16BE(reserved, 6);
  bytes.writeUInt32BE(length, 8);
  return bytes;
}

/** A frame as somebody else might write it. */
function frame(type: keyof typeof TYPES | number, payload: unknown, rights = 0): Buffer {
  const body = Buffer.isBuffer(payload)
    ? payload
    : Buffer.from(typeof payload === 'string' ? payload : JSON.stringify(payload));
  return Buffer.concat([
    header({ type: typeof type === 'number' ? type : TYPES[type], rights, length: body.length }),
    body,
  ]);
}

function messagesOf(arrival: Arrival<number>): Message[] {
  return arrival.frames.map(({ message }) => message);
}

/** Numbers for the descriptors of a message: they go out and must come back with it. */
function numbered(message: Message, first: number): number[] {
  return Array.from({ length: rightsOf(message) }, (_, index) => first + index);
}

describe('a message comes back as it went', () => {
  for (const [index, message] of messages.entries()) {
    test(`${message.type} (${index})`, () => {
      const fds = numbered(message, 100);

      const arrival = new FrameReader().push(encodeFrame(message), fds);

      assert.deepEqual(arrival, { frames: [{ message, fds }], close: [], failure: undefined });
    });
  }
});

describe('pieces', () => {
  test('the same bytes one at a time', () => {
    const reader = new FrameReader();
    const seen: Message[] = [];
    for (const message of messages) {
      for (const [index, byte] of encodeFrame(message).entries()) {
        const arrival = reader.push(Uint8Array.of(byte), index === 0 ? numbered(message, 100) : []);
        assert.equal(arrival.failure, undefined);
        assert.deepEqual(arrival.close, []);
        for (const whole of arrival.frames) {
          assert.deepEqual(whole.fds, numbered(message, 100));
          seen.push(whole.message);
        }
      }
    }
    assert.deepEqual(seen, messages);
    assert.deepEqual(reader.end(), { frames: [], close: [], failure: undefined });
  });

  test('two frames in one read, the descriptors with the second, as the kernel joins them', () => {
    const fds: Message = { type: 'FDS', batch: 0, items: [item, item] };

    const arrival = new FrameReader().push(Buffer.concat([encodeFrame({ type: 'READY' }), encodeFrame(fds)]), [7, 8]);

    assert.deepEqual(arrival.frames, [
      { message: { type: 'READY' }, fds: [] },
      { message: fds, fds: [7, 8] },
    ]);
    assert.equal(arrival.failure, undefined);
  });

  test('the end of one frame and the first byte of the next, with its descriptors', () => {
    const reader = new FrameReader();
    const first = encodeFrame({ type: 'READY' });
    const second = encodeFrame({ type: 'FDS', batch: 0, items: [item] });
    reader.push(first.subarray(0, 5));

    const middle = reader.push(Buffer.concat([first.subarray(5), second.subarray(0, 1)]), [9]);
    const last = reader.push(second.subarray(1));

    assert.deepEqual(messagesOf(middle), [{ type: 'READY' }]);
    assert.deepEqual(last.frames[0]?.fds, [9]);
  });

  test('what is pushed may be overwritten afterwards: it was copied', () => {
    const reader = new FrameReader();
    const bytes = encodeFrame({ type: 'COMMIT', probation: 1000 });
    const half = bytes.subarray(0, 20);
    reader.push(half);
    const rest = Buffer.from(bytes.subarray(20));
    half.fill(0);

    assert.deepEqual(messagesOf(reader.push(rest)), [{ type: 'COMMIT', probation: 1000 }]);
  });

  for (let seed = 1; seed <= 25; seed += 1) {
    test(`pieces of random sizes, seed ${seed}`, () => {
      const random = xorshift(seed);
      const sent = Array.from({ length: 40 }, () => messages[random(messages.length)] as Message);
      const reader = new FrameReader();
      const received: { message: Message; fds: number[] }[] = [];
      let plain: Buffer = Buffer.alloc(0); // not yet received, and without descriptors
      let next = 100;
      const expected = sent.map((message) => {
        const fds = numbered(message, next);
        next += fds.length;
        return { message, fds };
      });

      const receive = (bytes: Buffer, fds: number[] = []): void => {
        const arrival = reader.push(bytes, fds);
        assert.equal(arrival.failure, undefined);
        assert.deepEqual(arrival.close, []);
        received.push(...arrival.frames);
      };
      for (const { message, fds } of expected) {
        const bytes = encodeFrame(message);
        if (fds.length > 0) {
          // One sendmsg with at least one byte and all the rights: read together with any plain bytes before it.
          const withRights = 1 + random(bytes.length);
          receive(Buffer.concat([plain, bytes.subarray(0, withRights)]), fds);
          plain = Buffer.from(bytes.subarray(withRights));
        } else {
          plain = Buffer.concat([plain, bytes]);
        }
        const now = random(plain.length + 1);
        if (now > 0) receive(plain.subarray(0, now));
        plain = plain.subarray(now);
      }
      receive(plain);

      assert.deepEqual(received, expected);
      assert.deepEqual(reader.end(), { frames: [], close: [], failure: undefined });
    });
  }

  test('a payload of exactly 1 MiB, byte by byte, does not take for ever', () => {
    const empty = encodeFrame({ type: 'ABORT', code: '', message: '' }).length - HEADER_LENGTH;
    const offer = { versions: VERSIONS, pid: 1, generation: 2, probation: 1, count: 0, items: [], state: { json: '' } };
    offer.state.json = 'x'.repeat(MAX_PAYLOAD - JSON.stringify(offer).length);
    assert.ok(empty > 0);
    const bytes = encodeFrame({ type: 'OFFER', ...offer });
    assert.equal(bytes.length, HEADER_LENGTH + MAX_PAYLOAD);

    const reader = new FrameReader();
    let frames = 0;
    for (let at = 0; at < bytes.length; at += 64) frames += reader.push(bytes.subarray(at, at + 64)).frames.length;

    assert.equal(frames, 1);
  });
});

/** Small, seeded, and the same everywhere. */
function xorshift(seed: number): (below: number) => number {
  let state = seed * 2_654_435_761;
  return (below) => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) % below;
  };
}

describe('what is not ours ends the reader, and every descriptor comes back to be closed', () => {
  const twoItems = { batch: 0, items: [item, item] };
  const garbage: [name: string, bytes: Buffer, fds: number[], failure: RegExp][] = [
    ['wrong magic', Buffer.from('GET / HTTP/1.1\r\n'), [], /not an fdpass peer/],
    ['wrong magic, with descriptors', Buffer.from('X'), [5, 6], /not an fdpass peer/],
    ['magic that goes wrong in its third byte', Buffer.from('FDX'), [], /not an fdpass peer/],
    ['another layout', header({ layout: 2, length: 2 }), [], /layout 2/],
    ['length over 1 MiB', header({ length: MAX_PAYLOAD + 1 }), [], /1048577 bytes/],
    ['length of 4 GiB', header({ length: 0xffff_ffff }), [], /4294967295 bytes/],
    ['254 descriptors named', header({ type: TYPES.FDS, rights: 254, length: 2 }), [], /names 254 descriptors/],
    ['2 named with 1 right', frame('FDS', twoItems, 2), [5], /names 2 descriptors and came with 1/],
    ['2 named with none', frame('FDS', twoItems, 2), [], /names 2 descriptors and came with 0/],
    ['2 named with 3', frame('FDS', twoItems, 2), [5, 6, 7], /1 descriptor came that no frame names/],
    ['rights on a frame that names none', frame('READY', {}), [5], /1 descriptor came that no frame names/],
    [
      'rights on a frame in progress that names none',
      frame('READY', {}).subarray(0, 8),
      [5],
      /names 0 descriptors and came with 1/,
    ],
    [
      'too few rights on a frame in progress',
      frame('FDS', twoItems, 2).subarray(0, 20),
      [5],
      /names 2 descriptors and came with 1/,
    ],
    [
      'names descriptors that its type does not have',
      frame('READY', {}, 1),
      [5],
      /READY needs 0 descriptors and names 1/,
    ],
    ['names fewer than it has items', frame('FDS', twoItems, 1), [5], /FDS needs 2 descriptors and names 1/],
    [
      'more rights than a frame can have',
      Buffer.from('FDP'),
      Array.from({ length: 254 }, (_, fd) => fd + 3),
      /254 descriptors came/,
    ],
    ['rights without a byte', Buffer.alloc(0), [5], /1 descriptor came that no frame names/],
    ['reserved bits', header({ reserved: 1, length: 2 }), [], /reserved/],
    ['reserved bits of the first byte', header({ reserved: 0x8000, length: 2 }), [], /reserved/],
    ['an unknown type', header({ type: 13, length: 2 }), [], /unknown frame type 13/],
    ['type 0', header({ type: 0, length: 2 }), [], /unknown frame type 0/],
    ['the last type that may not be ignored', header({ type: 127, length: 2 }), [], /unknown frame type 127/],
    ['a JSON array for a payload', frame('READY', []), [], /READY is not an object/],
    ['a JSON string for a payload', frame('READY', '"x"'), [], /READY is not an object/],
    ['null for a payload', frame('READY', null), [], /READY is not an object/],
    ['no payload', frame('READY', Buffer.alloc(0)), [], /not JSON/],
    ['half a payload', frame('READY', '{"a":'), [], /not JSON/],
    ['a payload that is not UTF-8', frame('ABORT', Buffer.from('7b2261223a22ff227d', 'hex')), [], /not JSON in UTF-8/],
    ['a byte order mark', frame('READY', Buffer.from('efbbbf7b7d', 'hex')), [], /not JSON/],
    ['brackets, 1 MiB deep', frame('READY', '['.repeat(MAX_PAYLOAD)), [], /not JSON/],
  ];
  for (const [name, bytes, fds, failure] of garbage) {
    test(name, () => {
      const reader = new FrameReader();

      const arrival = reader.push(bytes, fds);

      assert.match(arrival.failure ?? 'no failure', failure);
      const kept = arrival.frames.flatMap((whole) => whole.fds);
      assert.deepEqual([...kept, ...arrival.close], fds);
      assert.deepEqual(reader.push(encodeFrame({ type: 'READY' }), [77]), {
        frames: [],
        close: [77],
        failure: undefined,
      });
      assert.deepEqual(reader.end(), { frames: [], close: [], failure: undefined });
    });
  }

  test('garbage is refused with its first byte: nothing is waited for', () => {
    const reader = new FrameReader();
    assert.equal(reader.push(Buffer.from('F')).failure, undefined);
    assert.match(reader.push(Buffer.from('o')).failure ?? '', /not an fdpass peer/);
  });

  test('frames before the garbage are kept: an ABORT is heard', () => {
    const abort: Message = { type: 'ABORT', code: 'X', message: 'y' };
    const arrival = new FrameReader().push(Buffer.concat([encodeFrame(abort), Buffer.from('junk')]));
    assert.deepEqual(messagesOf(arrival), [abort]);
    assert.match(arrival.failure ?? '', /not an fdpass peer/);
  });

  for (const length of [1, 5, 6, HEADER_LENGTH, HEADER_LENGTH + 4]) {
    test(`half a frame, ${length} bytes of it, then EOF: the descriptors come back`, () => {
      const reader = new FrameReader();
      reader.push(encodeFrame({ type: 'FDS', batch: 0, items: [item, item] }).subarray(0, length), [5, 6]);

      const arrival = reader.end();

      assert.deepEqual(arrival.close, [5, 6]);
      assert.match(arrival.failure ?? '', new RegExp(`in the middle of a frame, after ${length} bytes`));
    });
  }

  test('rights in the middle of a frame', () => {
    const reader = new FrameReader();
    const bytes = frame('FDS', { batch: 0, items: [item] }, 1);
    reader.push(bytes.subarray(0, 40), [5]);

    const arrival = reader.push(bytes.subarray(40, 50), [6]);

    assert.match(arrival.failure ?? '', /names 1 descriptor and came with 2/);
    assert.deepEqual(arrival.close, [5, 6]);
  });

  test('a frame that was sent without its rights does not take those of the next', () => {
    const reader = new FrameReader();
    const bytes = frame('FDS', { batch: 0, items: [item] }, 1);

    const arrival = reader.push(bytes.subarray(0, 30));

    assert.match(arrival.failure ?? '', /names 1 descriptor and came with 0/);
  });
});

describe('what a later release may add is no error', () => {
  test('unknown fields are ignored', () => {
    const arrival = new FrameReader().push(frame('COMMIT', { probation: 5, urgency: 'high', more: { deep: [] } }));
    assert.deepEqual(messagesOf(arrival), [{ type: 'COMMIT', probation: 5 }]);
  });

  test('a field named __proto__ changes nothing', () => {
    const arrival = new FrameReader().push(frame('COMMIT', '{"probation":5,"__proto__":{"split":true}}'));
    assert.deepEqual(messagesOf(arrival), [{ type: 'COMMIT', probation: 5 }]);
    assert.equal(({} as { split?: boolean }).split, undefined);
  });

  test('a type from 128 on is passed over, and its descriptors come back to be closed', () => {
    const bytes = Buffer.concat([encodeFrame({ type: 'READY' }), frame(200, { any: 1 }, 2)]);
    const reader = new FrameReader();

    const arrival = reader.push(bytes, [5, 6]);

    assert.deepEqual(arrival, { frames: [{ message: { type: 'READY' }, fds: [] }], close: [5, 6], failure: undefined });
    assert.deepEqual(messagesOf(reader.push(encodeFrame({ type: 'RELEASE' }))), [{ type: 'RELEASE' }]);
  });
});

describe('a payload that is wrong is refused with a sentence', () => {
  const offer = {
    versions: { min: 1, max: 1 },
    pid: 1,
    generation: 2,
    probation: 3,
    count: 1,
    items: [{ ...item, fd: 3 }],
  };
  const wrong: [type: keyof typeof TYPES, payload: Record<string, unknown>, sentence: string][] = [
    ['HELLO', { pid: 1 }, 'HELLO.versions is not an object'],
    ['HELLO', { versions: { min: 2, max: 1 }, pid: 1 }, 'HELLO.versions: min 2 is above max 1'],
    ['HELLO', { versions: { min: 0, max: 1 }, pid: 1 }, 'HELLO.versions.min is not a whole number from 1'],
    ['HELLO', { versions: { min: 1.5, max: 2 }, pid: 1 }, 'HELLO.versions.min is not a whole number'],
    ['HELLO', { versions: VERSIONS, pid: '1' }, 'HELLO.pid is not a whole number'],
    ['HELLO', { versions: VERSIONS, pid: 1, features: 'all' }, 'HELLO.features is not an array'],
    ['HELLO', { versions: VERSIONS, pid: 1, features: [1] }, 'HELLO.features[0] is not a string'],
    ['OFFER', { ...offer, generation: 0 }, 'OFFER.generation is not a whole number from 1'],
    ['OFFER', { ...offer, probation: -1 }, 'OFFER.probation is not a whole number from 0'],
    ['OFFER', { ...offer, probation: 2 ** 31 }, 'OFFER.probation is not a whole number from 0 to 2147483647'],
    ['OFFER', { ...offer, count: 2 }, 'OFFER.count is 2 and 1 items are there'],
    ['OFFER', { ...offer, items: {} }, 'OFFER.items is not an array'],
    ['OFFER', { ...offer, items: [item] }, 'OFFER.items[0].fd is not a whole number'],
    [
      'OFFER',
      { ...offer, count: 2, items: [offer.items[0], offer.items[0]] },
      'OFFER.items: two of them have the same fd',
    ],
    [
      'OFFER',
      { ...offer, items: [{ ...item, fd: 3, type: 'raw' }] },
      'OFFER.items[0].type is not stream, dgram or seqpacket',
    ],
    ['OFFER', { ...offer, state: {} }, 'OFFER.state.encoding is not json or bytes'],
    ['OFFER', { ...offer, state: 'x' }, 'OFFER.state is not an object'],
    ['OFFER', { ...offer, state: { fd: -1, length: 1, encoding: 'json' } }, 'OFFER.state.fd is not a whole number'],
    ['FDS', { batch: 0, items: [{ ...item, name: 1 }] }, 'FDS.items[0].name is not a string'],
    ['FDS', { batch: 0, items: [{ ...item, inode: 12 }] }, 'FDS.items[0].inode is not a string of digits'],
    ['FDS', { batch: 0, items: [{ ...item, device: '0x8' }] }, 'FDS.items[0].device is not a string of digits'],
    ['FDS', { batch: 0, items: [{ ...item, backlog: '511' }] }, 'FDS.items[0].backlog is not a whole number'],
    ['FDS', { batch: 0, items: [{ ...item, address: undefined }] }, 'FDS.items[0].address is not an object'],
    [
      'FDS',
      { batch: 0, items: [{ ...item, address: { family: 'IPX' } }] },
      'FDS.items[0].address.family is not IPv4, IPv6 or unix',
    ],
    [
      'FDS',
      { batch: 0, items: [{ ...item, address: { family: 'unix' } }] },
      'FDS.items[0].address.path is not a string',
    ],
    [
      'FDS',
      { batch: 0, items: [{ ...item, address: { family: 'IPv4', address: '::', port: 65_536 } }] },
      'FDS.items[0].address.port is not a whole number from 0 to 65535',
    ],
    ['FDS', { batch: 0, items: ['x'] }, 'FDS.items[0] is not an object'],
    ['FDS_ACK', {}, 'FDS_ACK.batch is not a whole number'],
    ['COMMIT', { probation: '1000' }, 'COMMIT.probation is not a whole number'],
    ['SERVING', { split: 1 }, 'SERVING.split is not true or false'],
    ['CONNECTION', { batch: 0, items: [[]] }, 'CONNECTION.items[0] is not an object'],
    ['CONNECTION_ACK', { batch: 0, refused: [-1] }, 'CONNECTION_ACK.refused[0] is not a whole number'],
    ['ABORT', { code: 'X' }, 'ABORT.message is not a string'],
    ['ABORT', { code: 'X', message: 'x'.repeat(5000) }, 'ABORT.message is longer than 4096 characters'],
  ];
  for (const [type, payload, sentence] of wrong) {
    test(sentence, () => {
      const outcome = parsePayload(type, payload, 0);
      assert.ok(typeof outcome === 'string', `accepted: ${JSON.stringify(outcome)}`);
      assert.ok(outcome.startsWith(sentence), outcome);
    });
  }
});

describe('what cannot be sent is refused at once', () => {
  test('more than 1 MiB', () => {
    const offer: Message = {
      type: 'OFFER',
      versions: VERSIONS,
      pid: 1,
      generation: 2,
      probation: 1,
      count: 0,
      items: [],
    };
    assert.throws(() => encodeFrame({ ...offer, state: { json: 'x'.repeat(MAX_PAYLOAD) } }), {
      code: 'ERR_FDPASS_LIMIT',
    });
  });

  test('more than 253 descriptors', () => {
    const most: Message = { type: 'FDS', batch: 0, items: Array.from({ length: MAX_RIGHTS }, () => item) };
    assert.equal(encodeFrame(most)[5], MAX_RIGHTS);
    assert.throws(() => encodeFrame({ ...most, items: [...most.items, item] }), { code: 'ERR_FDPASS_LIMIT' });
  });

  test('a payload that our own reader would refuse', () => {
    assert.throws(() => encodeFrame({ type: 'COMMIT', probation: Number.NaN }), { code: 'ERR_FDPASS_PROTOCOL' });
    assert.throws(() => encodeFrame({ type: 'ABORT', code: 'X', message: 'x'.repeat(5000) }), {
      code: 'ERR_FDPASS_PROTOCOL',
    });
    const offer: Message = {
      type: 'OFFER',
      versions: VERSIONS,
      pid: 1,
      generation: 2,
      probation: 1,
      count: 0,
      items: [],
    };
    assert.throws(() => encodeFrame({ ...offer, state: { json: undefined } }), { code: 'ERR_FDPASS_PROTOCOL' });
  });
});

describe('versions', () => {
  // Recorded: these bytes must be understood for ever, whatever release reads them.
  const ours = Buffer.from(
    '4644500101000000000000357b2276657273696f6e73223a7b226d696e223a312c226d6178223a317d2c22706964223a34322c22' +
      '6665617475726573223a5b5d7d',
    'hex',
  );
  const later = Buffer.from(
    '46445001010000000000004b7b2276657273696f6e73223a7b226d696e223a362c226d6178223a377d2c22706964223a34322c22' +
      '6665617475726573223a5b226d6f7665225d2c22686f6c6973746963223a747275657d',
    'hex',
  );
  const next = Buffer.from(
    '4644500101000000000000287b2276657273696f6e73223a7b226d696e223a312c226d6178223a327d2c22706964223a34327d20',
    'hex',
  );

  test('HELLO of this release, as recorded', () => {
    const hello: Message = { type: 'HELLO', versions: { min: 1, max: 1 }, pid: 42, features: [] };
    assert.equal(encodeFrame(hello).toString('hex'), ours.toString('hex'));
    assert.deepEqual(messagesOf(new FrameReader().push(ours)), [hello]);
  });

  test('HELLO of the next release, which still speaks ours, and leaves features out', () => {
    const [hello] = messagesOf(new FrameReader().push(next));
    assert.deepEqual(hello, { type: 'HELLO', versions: { min: 1, max: 2 }, pid: 42, features: [] });
    assert.equal(commonVersion({ min: 1, max: 2 }, VERSIONS), 1);
  });

  test('HELLO of a much later release is understood, and shares no version', () => {
    const [hello] = messagesOf(new FrameReader().push(later));
    assert.deepEqual(hello, { type: 'HELLO', versions: { min: 6, max: 7 }, pid: 42, features: ['move'] });
    assert.equal(commonVersion({ min: 6, max: 7 }, VERSIONS), undefined);
  });

  const ranges: [a: [number, number], b: [number, number], common: number | undefined][] = [
    [[1, 1], [1, 1], 1],
    [[1, 2], [1, 1], 1],
    [[2, 3], [1, 2], 2],
    [[1, 3], [2, 4], 3],
    [[1, 1], [2, 3], undefined],
    [[3, 4], [1, 2], undefined],
  ];
  for (const [[min, max], [otherMin, otherMax], common] of ranges) {
    test(`${min} to ${max} and ${otherMin} to ${otherMax}: ${common ?? 'none'}`, () => {
      assert.equal(commonVersion({ min, max }, { min: otherMin, max: otherMax }), common);
      assert.equal(commonVersion({ min: otherMin, max: otherMax }, { min, max }), common);
    });
  }
});
