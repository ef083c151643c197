import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { test } from 'node:test';

import { startServer } from '../support/fixture.js';
import { example, EXAMPLES, Loop, run } from './support.js';

test('shutdown: the slow request is answered, the idle connection closed; the gap refuses, the listener that stays does not', async (t) => {
  const lines = await run(t, 'shutdown.mjs', { SLOW: '1000' });

  const states = (connection: number): string[] =>
    lines.filter((line) => line.startsWith(`connection ${connection}: `)).map((line) => line.split(': ')[1] ?? '');
  const [slow, idle] = [states(1), states(2)].sort((a, b) => a.length - b.length);
  assert.deepEqual(slow, ['new', 'active', 'closed']);
  assert.deepEqual(idle, ['new', 'active', 'idle', 'closed']);
  assert.ok(lines.includes('stopping, within 10000 ms'));
  assert.ok(lines.includes('stopped: { closedIdle: 1, announced: 1, forced: 0 } the slow request: done'));
  const [gap, stays] = lines.slice(-2).map((line) => line.match(/\d+/g)?.map(Number) ?? []);
  const [answered = 0, refused = 0] = gap ?? [];
  assert.ok(answered > 0 && refused > 0, lines.join('\n'));
  assert.ok((stays?.[0] ?? 0) > 0 && stays?.[1] === 0 && stays[2] === 0, lines.join('\n'));
});

test('shutdown: what does not end within the limit is ended', async (t) => {
  const lines = await run(t, 'shutdown.mjs', { SLOW: '60000', LIMIT: '300' });

  assert.ok(lines.includes('stopped: { closedIdle: 1, announced: 0, forced: 1 } the slow request: ECONNRESET'));
});

for (const language of ['Node', 'Python'] as const) {
  test(`hello: the connect loop in ${language} is answered until it is interrupted, or has counted`, async (t) => {
    const server = await startServer(t, example('hello.mjs'));

    const endless = new Loop(t, language, server.port);
    await endless.begun();
    endless.interrupt();
    const counted = await new Loop(t, language, server.port, '--count', 100).ended();

    const { code, lines } = await endless.ended();
    assert.equal(code, 0);
    assert.equal(lines[0], 'hello');
    assert.match(lines[1] ?? '', /^ok [1-9]\d*, failed 0$/);
    assert.deepEqual(counted, { code: 0, lines: ['hello', 'ok 100, failed 0'] });

    await server.stop();
    assert.deepEqual(await server.exited, { code: 0, signal: null });
    const refused = await new Loop(t, language, server.port, '--count', 3).ended();
    assert.equal(refused.code, 1);
    assert.match(refused.lines[0] ?? '', /^failed: .*refused|^failed: .*ECONNREFUSED/);
    assert.equal(refused.lines[1], 'ok 0, failed 3');
  });
}

test('twice: the second listen is an error with code and address, and the first listener accepts on', async (t) => {
  const [message = '', facts = '', answer] = await run(t, 'twice.mjs');

  assert.match(message, /^EADDRINUSE: address already in use, bind \(127\.0\.0\.1:\d+\) for listener "second"$/);
  assert.match(facts, /^code EADDRINUSE, address 127\.0\.0\.1:\d+$/);
  assert.equal(answer, 'hello from the first');
});

test('shared: both accept loops get connections, in one thread and in two', async (t) => {
  const lines = await run(t, 'shared.mjs');

  assert.equal(lines.length, 2);
  assert.match(lines[0] ?? '', /^in one thread: \{ server1: [1-9]\d*, server2: [1-9]\d* \}$/);
  assert.match(lines[1] ?? '', /^in two threads: \{ server1: [1-9]\d*, server2: [1-9]\d* \}$/);
});

test('refile: a listener made of the descriptor of another accepts beside it, and after it', async (t) => {
  const [descriptors = '', counts = '', after] = await run(t, 'refile.mjs');

  const [, first, second] =
    /^first: descriptor (\d+), second: descriptor (\d+), both on port \d+$/.exec(descriptors) ?? [];
  assert.ok(first !== undefined && first !== second, descriptors);
  assert.match(counts, /^connections: \{ first: [1-9]\d*, second: [1-9]\d* \}$/);
  assert.equal(after, 'after first.close(): second');
});

test('child: the child that got the listener as descriptor 3 serves', async (t) => {
  const lines = await run(t, 'child.mjs');

  const [, parent] = /^parent (\d+) listens on descriptor \d+$/.exec(lines[0] ?? '') ?? [];
  assert.equal(lines[1], `hello from parent ${parent}`);
  const [, child] = /^child (\d+) listens on descriptor 3$/.exec(lines[2] ?? '') ?? [];
  assert.deepEqual(lines.slice(3), [`hello from child ${child}`, `child ${child} has ended, code 0`]);
});

const scripts = readdirSync(EXAMPLES).filter((name) => /\.(mjs|py|c)$/.test(name));

test('the README of the examples names each of them, with its command', () => {
  const readme = readFileSync(example('README.md'), 'utf8');

  assert.deepEqual(
    scripts.filter((name) => !readme.includes(`](${name})`) || !readme.includes(`examples/${name}`)),
    [],
  );
});

for (const name of scripts.filter((each) => each.endsWith('.mjs'))) {
  test(`${name} is short, and uses the public interface alone`, () => {
    const source = readFileSync(example(name), 'utf8');

    const imported = [...source.matchAll(/(?:from |import\()'([^']+)'/g)].map((match) => match[1] ?? '');
    const others = imported.filter(
      (each) => !/^(node:[\w/]+|fdpass|express|fastify|\.\/clients\/\w+\.mjs)$/.test(each),
    );
    assert.deepEqual(others, []);
    assert.ok(imported.includes('fdpass'));
    assert.ok(source.split('\n').length < 100);
  });
}
