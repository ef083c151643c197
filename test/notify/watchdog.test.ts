/** The beat of WatchdogSec=: which time the environment asks for, and that a loop that does not turn is silent. */
import assert from 'node:assert/strict';
import { after, describe, test } from 'node:test';

import { Notifications } from '../../lib/notifications.js';
import { Beat, readWatchdog } from '../../lib/notify/watchdog.js';
import { node, skipUnlessLinux } from './support.js';

describe('WATCHDOG_USEC and WATCHDOG_PID', () => {
  const own = 4711;
  const good: [Record<string, string>, number | undefined][] = [
    [{}, undefined],
    [{ WATCHDOG_USEC: '20000000' }, 20_000],
    [{ WATCHDOG_USEC: '1' }, 0.001],
    [{ WATCHDOG_USEC: '20000000', WATCHDOG_PID: '4711' }, 20_000],
    [{ WATCHDOG_USEC: '20000000', WATCHDOG_PID: '1' }, undefined],
    [{ WATCHDOG_PID: '4711' }, undefined],
    [{ WATCHDOG_PID: 'x' }, undefined], // without WATCHDOG_USEC it is not looked at, as in libsystemd
  ];
  for (const [environment, expected] of good) {
    test(`${JSON.stringify(environment)} asks for ${expected ?? 'nothing'}`, () => {
      assert.equal(readWatchdog(environment, own), expected);
    });
  }
  const bad: [Record<string, string>, string][] = [
    [{ WATCHDOG_USEC: '' }, 'WATCHDOG_USEC'],
    [{ WATCHDOG_USEC: '0' }, 'WATCHDOG_USEC'],
    [{ WATCHDOG_USEC: '-1' }, 'WATCHDOG_USEC'],
    [{ WATCHDOG_USEC: '1s' }, 'WATCHDOG_USEC'],
    [{ WATCHDOG_USEC: '18446744073709551615' }, 'WATCHDOG_USEC'],
    [{ WATCHDOG_USEC: '999999999999999999999' }, 'WATCHDOG_USEC'],
    [{ WATCHDOG_USEC: '1000', WATCHDOG_PID: '' }, 'WATCHDOG_PID'],
    [{ WATCHDOG_USEC: '1000', WATCHDOG_PID: 'x' }, 'WATCHDOG_PID'],
    [{ WATCHDOG_USEC: '1000', WATCHDOG_PID: '0' }, 'WATCHDOG_PID'],
    [{ WATCHDOG_USEC: '1000', WATCHDOG_PID: '2147483648' }, 'WATCHDOG_PID'],
  ];
  for (const [environment, variable] of bad) {
    test(`${JSON.stringify(environment)} is ERR_FDPASS_ENV, which names ${variable}`, () => {
      assert.throws(() => readWatchdog(environment, own), { code: 'ERR_FDPASS_ENV', variable });
    });
  }
});

/** Counts beats, and lets a test wait for one. */
class Counter {
  beats = 0;
  #waiting: (() => void)[] = [];

