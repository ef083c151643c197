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
  first?: string;
}

function environmentOf({ pid, fds, names, pidfdId, first }: Vector): Record<string, string | undefined> {
  return {
    LISTEN_PID: pid,
    LISTEN_FDS: fds,
    LISTEN_FDNAMES: names,
    LISTEN_PIDFDID: pidfdId,
    LISTEN_FDS_FIRST_FD: first,
  };
}

function read(vector: Vector, ownPidfdId?: string): { names: string[]; fds: number[] } | string {
  const environment = environmentOf(vector);
  const { descriptors, note } = readSystemd(environment, { pid: PID, pidfdId: ownPidfdId });
  if (descriptors === undefined) return note;
  const list = [...descriptors];
  return { names: list.map(({ name }) => name), fds: list.map(({ fd }) => fd) };
}

function noteOf(found: ReturnType<typeof read>): string {
  assert.ok(typeof found === 'string', 'something was found');
  return found;
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

const P = String(PID);
const LARGEST = String(2n ** 64n - 1n);

// Of systemd later than 258. What the own number is, or that the kernel has none.
const PIDFDID: [announced: string, own: string | undefined, isOurs: boolean][] = [
  ['77', '77', true],
  ['77', '78', false],
  ['77', undefined, true], // not obtainable: not checked
  ['0', undefined, true],
  ['0', '77', false],
  [LARGEST, LARGEST, true],
  [LARGEST, String(2n ** 64n - 2n), false], // no rounding
  ['9007199254740993', '9007199254740992', false],
  ['077', '77', true],
];
for (const [announced, own, isOurs] of PIDFDID) {
  const what = isOurs ? 'the descriptors are ours' : 'nothing was handed down, and the note says why';
  test(`LISTEN_PIDFDID=${announced}, and the own number is ${own ?? 'not to be had'}: ${what}`, () => {
    const found = read({ pid: P, fds: '1', pidfdId: announced }, own);

    if (isOurs) assert.deepEqual(found, { names: ['unknown'], fds: [3] });
    else
      assert.match(noteOf(found), new RegExp(`^LISTEN_PIDFDID is ${announced}, .* ${own}: pid 4711 was used again$`));
  });
}

test('what another process was told is not looked at further', () => {
  for (const pidfdId of ['x', '77']) {
    assert.match(noteOf(read({ pid: '1234', fds: 'x', pidfdId }, '77')), /LISTEN_PID is 1234/);
  }
});

test('systemfd: LISTEN_FDS_FIRST_FD says where they begin, with LISTEN_PID too', () => {
  assert.deepEqual(read({ pid: P, fds: '2', first: '7' }), { names: ['unknown', 'unknown'], fds: [7, 8] });
  assert.deepEqual(read({ pid: P, fds: '2', first: '' }), { names: ['unknown', 'unknown'], fds: [3, 4] });
  assert.deepEqual(read({ pid: P, fds: '1', first: '2147483646' }), { names: ['unknown'], fds: [2_147_483_646] });
});

const REFUSED: [vector: Vector, code: string, variable: string][] = [
  // LISTEN_PID is read first: it is malformed whatever stands beside it.
  [{ pid: 'abc' }, 'ERR_FDPASS_ENV', 'LISTEN_PID'],
  ...['', 'x', '-1', '+1', ' 1', '1 ', '0x4d', '1.0', '18446744073709551616', '1'.repeat(21)].map(
    (pidfdId): [Vector, string, string] => [{ pid: P, fds: '1', pidfdId }, 'ERR_FDPASS_ENV', 'LISTEN_PIDFDID'],
  ),
  ...['2', '0', '-1', 'x', '2147483648'].map((first): [Vector, string, string] => [
    { pid: P, fds: '1', first },
    'ERR_FDPASS_ENV',
    'LISTEN_FDS_FIRST_FD',
  ]),
  [{ pid: P, fds: '2', first: '2147483646' }, 'ERR_FDPASS_ENV', 'LISTEN_FDS'],
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
    const value = environmentOf(vector)[variable];

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
