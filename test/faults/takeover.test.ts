// The failure table of docs/protocol.md for a takeover, row by row: each side killed, frozen, rude, silent, without descriptors, without
// rights. Real processes at one end at least; where bytes must come at a chosen moment, or wrong, the test itself is the other.
import assert from 'node:assert/strict';
import fs from 'node:fs';
import path from 'node:path';
import { after, before, describe, test, type TestContext } from 'node:test';

import { encodeFrame, type Item, type Message } from '../../lib/handoff/frame.js';
import * as raw from '../../lib/raw.js';
import { assertTidy, startTaker, startTaking } from '../e2e/drive.js';
import { lasting } from '../examples/support.js';
import { readProcess } from '../support/audit.js';
import { get } from '../support/client.js';
import { Cleanup, type Family, type Scope, temporaryDirectory } from '../support/fixture.js';
import { type Load, startLoad } from '../support/load.js';
import { HELLO, Host, Peer } from '../support/peer.js';
import { ListeningSocket } from '../support/socket.js';

const LOAD = { host: '127.0.0.1', newPerSecond: 30, keepAlive: 4, requestsPerSecond: 5, requestTimeout: 40_000 };

function startPatient(t: TestContext, server: Family, rates: object = {}): Load {
  const load = startLoad({ ...LOAD, ...rates, port: server.port });
  t.after(() => load.stop());
  return load;
}

