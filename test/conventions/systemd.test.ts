import assert from 'node:assert/strict';
import { test } from 'node:test';

import { readSystemd, writeSystemd } from '../../lib/conventions/systemd.js';
import { FdpassError } from '../../lib/errors.js';

const PID = 4711;

interface Vector {
  pid?: string;
  fds?: string;
  names?: string;
  pidfdId?: string;
}

function read({ pid, fds, names, pidfdId }: Vector, ownPidfdId?: string): { names: string[]; fds: number[] } | string {
  const environment = { LISTEN_PID: pid, LISTEN_FDS: fds, LISTEN_FDNAMES: names, LISTEN_PIDFDID: pidfdId };
  const { descriptors, note } = readSystemd(environment, { pid: PID, pidfdId: ownPidfdId });
  if (descriptors === undefined) return note;
  const list = [...descriptors];
  return { names: list.map(({ name }) => name), fds: list.map(({ fd }) => fd) };
}

// PID stands for this process's own.
const FOUND: [fds: string, names: string | undefined, expected: string[]][] = [
  ['2', undefined, ['unknown', 'unknown']],
  ['2', 'http:admin', ['http', 'admin']],
  ['2', 'a:a', ['a', 'a']],
  ['1', '', ['']],
  ['2', ':', ['', '']],
  ['2', 'a:', ['a', '']],
  ['3', '::', ['', '', '']],
  ['2', "'a b':c", ["'a b'", 'c']],
  ['2', '"a:b"', ['"a', 'b"']],
  ['2', ' a : b ', [' a ', ' b ']],
  ['2', 'a\\:b:c', ['a:b', 'c']],
  ['2', 'a\\nb:c', ['anb', 'c']],
  ['02', undefined, ['unknown', 'unknown']],
];
for (const [fds, names, expected] of FOUND) {
  test(`LISTEN_FDS=${fds} LISTEN_FDNAMES=${JSON.stringify(names)} is ${JSON.stringify(expected)}`, () => {
    const found = read({ pid: String(PID), fds, ...(names === undefined ? {} : { names }) });

    assert.deepEqual(found, { names: expected, fds: expected.map((_, index) => 3 + index) });
  });
}

const NOTHING: [name: string, vector: Vector, note: RegExp][] = [
  ['no LISTEN_FDS', { pid: String(PID) }, /LISTEN_FDS is not set/],
  ['no LISTEN_PID', { fds: '2' }, /without LISTEN_PID/],
  ['the pid of another', { pid: '1234', fds: '2' }, /LISTEN_PID is 1234, and this process is 4711/],
  ['the pid that container runtimes write', { pid: '1', fds: '2' }, /container/],
];
for (const [name, vector, note] of NOTHING) {
  test(`${name}: nothing was handed down, and the note says so`, () => {
    const found = read(vector);

    assert.ok(typeof found === 'string');
    assert.match(found, note);
  });
}

test('LISTEN_PIDFDID of another process with the same pid: nothing was handed down', () => {
  const stranger = read({ pid: String(PID), fds: '1', pidfdId: '77' }, '78');

  assert.ok(typeof stranger === 'string');
  assert.match(stranger, /was used again/);
  assert.deepEqual(read({ pid: String(PID), fds: '1', pidfdId: '77' }, '77'), { names: ['unknown'], fds: [3] });
  assert.deepEqual(read({ pid: String(PID), fds: '1', pidfdId: '77' }), { names: ['unknown'], fds: [3] });
});

const P = String(PID);
const REFUSED: [vector: Vector, code: string, variable: string][] = [
  ...['', 'abc', `${P}x`, `${P} `, ` ${P}`, `+${P}`, '0', '-1', '99999999999', '2147483648'].map(
    (pid): [Vector, string, string] => [{ pid, fds: '2' }, 'ERR_FDPASS_ENV', 'LISTEN_PID'],
  ),
  ...['0', '-1', '', 'x', '2x', ' 2', '+2', '0x2', '0b10', '2147483645', '2147483647', '99999999999'].map(
    (fds): [Vector, string, string] => [{ pid: P, fds }, 'ERR_FDPASS_ENV', 'LISTEN_FDS'],
  ),
  ...['http', 'a:b:c', '', 'a\\'].map((names): [Vector, string, string] => [
    { pid: P, fds: '2', names },
    'ERR_FDPASS_NAMES',
    'LISTEN_FDNAMES',
  ]),
];
for (const [vector, code, variable] of REFUSED) {
  test(`${JSON.stringify(vector)} is refused, and the error names ${variable} and its value`, () => {
    const value = { LISTEN_PID: vector.pid, LISTEN_FDS: vector.fds, LISTEN_FDNAMES: vector.names }[variable];

    assert.throws(
      () => read(vector),
      (error) => {
        assert.ok(error instanceof FdpassError);
        assert.equal(error.code, code);
        assert.equal(error.variable, variable);
        assert.equal(error.value, value);
        assert.ok(error.message.includes(variable));
        return true;
      },
    );
  });
}

test('a claim of 2147483644 descriptors allocates nothing: they come one by one', () => {
  const { descriptors } = readSystemd({ LISTEN_PID: P, LISTEN_FDS: '2147483644' }, { pid: PID });

  const [first] = descriptors ?? [];

  assert.deepEqual(first, { name: 'unknown', fd: 3 });
});

test('what is written is what systemd writes, and the child fills in its own pid', () => {
  assert.deepEqual(writeSystemd(['web', 'admin', '']), {
    variables: { LISTEN_FDS: '3', LISTEN_FDNAMES: 'web:admin:' },
    pidVariables: ['LISTEN_PID'],
  });
  assert.deepEqual(writeSystemd([]), { variables: {}, pidVariables: [] });
});

for (const name of ['a:b', 'a\\b', 'a\nb', 'ä', 'x'.repeat(256)]) {
  test(`the name ${JSON.stringify(name.slice(0, 8))} (${name.length} characters) is never written`, () => {
    assert.throws(() => writeSystemd(['fine', name]), { code: 'ERR_FDPASS_NAMES', value: name });
  });
}

test('what is written is read as it was meant', () => {
  const names = ['web', '', 'a b', "'q'", 'x'.repeat(255)];
  const { variables } = writeSystemd(names);

  const { descriptors } = readSystemd({ ...variables, LISTEN_PID: P }, { pid: PID });

  assert.deepEqual(
    [...(descriptors ?? [])].map(({ name }) => name),
    names,
  );
});