  readonly send = (): Promise<boolean> => {
    this.beats++;
    for (const resolve of this.#waiting.splice(0)) resolve();
    return Promise.resolve(true);
  };

  next(): Promise<void> {
    return new Promise((resolve) => this.#waiting.push(resolve));
  }
}

describe('a beat', () => {
  const keep = setInterval(() => undefined, 1000); // the beat itself keeps nothing alive
  after(() => clearInterval(keep));

  test('comes at once, and again and again', async (t) => {
    const counter = new Counter();
    const beat = new Beat({ interval: 5, send: counter.send });
    t.after(() => beat.stop());

    assert.equal(counter.beats, 1);
    await counter.next();
    await counter.next();

    assert.equal(counter.beats, 3);
  });

  test('does not come where microtasks keep the loop from turning, and comes back with the turns', async (t) => {
    const counter = new Counter();
    const beat = new Beat({ interval: 1, send: counter.send });
    t.after(() => beat.stop());
    const during: number[] = [];
    await new Promise<void>((resolve) => {
      const starve = (): void => {
        const until = performance.now() + 3;
        while (performance.now() < until);
        during.push(counter.beats);
        if (during.length < 20) queueMicrotask(starve);
        else resolve();
      };
      setTimeout(starve, 1);
    });

    assert.equal(during.length, 20);
    assert.deepEqual(new Set(during).size, 1, during.join());
    await counter.next();
  });

  test('does not come where the check says no, throws, or does not answer; it comes back with the yes', async (t) => {
    const counter = new Counter();
    let answers: (() => boolean | Promise<boolean>)[] = [
      () => false,
      () => Promise.resolve(false),
      () => Promise.reject(new Error('unwell')),
      () => {
        throw new Error('unwell');
      },
    ];
    let asked = 0;
    const enough = new Promise<void>((resolve) => {
      const beat = new Beat({
        interval: 1,
        send: counter.send,
        check: () => {
          asked++;
          const answer = answers.shift();
          if (answer !== undefined) return answer();
          resolve();
          return true;
        },
      });
      t.after(() => beat.stop());
    });
    await enough;
    const { beats } = counter;

    assert.ok(beats <= 1, `${beats}`);
    answers = [() => new Promise<boolean>(() => undefined)];
    while (answers.length > 0) await new Promise((resolve) => setImmediate(resolve));
    const stopped = counter.beats;
    const before = asked;
    await new Promise((resolve) => setTimeout(resolve, 20));
    assert.deepEqual([counter.beats, asked], [stopped, before]); // the question that has no answer is not asked again
  });

  test('is over when it is stopped, also in the middle of a check', async () => {
    const counter = new Counter();
    let answer: (value: boolean) => void = () => undefined;
    const beat = new Beat({
      interval: 1,
      send: counter.send,
      check: () => new Promise((resolve) => (answer = resolve)),
    });

    beat.stop();
    answer(true);
    await new Promise((resolve) => setImmediate(resolve));

    assert.equal(counter.beats, 0);
  });
});

describe('notify.watchdog', { skip: skipUnlessLinux }, () => {
  test('beats at half of the time while the loop turns, and not while it is blocked', async (t) => {
    using notifications = new Notifications();
    const block = 400;
    const ended = node(
      t,
      `using beat = notify.watchdog.start();
       notify.status('before ' + notify.watchdog.timeout);
       setTimeout(() => {
         notify.status('blocked');
         Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, ${block});
         notify.status('free');
         setTimeout(() => { notify.status('after'); process.exit(); }, 200);
       }, 200);`.replace('using beat =', 'const beat ='),
      notifications.env({ watchdog: 80 }),
    );
    const said: string[] = [];
    while (!said.includes('STATUS=after')) said.push(...((await notifications.receive())?.lines ?? ['STATUS=after']));
    await ended;

    const at = (line: string): number => said.indexOf(line);
    const beats = (from: string, to: string): number =>
      said.slice(at(from), at(to)).filter((line) => line === 'WATCHDOG=1').length;
    assert.deepEqual(said.slice(0, 2), ['WATCHDOG=1', 'STATUS=before 80']);
    assert.ok(beats('STATUS=before 80', 'STATUS=blocked') >= 2, said.join());
    assert.equal(beats('STATUS=blocked', 'STATUS=free'), 0, said.join());
    assert.ok(beats('STATUS=free', 'STATUS=after') >= 2, said.join());
  });

  test('keeps no process alive', async (t) => {
    using notifications = new Notifications();

    const { code, stderr } = await node(t, 'notify.watchdog.start();', notifications.env({ watchdog: 60_000 }));

    assert.deepEqual({ code, stderr }, { code: 0, stderr: '' });
    assert.deepEqual((await notifications.receive())?.lines, ['WATCHDOG=1']);
  });

  test('beats in the time that was asked for last, and not after dispose', async (t) => {
    using notifications = new Notifications();
    const ended = node(
      t,
      `const beat = notify.watchdog.start();
       await notify.watchdog.setTimeout(20);
       notify.status('timeout ' + notify.watchdog.timeout);
       setTimeout(() => {
         beat[Symbol.dispose]();
         notify.status('disposed');
         setTimeout(() => notify.status('end'), 60);
       }, 100);`,
      notifications.env({ watchdog: 600_000 }),
    );
    const said: string[] = [];
    while (!said.includes('STATUS=end')) said.push(...((await notifications.receive())?.lines ?? ['STATUS=end']));
    const { code, stderr } = await ended;

    assert.deepEqual({ code, stderr }, { code: 0, stderr: '' });
    assert.ok(said.includes('WATCHDOG_USEC=20000') && said.includes('STATUS=timeout 20'), said.join());
    assert.ok(
      said.slice(3, said.indexOf('STATUS=disposed')).filter((line) => line === 'WATCHDOG=1').length >= 3,
      said.join(),
    );
    assert.deepEqual(said.slice(said.indexOf('STATUS=disposed')), ['STATUS=disposed', 'STATUS=end']);
  });

  test('does nothing where no beat is asked for, or of another process', async (t) => {
    using notifications = new Notifications();
    const script = `
      const beat = notify.watchdog.start();
      await notify.status('timeout ' + notify.watchdog.timeout);
      beat[Symbol.dispose]();`;

    await node(t, script, notifications.env());
    await node(t, script, { ...notifications.env({ watchdog: 20 }), WATCHDOG_PID: '1' });

    assert.deepEqual((await notifications.receive())?.lines, ['STATUS=timeout undefined']);
    assert.deepEqual((await notifications.receive())?.lines, ['STATUS=timeout undefined']);
  });

  test('says ERR_FDPASS_ENV where a variable is malformed', async (t) => {
    const { stdout } = await node(
      t,
      `for (const act of [() => notify.watchdog.start(), () => notify.watchdog.timeout])
         try { act(); } catch (error) { console.log(error.code, error.variable, error.value); }`,
      { WATCHDOG_USEC: '20s' },
    );

    assert.equal(stdout, 'ERR_FDPASS_ENV WATCHDOG_USEC 20s\n'.repeat(2));
  });
});