/** What another process holds, and whether it is frozen, has no event. */
async function until(what: string, holds: () => boolean, deadline = 15_000): Promise<void> {
  const end = performance.now() + deadline;
  while (!holds()) {
    if (performance.now() > end) assert.fail(`Not within ${deadline} ms: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

/** A server that offers, and what it holds: to be compared with what it holds when a newcomer has come to nothing. */
class Offering {
  readonly server: Family;
  readonly file: string;
  readonly #t: Scope;
  readonly #env: Record<string, string>;
  readonly #before: string[];

  private constructor(t: Scope, server: Family, file: string, env: Record<string, string>) {
    this.#t = t;
    this.server = server;
    this.file = file;
    this.#env = env;
    this.#before = lasting(server.pid);
  }

  static async start(t: Scope, options: object = {}, env: Record<string, string> = {}): Promise<Offering> {
    const file = path.join(temporaryDirectory(t), 'takeover.sock');
    const server = await startTaking(t, file, { env: { OFFER_OPTIONS: JSON.stringify(options), ...env } });
    return new Offering(t, server, file, env);
  }

  newcomer(): Peer {
    return Peer.connect(this.#t, this.file);
  }

  /** The line in which it says that a takeover failed. */
  async failed(code: string, from = 0): Promise<string> {
    const { text } = await this.server.waitFor(new RegExp(`the restart failed: .*goes on accepting \\[${code}\\]$`), {
      from,
      deadline: 15_000,
    });
    return text;
  }

  /** It never noticed: it serves, and holds what it held. */
  async unmoved(): Promise<void> {
    const { server } = this;
    assert.equal(await get(server.url), `${server.pid}\n`);
    await until(`it holds what it held: ${server.sofar()}`, () => sameLines(lasting(server.pid), this.#before)).catch(
      (error: unknown) => {
        assert.deepEqual(lasting(server.pid), this.#before);
        throw error;
      },
    );
  }

  /** The same, and the next that asks is served. */
  async unharmed(): Promise<void> {
    const { server, file } = this;
    await this.unmoved();
    const { LISTENERS } = this.#env;
    const next = await startTaking(this.#t, file, { env: { LISTENERS, TAKEOVER_OPTIONS: '{"wait":10000}' } });
    await next.waitFor(`pid ${next.pid} is alone`, { from: 0 });
    assert.equal(await get(server.url), `${next.pid}\n`);
    await server.gone(server.pid);
  }
}

function sameLines(a: readonly string[], b: readonly string[]): boolean {
  return a.length === b.length && a.every((line, index) => line === b[index]);
}

const READY: Message = { type: 'READY' };
const SERVING: Message = { type: 'SERVING', split: false };
const RELEASE: Message = { type: 'RELEASE' };
const ABORT: Message = { type: 'ABORT', code: 'ERR_FDPASS_ABORTED', message: 'on purpose' };

// Most of the time is spent waiting for deadlines: several at once.
describe('the newcomer fails, and the old one serves on as it was', { concurrency: 6 }, () => {
  test('it ends before HELLO: nothing is said of it', async (t) => {
    const offering = await Offering.start(t);

    offering.newcomer().close();

    await offering.unharmed();
    assert.ok(!offering.server.lines.some(({ text }) => text.includes('failed')), offering.server.sofar());
  });

  const ENDS: [string, (peer: Peer) => Promise<unknown> | undefined, string, string][] = [
    ['after HELLO', () => undefined, 'SUCCESSOR_EXITED', 'before it was serving'],
    ['after OFFER', (peer) => peer.hear('OFFER'), 'SUCCESSOR_EXITED', 'before it was serving'],
    ['with every listener', (peer) => peer.hear('OFFER').then(() => peer.hear('FDS')), 'SUCCESSOR_EXITED', ''],
  ];
  for (const [when, how, code] of ENDS) {
    test(`it ends ${when}`, async (t) => {
      const offering = await Offering.start(t);
      const peer = offering.newcomer().say(HELLO);

      await how(peer);
      peer.close();

      await offering.failed(`ERR_FDPASS_${code}`);
      await offering.unharmed();
    });
  }

  test('it ends between two batches: what is on its way is closed with it', async (t) => {
    const names = Array.from({ length: 300 }, (_, index) => ({ name: `n${index}`, host: '127.0.0.1', port: 0 }));
    const offering = await Offering.start(t, {}, { LISTENERS: JSON.stringify(names) });
    const peer = offering.newcomer().say(HELLO);
    const { message } = await peer.hear('OFFER');
    assert.equal(message.type === 'OFFER' && message.count, 301);
    const { fds } = await peer.hear('FDS');
    assert.equal(fds.length, 253);
    assert.equal(peer.frames.length, 0); // the second one waits for the answer to the first
    peer.say({ type: 'FDS_ACK', batch: 0 });
    const second = await peer.hear('FDS');
    assert.equal(second.fds.length, 48);

    for (const fd of [...fds, ...second.fds]) raw.close(fd);
    peer.close();

    await offering.failed('ERR_FDPASS_SUCCESSOR_EXITED');
    await offering.unharmed();
  });

  test('it ends when it is told to accept', async (t) => {
    const offering = await Offering.start(t);
    const peer = offering.newcomer();
    await peer.adopt();
    await peer.say(READY).hear('COMMIT');

    peer.close();

    assert.match(await offering.failed('ERR_FDPASS_SUCCESSOR_EXITED'), /before it was serving/);
    await offering.unharmed();
  });

  test('it ends in its probation', async (t) => {
    const offering = await Offering.start(t);
    const peer = offering.newcomer();
    await peer.adopt();
    await peer.say(READY).hear('COMMIT');

    peer.say(SERVING).close();

    assert.match(await offering.failed('ERR_FDPASS_PROBATION'), /during its probation/);
    await offering.unharmed();
  });

  test('it says RELEASE and ends: that is no proof that somebody accepts', async (t) => {
    const offering = await Offering.start(t);
    const peer = offering.newcomer();
    await peer.adopt();
    await peer.say(READY).hear('COMMIT');
    const { server } = offering;
    server.signal('SIGSTOP'); // or it could read the one and not yet the other
    await until('it is frozen', () => readProcess(server.pid)?.state === 'T');

    peer.say(SERVING, RELEASE).close();
    server.signal('SIGCONT');

    await offering.failed('ERR_FDPASS_PROBATION');
    await offering.unharmed();
  });

  for (const [when, messages] of [
    ['offered', []],
    ['committing', [READY]],
    ['probation', [READY, SERVING]],
  ] as [string, Message[]][]) {
    test(`it says ABORT when the old one is ${when}`, async (t) => {
      const offering = await Offering.start(t);
      const peer = offering.newcomer();
      await peer.adopt();
      for (const message of messages) {
        peer.say(message);
        if (message === READY) await peer.hear('COMMIT');
      }

      peer.say(ABORT).close();

      assert.match(await offering.failed('ERR_FDPASS_ABORTED'), /on purpose/);
      await offering.unharmed();
    });
  }

  test('it is not ready in time, and is told so', async (t) => {
    const offering = await Offering.start(t, { readyTimeout: 300 });
    const peer = offering.newcomer();
    await peer.adopt();

    const { message } = await peer.hear('ABORT');

    assert.equal(message.type === 'ABORT' && message.code, 'ERR_FDPASS_READY_TIMEOUT');
    peer.close();
    await offering.failed('ERR_FDPASS_READY_TIMEOUT');
    await offering.unharmed();
  });

  test('it does not answer COMMIT: ABORT after 5 s, and a SERVING that comes later is dropped', async (t) => {
    const offering = await Offering.start(t);
    const peer = offering.newcomer();
    await peer.adopt();
    await peer.say(READY).hear('COMMIT');

    await offering.failed('ERR_FDPASS_COMMIT_TIMEOUT');
    await peer.hear('ABORT');
    peer.say(SERVING, RELEASE);

    await peer.end(10_000); // not ours to kill: its end of the channel is waited for, for 5 s
    await offering.unharmed();
  });

  test('it is silent after its probation: ABORT', async (t) => {
    const offering = await Offering.start(t, { probation: 50 });
    const peer = offering.newcomer();
    await peer.adopt();
    await peer.say(READY).hear('COMMIT');

    peer.say(SERVING);

    await offering.failed('ERR_FDPASS_PROBATION');
    await peer.hear('ABORT');
    peer.close();
    await offering.unharmed();
  });

  test('it says nothing at all: it is told after 5 s that HELLO did not come, and whoever asks meanwhile is served', async (t) => {
    const offering = await Offering.start(t);
    const silent = offering.newcomer();
    const served = offering.newcomer();
    await served.adopt();
    served.say(ABORT).close();
    await offering.failed('ERR_FDPASS_ABORTED');

    assert.match(await silent.heardAbort(), /^ERR_FDPASS_ABORTED: .*HELLO.*5000 ms/);

    await offering.unharmed();
  });

  test('seventeen say nothing: the last is told at once that there is no room', async (t) => {
    const offering = await Offering.start(t);
    const silent = Array.from({ length: 17 }, () => offering.newcomer());

    assert.match((await silent.at(-1)?.heardAbort(2_000)) ?? '', /^ERR_FDPASS_BUSY: 16 /);
    for (const peer of silent) peer.close();

    await offering.unharmed();
  });

  test('twenty that fail in a row, each in another way: no descriptor is left', async (t) => {
    const offering = await Offering.start(t, { readyTimeout: 5_000, state: { bytes: 100_000 } });
    const ways: ((peer: Peer) => Promise<unknown> | undefined)[] = [
      (peer) => peer.say(HELLO).hear('OFFER'),
      (peer) => peer.adopt(),
      async (peer) => {
        await peer.adopt();
        await peer.say(READY).hear('COMMIT');
      },
      async (peer) => {
        await peer.adopt();
        await peer.say(READY).hear('COMMIT');
        peer.say(SERVING);
      },
    ];

    for (let round = 0; round < 20; round++) {
      const from = offering.server.lines.length;
      const peer = offering.newcomer();
      await ways[round % ways.length]?.(peer);
      if (round % 2 === 0) peer.say(ABORT);
      peer.close();
      await offering.server.waitFor(/the restart failed/, { from });
    }

    await offering.unharmed();
  });
});

// All of them come to one server, which must not mind any.
describe('the newcomer is rude', () => {
  const cleanup = new Cleanup();
  let offering: Offering;
  before(async () => {
    offering = await Offering.start(cleanup);
  });
  after(async () => {
    await offering.unharmed();
    await cleanup.run();
  });

  const hello = encodeFrame(HELLO);
  const frame = (type: number, payload: string, rights = 0): Buffer => {
    const header = Buffer.from([0x46, 0x44, 0x50, 1, type, rights, 0, 0, 0, 0, 0, 0]);
    header.writeUInt32BE(payload.length, 8);
    return Buffer.concat([header, Buffer.from(payload)]);
  };
  const long = frame(1, '{}');
  long.writeUInt32BE(1_048_577, 8);
  const STRANGERS: [string, Uint8Array, number?][] = [
    ['another protocol', Buffer.from('GET / HTTP/1.1\r\n\r\n')],
    ['a frame of 1 MiB and a byte', long],
    ['a payload that is an array', frame(1, '[]')],
    ['a payload that is no JSON', frame(1, '{')],
    ['a frame that names 254 descriptors', frame(1, '{}', 254)],
    ['a frame that names two descriptors, with one', frame(1, '{}', 2), 1],
    ['descriptors that no frame names', hello, 3],
    ['READY in the place of HELLO', encodeFrame(READY)],
    ['FDS in the place of HELLO', encodeFrame({ type: 'FDS', batch: 0, items: [] })],
  ];
  for (const [what, bytes, rights = 0] of STRANGERS) {
    test(`it begins with ${what}: the channel is closed without a word`, async () => {
      const fds = Array.from({ length: rights }, () => raw.memoryFile('stray'));

      const peer = offering.newcomer().write(bytes, fds);

      for (const fd of fds) raw.close(fd);
      await peer.end();
      assert.deepEqual(peer.frames, []);
      await offering.unmoved();
    });
  }

  test('half a HELLO, then the end', async () => {
    offering.newcomer().write(hello.subarray(0, 20)).close();

    await offering.unmoved();
  });

  test('HELLO a byte at a time is HELLO', async () => {
    const from = offering.server.lines.length;
    const peer = offering.newcomer();

    for (const byte of hello) {
      peer.write(Uint8Array.of(byte));
      await new Promise((resolve) => setImmediate(resolve));
    }

    await peer.hear('OFFER');
    peer.close();
    await offering.failed('ERR_FDPASS_SUCCESSOR_EXITED', from);
    await offering.unmoved();
  });

  const RUDE: [string, (peer: Peer) => void, RegExp][] = [
    ['HELLO with garbage right behind it', (peer) => peer.write(Buffer.concat([hello, Buffer.from('GET')])), /./],
    ['HELLO twice', (peer) => peer.say(HELLO, HELLO), /HELLO came/],
    ['READY before it has the listeners', (peer) => peer.say(HELLO, READY), /READY before it had every listener/],
    ['an answer to a batch that was not sent', (peer) => peer.say(HELLO, { type: 'FDS_ACK', batch: 1 }), /batch 1/],
    ['two answers to one batch', (peer) => peer.say(HELLO, ...twice({ type: 'FDS_ACK', batch: 0 })), /batch 0|batch 1/],
    ['COMMIT, which is not its to say', (peer) => peer.say(HELLO, { type: 'COMMIT', probation: 1 }), /COMMIT/],
    ['SERVING before COMMIT', (peer) => peer.say(HELLO, SERVING), /SERVING came/],
    ['RELEASE before COMMIT', (peer) => peer.say(HELLO, RELEASE), /RELEASE came/],
  ];
  for (const [what, how, why] of RUDE) {
    test(`it says ${what}: ABORT`, async () => {
      const from = offering.server.lines.length;
      const peer = offering.newcomer();

      how(peer);

      if (what.includes('garbage')) {
        await peer.end();
      } else {
        assert.match(await offering.failed('ERR_FDPASS_PROTOCOL', from), why);
        peer.close();
      }
      await offering.unmoved();
    });
  }

  test('it sends descriptors of its own: they are closed', async () => {
    const from = offering.server.lines.length;
    const peer = offering.newcomer();
    await peer.adopt();
    const fd = raw.memoryFile('unwanted');

    const item: Item = {
      name: 'x',
      type: 'stream',
      address: { family: 'unix', path: '' },
      inode: '1',
      device: '1',
    };
    peer.write(encodeFrame({ type: 'FDS', batch: 0, items: [item] }), [fd]);

    raw.close(fd);
    await offering.failed('ERR_FDPASS_PROTOCOL', from);
    peer.close();
    await offering.unmoved();
  });

  test('it speaks other versions: both say so', async () => {
    const from = offering.server.lines.length;

    const peer = offering.newcomer().say({ type: 'HELLO', versions: { min: 90, max: 91 }, pid: 1, features: [] });

    const { message } = await peer.hear('ABORT');
    assert.equal(message.type === 'ABORT' && message.code, 'ERR_FDPASS_VERSION');
    peer.close();
    await offering.failed('ERR_FDPASS_VERSION', from);
    await offering.unmoved();
  });
});

function twice(message: Message): Message[] {
  return [message, message];
}

/** Everything that a load may lose where a process was killed: what that process had accepted. */
function wronged(report: Awaited<ReturnType<Load['stop']>>): unknown[] {
  return report.losses.filter(({ reason }) => reason !== 'reset' && reason !== 'eof');
}

describe('a real newcomer, killed and frozen', { concurrency: 4 }, () => {
  for (const phase of ['ready', 'serving']) {
    test(`it is killed when it is ${phase}: nobody is refused`, async (t) => {
      const offering = await Offering.start(t, { probation: 5_000 });
      const load = startPatient(t, offering.server);

      const young = startTaker(t, offering.file, { env: { SIGNAL_AT: `generation:${phase}:SIGKILL` } });

      assert.equal((await young.exited).signal, 'SIGKILL');
      await offering.server.waitFor(/goes on accepting \[ERR_FDPASS_(SUCCESSOR_EXITED|PROBATION)\]/, { from: 0 });
      await offering.unharmed();
      assert.deepEqual(wronged(await load.stop()), []);
    });

    test(`it is frozen when it is ${phase}, and thawed after it was given up: it leaves, and nothing is lost`, async (t) => {
      const offering = await Offering.start(t, { probation: 100, readyTimeout: 1_000 });
      const load = startPatient(t, offering.server);
      const young = startTaker(t, offering.file, { env: { SIGNAL_AT: `generation:${phase}:SIGSTOP` } });

      await offering.server.waitFor(/goes on accepting \[ERR_FDPASS_(READY|COMMIT)_TIMEOUT\]/, {
        from: 0,
        deadline: 15_000,
      });
      await until('it is frozen', () => readProcess(young.pid)?.state === 'T');
      young.signal('SIGCONT', young.pid);

      await young.exited;
      await offering.unharmed();
      assert.deepEqual((await load.stop()).losses, []);
    });
  }

  test('it is killed before it is ready: the old one says so, and serves on', async (t) => {
    const offering = await Offering.start(t);
    const young = startTaker(t, offering.file, { env: { MISBEHAVE: 'hang-before-ready' } });
    await young.waitFor(/comes from takeover/, { from: 0 });

    young.signal('SIGKILL', young.pid);

    await offering.failed('ERR_FDPASS_SUCCESSOR_EXITED');
    await offering.unharmed();
  });

  test('its table of descriptors has room for all but one: all are closed, both sides name the limit, and it can go on', async (t) => {
    const names = Array.from({ length: 20 }, (_, index) => ({ name: `n${index}`, host: '127.0.0.1', port: 0 }));
    const LISTENERS = JSON.stringify(names);
    const offering = await Offering.start(t, {}, { LISTENERS });

    const young = startTaker(t, offering.file, { env: { LISTENERS, LEAVE: '21' } }); // its channel, 20 and the path: 22

    assert.equal((await young.exited).code, 4);
    await young.waitFor(/takeover failed: ERR_FDPASS_LIMIT, .*(RLIMIT_NOFILE|limit).*200/, { from: 0 });
    await young.waitFor('descriptors as before', { from: 0 });
    assert.match(await offering.failed('ERR_FDPASS_ABORTED'), /ERR_FDPASS_LIMIT.*200/);
    await offering.unharmed();
  });
});

describe('the old one fails, and the newcomer takes its place', { concurrency: 4 }, () => {
  test('it is killed before the newcomer is ready: the newcomer takes its place, and the row goes on', async (t) => {
    const offering = await Offering.start(t);
    const young = startTaker(t, offering.file, { env: { SIGNAL_AT: 'generation:ready:SIGSTOP' } });
    const load = startPatient(t, offering.server);
    await until('it is frozen', () => readProcess(young.pid)?.state === 'T');

    offering.server.signal('SIGKILL');
    await offering.server.exited;
    young.signal('SIGCONT', young.pid);

    await young.waitFor(`pid ${young.pid} is alone`, { from: 0 });
    assert.deepEqual(wronged(await load.stop()), []);
    const third = await startTaking(t, offering.file);
    await third.waitFor(`pid ${third.pid} is alone`, { from: 0 });
    assert.equal(third.generations[0]?.generation, 3);
  });

  for (const phase of ['offered', 'committing', 'probation', 'released']) {
    // offered: before OFFER was sent, or the first listener. Nobody has the set: a newcomer that may start afresh does.
    test(`it is killed when it is ${phase}: no client is refused for good`, async (t) => {
      const offering = await Offering.start(t, {}, { SIGNAL_AT: `handoff:${phase}:SIGKILL` });
      const { port } = offering.server;
      const load = phase === 'offered' ? undefined : startPatient(t, offering.server);

      const young = await startTaking(t, offering.file, {
        env: { LISTENERS: JSON.stringify([{ name: 'web', host: '127.0.0.1', port }]) },
      });

      await young.waitFor(`pid ${young.pid} is alone`, { from: 0, deadline: 15_000 });
      assert.equal((await offering.server.exited).signal, 'SIGKILL');
      assert.equal(await get(offering.server.url), `${young.pid}\n`);
      if (load !== undefined) assert.deepEqual(wronged(await load.stop()), []);
      const third = await startTaking(t, offering.file);
      await third.waitFor(`pid ${third.pid} is alone`, { from: 0 });
      assertTidy(third.pid);
    });

    test(`it is frozen when it is ${phase}, and thawed: nothing is lost`, async (t) => {
      const offering = await Offering.start(t, {}, { SIGNAL_AT: `handoff:${phase}:SIGSTOP` });
      const { server } = offering;
      const load = startPatient(t, server);

      const young = startTaker(t, offering.file, { env: { TAKEOVER_OPTIONS: '{"orElse":"fail"}' } });
      if (phase === 'offered') {
        // The newcomer has nothing yet, and gives up; the old one hears that when it is thawed.
        await young.waitFor(/takeover failed: ERR_FDPASS_ABORTED, .*in time/, { from: 0, deadline: 15_000 });
        server.signal('SIGCONT', server.pid);
        await offering.failed('ERR_FDPASS_ABORTED');
        await offering.unharmed();
      } else {
        await young.waitFor(/generation 2$/, { from: 0, deadline: 15_000 }); // committing: COMMIT was sent before the frost
        await load.waitForReply('a reply of generation 2', ({ pid }) => pid === young.pid, 20_000);
        await until('it is frozen', () => readProcess(server.pid)?.state === 'T');
        server.signal('SIGCONT', server.pid);
        await young.waitFor(`pid ${young.pid} is alone`, { from: 0 });
        await server.gone(server.pid);
      }
      assert.deepEqual((await load.stop()).losses, []);
    });

    test(`it is asked to stop (SIGTERM) when it is ${phase}: the takeover goes on, and nothing is lost`, async (t) => {
      const offering = await Offering.start(t, {}, { SIGNAL_AT: `handoff:${phase}:SIGTERM` });
      const load = startPatient(t, offering.server);

      const young = await startTaking(t, offering.file);

      await young.waitFor(`pid ${young.pid} is alone`, { from: 0 });
      assert.deepEqual(await offering.server.exited, { code: 0, signal: null });
      assert.equal(await get(offering.server.url), `${young.pid}\n`);
      assert.deepEqual((await load.stop()).losses, []);
    });
  }

  test('it is asked to stop while the newcomer is not ready: 5 s later it tells it, and stops', async (t) => {
    const offering = await Offering.start(t);
    const peer = offering.newcomer();
    await peer.adopt();
    const asked = performance.now();

    offering.server.signal('SIGTERM');

    assert.match(await peer.heardAbort(), /^ERR_FDPASS_READY_TIMEOUT/);
    const waited = performance.now() - asked;
    assert.ok(waited > 4_500, `${waited} ms`);
    assert.deepEqual(await offering.server.exited, { code: 0, signal: null });
  });

  test('it is asked to stop with somebody there who has not said HELLO: that one is told', async (t) => {
    const offering = await Offering.start(t);
    const silent = offering.newcomer();
    await get(offering.server.url); // by now it has been accepted

    offering.server.signal('SIGTERM');

    assert.match(await silent.heardAbort(), /^ERR_FDPASS_ABORTED: .*taken back/);
    assert.deepEqual(await offering.server.exited, { code: 0, signal: null });
  });

  for (const phase of ['offered', 'committing', 'probation']) {
    test(`it exits with code 0 when it is ${phase}: the newcomer is told, and does not go on`, async (t) => {
      const offering = await Offering.start(t, {}, { EXIT_AT: `handoff:${phase}` });

      const young = startTaker(t, offering.file, { env: { TAKEOVER_OPTIONS: '{"orElse":"fail"}' } });

      assert.deepEqual(await offering.server.exited, { code: 0, signal: null });
      const { code } = await young.exited;
      // One that accepts finishes what it has, and leaves with 0. COMMIT may be heard before the ABORT behind it, or be void.
      if (phase !== 'committing') assert.equal(code === 0, phase === 'probation', young.sofar());
      await young.waitFor(/ERR_FDPASS_ABORTED/, { from: 0 });
    });
  }

  test('one that asks while another takes over is told to come again, also where the old one lets go in that moment', async (t) => {
    const offering = await Offering.start(t);
    const young = offering.newcomer();
    await young.adopt();
    await young.say(READY).hear('COMMIT');
    const silent = offering.newcomer();
    await get(offering.server.url); // by now it has been accepted, and has said nothing yet

    young.say(SERVING);
    await new Promise((resolve) => setImmediate(resolve));
    young.say(RELEASE);

    await young.hear('RELEASED');
    assert.match(await silent.heardAbort(), /^ERR_FDPASS_BUSY/);
  });

  test('both are killed: the path is stale, and the next one starts afresh', async (t) => {
    const offering = await Offering.start(t, { probation: 30_000 });
    const young = await startTaking(t, offering.file);

    offering.server.signal('SIGKILL');
    young.signal('SIGKILL');
    await Promise.all([offering.server.exited, young.exited]);

    const next = await startTaking(t, offering.file);
    await next.waitFor(`pid ${next.pid} comes from start, generation 1`, { from: 0 });
  });
});

// ---- The test is the old one -----------------------------------------------------------------------------------------------

const OFFER = {
  type: 'OFFER',
  versions: { min: 1, max: 1 },
  pid: process.pid,
  generation: 2,
  probation: 100,
  count: 1,
  items: [],
} as const satisfies Message;

describe('an old one that fails, lies or is silent: the newcomer closes everything', { concurrency: 6 }, () => {
  const socket = new ListeningSocket();
  const { inode, device } = raw.describe(socket.fd);
  const item: Item = {
    name: 'web',
    type: 'stream',
    address: { family: 'IPv4', address: '127.0.0.1', port: socket.port },
    inode: String(inode),
    device: String(device),
  };
  const fds = (batch: number, items: Item[] = [item]): Uint8Array => encodeFrame({ type: 'FDS', batch, items });
  const offer = (fields: object = {}): Uint8Array => encodeFrame({ ...OFFER, ...fields });
  const stateful = { state: { fd: null, length: 9, encoding: 'bytes' } };

  const CASES: [string, (guest: Peer) => unknown, RegExp][] = [
    ['it ends after HELLO', (guest) => guest.close(), /ERR_FDPASS_NO_PREDECESSOR, .*ended before it had handed over/],
    [
      'it ends after OFFER',
      (guest) => {
        guest.write(offer()).close();
      },
      /ERR_FDPASS_NO_PREDECESSOR/,
    ],
    [
      'it ends between two batches',
      (guest) => {
        guest
          .write(offer({ count: 2 }))
          .write(fds(0), [socket.fd])
          .close();
      },
      /ERR_FDPASS_NO_PREDECESSOR/,
    ],
    [
      'it ends in the middle of a frame',
      (guest) => {
        guest
          .write(offer({ count: 2 }))
          .write(fds(0).subarray(0, 30), [socket.fd])
          .close();
      },
      /ERR_FDPASS_NO_PREDECESSOR/,
    ],
    [
      'it says ABORT',
      (guest) => {
        guest.say({ ...ABORT, code: 'ERR_FDPASS_REFUSED' }).close();
      },
      /ERR_FDPASS_REFUSED, .*on purpose/,
    ],
    [
      'it says ABORT right behind the set, in one breath',
      (guest) => {
        guest.write(Buffer.concat([offer(), fds(0), encodeFrame(ABORT)]), [socket.fd]).close();
      },
      /ERR_FDPASS_ABORTED, .*on purpose/,
    ],
    [
      'it says ABORT in the middle of the set',
      (guest) => {
        guest
          .write(offer({ count: 2 }))
          .write(fds(0), [socket.fd])
          .say(ABORT)
          .close();
      },
      /ERR_FDPASS_ABORTED, .*on purpose/,
    ],
    ['it is silent', () => undefined, /ERR_FDPASS_ABORTED, .*in time/],
    [
      'it is silent in the middle of the set',
      (guest) => guest.write(offer({ count: 2 })).write(fds(0), [socket.fd]),
      /ERR_FDPASS_ABORTED, .*in time/,
    ],
    ['it is another program', (guest) => guest.write(Buffer.from('220 mail\r\n')), /ERR_FDPASS_PROTOCOL, /],
    [
      'it is another program, and ends',
      (guest) => {
        guest.write(Buffer.from('220 mail\r\n')).close();
      },
      /ERR_FDPASS_PROTOCOL, /,
    ],
    ['listeners before OFFER', (guest) => guest.write(fds(0), [socket.fd]), /ERR_FDPASS_PROTOCOL, .*before OFFER/],
    [
      'a wrong batch number',
      (guest) => guest.write(offer()).write(fds(1), [socket.fd]),
      /ERR_FDPASS_PROTOCOL, .*batch 1, expected was 0/,
    ],
    [
      'more listeners than it named',
      (guest) => guest.write(offer()).write(fds(0, [item, item]), [socket.fd, socket.fd]),
      /ERR_FDPASS_PROTOCOL, .*more than the 1/,
    ],
    ['OFFER twice', (guest) => guest.write(offer()).write(offer()), /ERR_FDPASS_PROTOCOL, .*OFFER came twice/],
    [
      'an OFFER for a child',
      (guest) => guest.write(offer({ items: [{ ...item, fd: 3 }] })),
      /ERR_FDPASS_PROTOCOL, .*only a child/,
    ],
    ['COMMIT before the set', (guest) => guest.say({ type: 'COMMIT', probation: 1 }), /ERR_FDPASS_PROTOCOL, /],
    [
      'another socket than it named',
      (guest) => guest.write(offer()).write(fds(0, [{ ...item, inode: '1' }]), [socket.fd]),
      /ERR_FDPASS_MISMATCH, .*"web"/,
    ],
    [
      'a file for a listener',
      (guest) => {
        const file = raw.memoryFile('no listener');
        guest.write(offer()).write(fds(0), [file]);
        raw.close(file);
      },
      /ERR_FDPASS_MISMATCH, .*"web"/,
    ],
    [
      'a state that is shorter than it says',
      (guest) => {
        const file = raw.memoryFile('state');
        fs.writeSync(file, 'short');
        guest.write(encodeFrame({ ...OFFER, ...stateful } as Message), [file]);
        raw.close(file);
      },
      /ERR_FDPASS_PROTOCOL, .*9 bytes, and 5/,
    ],
    [
      'a version of its own',
      (guest) => guest.write(offer({ versions: { min: 8, max: 9 } })),
      /ERR_FDPASS_VERSION, .*8 to 9/,
    ],
  ];
  for (const [what, how, expected] of CASES) {
    test(what, async (t) => {
      const file = path.join(temporaryDirectory(t), 'takeover.sock');
      const host = new Host(t, file);
      const young = startTaker(t, file, { env: { TAKEOVER_OPTIONS: '{"orElse":"fail"}' } });
      const guest = await host.guest();

      how(guest);

      await young.waitFor(new RegExp(`^takeover failed: ${expected.source}`), { from: 0 });
      await young.waitFor('descriptors as before', { from: 0 });
      assert.equal((await young.exited).code, 4);
    });
  }

  test('it ends in the middle of the set, and the newcomer may start afresh: it does when nobody listens there any more', async (t) => {
    const file = path.join(temporaryDirectory(t), 'takeover.sock');
    const host = new Host(t, file);
    const young = startTaker(t, file);
    const guest = await host.guest();

    guest
      .write(offer({ count: 2 }))
      .write(fds(0), [socket.fd])
      .close();
    const again = await host.guest(); // the end of one channel is no proof that nobody is there
    host.close();
    again.close();

    await young.waitFor(/comes from start, generation 1/, { from: 0 });
    await young.waitFor(/^listening on /, { from: 0 });
  });

  test('it hangs up again and again: a newcomer that may start afresh does not, for the address is taken', async (t) => {
    const file = path.join(temporaryDirectory(t), 'takeover.sock');
    const host = new Host(t, file);
    const young = startTaker(t, file);
    const exited = young.exited.then(() => undefined);

    for (;;) {
      const guest = await Promise.race([host.guest(), exited]);
      if (guest === undefined) break;
      guest.close();
    }

    assert.equal((await young.exited).code, 4);
    await young.waitFor(/takeover failed: ERR_FDPASS_NO_PREDECESSOR/, { from: 0 });
  });

  after(() => {
    socket[Symbol.dispose]();
  });
});
