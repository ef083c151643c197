/** Which descriptors a child has, at which numbers: by asking real programs. */
import assert from 'node:assert/strict';
import fs from 'node:fs';
import path from 'node:path';
import { test } from 'node:test';

import { spawn, type SpawnDescriptor } from '../../lib/spawn.js';
import * as raw from '../../lib/raw.js';
import { directory, File, fileOf, nullFile, report, table, WAYS } from './support.js';

// Numbers above what Node has: a, b, c stand at 50, 51, 52 of this process.
const CASES: Record<string, readonly (readonly [source: number, target: number])[]> = {
  'in order': [
    [50, 3],
    [51, 4],
    [52, 5],
  ],
  'with gaps, and high': [
    [50, 9],
    [51, 700],
  ],
  'x to x': [[50, 50]],
  'a swap': [
    [50, 51],
    [51, 50],
  ],
  'a cycle of three': [
    [50, 51],
    [51, 52],
    [52, 50],
  ],
  'a cycle and an x to x': [
    [50, 51],
    [51, 50],
    [52, 52],
  ],
  'a chain, forwards': [
    [50, 51],
    [51, 52],
    [52, 53],
  ],
  'a chain, backwards': [
    [52, 51],
    [51, 50],
    [50, 49],
  ],
  'one to many, itself included': [
    [50, 3],
    [50, 50],
    [50, 51],
    [51, 4],
  ],
  'on 0, 1 and 2': [
    [50, 0],
    [51, 1],
    [52, 2],
  ],
  'a swap of 0 and 1': [
    [0, 1],
    [1, 0],
  ],
  '0, 1 and 2 as others': [
    [0, 50],
    [1, 51],
    [2, 52],
    [50, 0],
    [51, 1],
    [52, 2],
  ],
};

for (const [way, fallback] of WAYS) {
  for (const [name, pairs] of Object.entries(CASES)) {
    test(`${way}: descriptors ${name}`, async () => {
      using files = new DisposableFiles([50, 51, 52]);
      const expected = { 0: fileOf(0), 1: fileOf(1), 2: fileOf(2) } as Record<number, string>;
      for (const [source, target] of pairs) expected[target] = files.names[source] ?? fileOf(source);
      const before = raw.openDescriptors();

      const told = await report({ way: fallback, fds: pairs.map(([source, target]) => ({ source, target })) });

      assert.deepEqual(table(told), expected);
      assert.deepEqual(raw.openDescriptors(), before);
      for (const { fd } of files.list) assert.equal(raw.getCloseOnExec(fd), true);
    });
  }
}

/** Files at these numbers of this process. */
class DisposableFiles implements Disposable {
  readonly list: File[];
  readonly names: Record<number, string>;

  constructor(numbers: readonly (number | undefined)[]) {
    this.list = numbers.map((number) => new File(number));
    this.names = Object.fromEntries(this.list.map(({ fd, file }) => [fd, file]));
  }

  [Symbol.dispose](): void {
    for (const file of this.list) file[Symbol.dispose]();
  }
}

for (const [way, fallback] of WAYS) {
  test(`${way}: of 200 descriptors that are not close-on-exec the child has those of the plan alone`, async () => {
    using files = new DisposableFiles(new Array<undefined>(200).fill(undefined));
    for (const { fd } of files.list) raw.setCloseOnExec(fd, false);
    const [a, b, c] = [files.list[7], files.list[100], files.list[199]];
    assert.ok(a && b && c);

    const fds = [a, { source: b.fd, target: 100 }, { source: c.fd, target: 5 }];
    const told = await report({ way: fallback, fds, stdio: 'ignore' });

    const nothing = nullFile();
    assert.deepEqual(table(told), { 0: nothing, 1: nothing, 2: nothing, 3: a.file, 5: c.file, 100: b.file });
  });
}

test('a Python program has the same descriptors', async () => {
  using files = new DisposableFiles([50, 51, 52]);
  const fds: SpawnDescriptor[] = [{ source: 50, target: 51 }, { source: 51, target: 50 }, { fd: 52 }, 50];

  const told = await report({ language: 'python', fds });

  assert.deepEqual(table(told), {
    0: fileOf(0),
    1: fileOf(1),
    2: fileOf(2),
    5: files.names[52],
    6: files.names[50],
    50: files.names[51],
    51: files.names[50],
  });
});

test('300 descriptors, in reverse, upon themselves', async () => {
  using files = new DisposableFiles(Array.from({ length: 300 }, (_, index) => 1000 + index));
  const fds = files.list.map(({ fd }) => ({ source: fd, target: 2299 - fd }));

  const told = await report({ stdio: 'ignore', fds });

  const names = files.list.toReversed().map(({ file }) => file);
  const beyond = told.fds.slice(3);
  assert.deepEqual(beyond.map(({ file }) => file), names); // prettier-ignore
  assert.deepEqual(beyond.map(({ fd }) => fd), files.list.map(({ fd }) => fd)); // prettier-ignore
});

test('stdout to a file, stdin from one, stderr ignored', async () => {
  using input = new File();
  const out = fs.openSync(path.join(directory, 'out'), 'w');

  const told = await report({ stdio: [input.fd, out, 'ignore'] });

  assert.deepEqual(table(told), { 0: input.file, 1: fileOf(out), 2: nullFile() });
  fs.closeSync(out);
});

test('a pair for 0, 1 or 2 goes before stdio', async () => {
  using file = new File();

  const told = await report({ stdio: 'ignore', fds: [{ source: file.fd, target: 1 }] });

  assert.deepEqual(table(told), { 0: nullFile(), 1: file.file, 2: nullFile() });
});

test("the child's ends of pipes are blocking, and nothing of the other end is there", async () => {
  const told = await report({ stdio: 'pipe' });

  assert.deepEqual(
    told.fds.map(({ fd, nonBlocking }) => [fd, nonBlocking]),
    [
      [0, false],
      [1, false],
      [2, false],
    ],
  );
  assert.equal(new Set(told.fds.map(({ file }) => file)).size, 3);
});

const limit = Number(/Max open files\s+(\d+)/.exec(fs.readFileSync('/proc/self/limits', 'utf8'))?.[1]);

test('the highest number that can be open is one that a child can have', async () => {
  using file = new File();

  const told = await report({ stdio: 'ignore', fds: [{ source: file.fd, target: limit - 1 }] });

  assert.equal(table(told)[limit - 1], file.file);
  assert.equal(told.fds.length, 4);
});

test('a target beyond the limit of descriptors says EMFILE', () => {
  using file = new File();
  const before = raw.openDescriptors();

  for (const target of [limit, 1_000_000_000]) {
    const start = () => spawn('true', [], { fds: [{ source: file.fd, target }] });
    assert.throws(start, { code: 'EMFILE', fd: file.fd });
  }
  assert.deepEqual(raw.openDescriptors(), before);
});
