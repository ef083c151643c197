/** Children that cannot be started: the error says which call failed and why, at once, and nothing is left behind. */
import assert from 'node:assert/strict';
import os from 'node:os';
import fs from 'node:fs';
import path from 'node:path';
import { test } from 'node:test';

import { spawn, spawnBy, type SpawnDescriptor, type SpawnOptions } from '../../lib/spawn.js';
import * as raw from '../../lib/raw.js';
import { auditDescriptors, zombiesOf } from '../support/audit.js';
import { directory, File, reporter, WAYS } from './support.js';

interface Refusal {
  file: string;
  args?: string[];
  options?: SpawnOptions;
  code: string;
  syscall: string;
  says?: RegExp;
  path?: string;
}

function write(name: string, text: string, mode: number): string {
  const file = path.join(directory, name);
  fs.writeFileSync(file, text, { mode });
  return file;
}

const tools = path.join(directory, 'tools');
fs.mkdirSync(path.join(tools, 'program'), { recursive: true });
const script = write('script', '#!/nothing/sh\n', 0o755);
const denied = path.join(directory, 'denied');
fs.mkdirSync(denied);
write('denied/program', '#!/bin/sh\n', 0o644);

const REFUSALS: Record<string, Refusal> = {
  'a file that is not there': { file: '/nothing', code: 'ENOENT', syscall: 'execve', path: '/nothing' },
  'a name that PATH does not have': { file: 'nothing', code: 'ENOENT', syscall: 'execve', says: /searched in PATH/ },
  'no name at all': { file: '', code: 'ENOENT', syscall: 'execve' },
  'an empty PATH': { file: 'sh', options: { env: { PATH: '' }, cwd: tools }, code: 'ENOENT', syscall: 'execve' },
  'a file that is not executable': { file: write('plain', '', 0o644), code: 'EACCES', syscall: 'execve' },
  'a directory': { file: directory, code: 'EACCES', syscall: 'execve' },
  'something below a file': { file: `${script}/x`, code: 'ENOTDIR', syscall: 'execve' },
  'one that PATH has, but not executable, and later not': {
    file: 'program',
    options: { env: { PATH: `/nothing:${denied}:${tools}:/nothing` } },
    code: 'EACCES',
    syscall: 'execve',
  },
  'a script without its interpreter': { file: script, code: 'ENOENT', syscall: 'execve', says: /interpreter/ },
  'a file of no known format': {
    file: write('text', 'exit 0\n', 0o755),
    code: 'ENOEXEC',
    syscall: 'execve',
    says: /#!/,
  },
  'a link to itself': { file: path.join(directory, 'loop'), code: 'ELOOP', syscall: 'execve' },
  'a name that is too long': { file: 'x'.repeat(300), code: 'ENAMETOOLONG', syscall: 'execve' },
  'a path that is too long': { file: '/x'.repeat(3000), code: 'ENAMETOOLONG', syscall: 'execve' },
  'arguments that are too many': {
    file: 'true',
    args: new Array<string>(100).fill('x'.repeat(100_000)),
    code: 'E2BIG',
    syscall: 'execve',
    says: /\d{7,} bytes/,
  },
  'a working directory that is not there': {
    file: 'true',
    options: { cwd: '/nothing' },
    code: 'ENOENT',
    syscall: 'chdir',
    path: '/nothing',
  },
  'a working directory that is a file': { file: 'true', options: { cwd: script }, code: 'ENOTDIR', syscall: 'chdir' },
};
fs.symlinkSync('loop', path.join(directory, 'loop'));

for (const [way, fallback] of WAYS) {
  for (const [name, refusal] of Object.entries(REFUSALS)) {
    test(`${way}: ${name} is ${refusal.code} of ${refusal.syscall}, at once, and leaves nothing`, () => {
      using file = new File();
      const before = auditDescriptors();
      const started = performance.now();
      const { args, options, code, syscall, says = /./, path: where } = refusal;

      const start = () => spawnBy(fallback, refusal.file, args, { fds: [file], stdio: 'pipe', ...options });

      const errno = -(os.constants.errno as Record<string, number>)[code]!;
      assert.throws(start, { code, syscall, errno, message: says, ...(where === undefined ? {} : { path: where }) });
      assert.ok(performance.now() - started < 1000);
      assert.deepEqual(auditDescriptors(), before);
      assert.deepEqual(zombiesOf(process.pid), []);
    });
  }
}

test('the first of PATH that runs is taken, whatever stands before it', async () => {
  fs.mkdirSync(path.join(directory, 'good'));
  fs.copyFileSync(reporter(), path.join(directory, 'good', 'program'));
  const PATH = `/nothing:${script}:${denied}:${tools}:${path.join(directory, 'good')}:`;

  const child = spawn('program', [path.join(directory, 'first')], { env: { PATH } });

  assert.deepEqual(await child.exited, { exitCode: 0, signal: null });
});

const file = new File();
const closed = new File(900);
closed[Symbol.dispose]();

const WRONG: Record<string, { options: Record<string, unknown>; code: string; fd?: number; says: RegExp }> = {
  'a name with a colon': { options: { names: ['a:b'] }, code: 'ERR_FDPASS_NAMES', says: /a:b/ },
  'a name with a control character': { options: { names: ['a\nb'] }, code: 'ERR_FDPASS_NAMES', says: /a\\nb/ },
  'a name with a backslash': { options: { names: ['a\\b'] }, code: 'ERR_FDPASS_NAMES', says: /a\\\\b/ },
  'a name that is not ASCII': { options: { names: ['ü'] }, code: 'ERR_FDPASS_NAMES', says: /ü/ },
  'a name of 256 characters': { options: { names: ['x'.repeat(256)] }, code: 'ERR_FDPASS_NAMES', says: /255/ },
  'a bad name of a listener': { options: { fds: [{ fd: file.fd, name: ':' }] }, code: 'ERR_FDPASS_NAMES', says: /":"/ },
  'more names than descriptors': { options: { names: ['a', 'b'] }, code: 'ERR_FDPASS_NAMES', says: /2 name.*fd 3/ },
  'names without descriptors': { options: { fds: [], names: ['a'] }, code: 'ERR_FDPASS_NAMES', says: /no descriptor/ },
  'names that begin behind a gap': {
    options: { fds: [{ source: file.fd, target: 4 }], names: ['a'] },
    code: 'ERR_FDPASS_NAMES',
    says: /no descriptor at fd 3/,
  },
  'names without a convention': {
    options: { names: ['a'], convention: 'none' },
    code: 'ERR_FDPASS_NAMES',
    says: /none/,
  },
  'a descriptor that is not open': {
    options: { fds: [file, closed.fd] },
    code: 'ERR_FDPASS_BADFD',
    fd: closed.fd,
    says: new RegExp(`fds\\[1\\]: fd ${closed.fd} is not open`),
  },
  'a negative descriptor': { options: { fds: [-1] }, code: 'ERR_FDPASS_BADFD', fd: -1, says: /-1/ },
  'half a descriptor': { options: { fds: [3.5] }, code: 'ERR_FDPASS_BADFD', fd: 3.5, says: /3\.5/ },
  'a negative target': {
    options: { fds: [{ source: file.fd, target: -3 }] },
    code: 'ERR_FDPASS_BADFD',
    fd: -3,
    says: /-3/,
  },
  'a target twice': {
    options: { fds: [file, { source: file.fd, target: 3 }] },
    code: 'ERR_FDPASS_BADFD',
    fd: 3,
    says: /given twice/,
  },
  'a stdio that is not open': {
    options: { stdio: ['ignore', closed.fd, 'pipe'] },
    code: 'ERR_FDPASS_BADFD',
    fd: closed.fd,
    says: /stdio\[1\]/,
  },
  'an unknown stdio': { options: { stdio: 'ipc' }, code: 'ERR_INVALID_ARG_VALUE', says: /stdio/ },
  'a stdio of two': { options: { stdio: ['pipe', 'pipe'] }, code: 'ERR_INVALID_ARG_VALUE', says: /stdio/ },
  'a variable with an = in its name': { options: { env: { 'A=B': '1' } }, code: 'ERR_INVALID_ARG_VALUE', says: /A=B/ },
  'a variable with a NUL': { options: { env: { A: '\0' } }, code: 'ERR_INVALID_ARG_VALUE', says: /"A"/ },
  'a working directory with a NUL': {
    options: { cwd: 'a\0b', stdio: 'pipe' },
    code: 'ERR_INVALID_ARG_VALUE',
    says: /cwd/,
  },
  'an argv0 with a NUL': {
    options: { argv0: 'a\0b', stdio: 'pipe' },
    code: 'ERR_INVALID_ARG_VALUE',
    says: /args\[0\]/,
  },
  'a working directory that is no string': {
    options: { cwd: 1, stdio: 'pipe' },
    code: 'ERR_INVALID_ARG_TYPE',
    says: /cwd/,
  },
};

for (const [name, { options, code, fd, says }] of Object.entries(WRONG)) {
  test(`${name} is refused with ${code} before anything has changed`, () => {
    const before = auditDescriptors();
    const fds: SpawnDescriptor[] = [file];

    const start = () => spawn('true', [], { convention: 'systemd', fds, ...options });

    assert.throws(start, { code, message: says, ...(fd === undefined ? {} : { fd }) });
    assert.deepEqual(auditDescriptors(), before);
  });
}

test('the raw operation checks its arguments, and names them', () => {
  const good = { file: 'true', args: ['true'], env: [], fds: [] };
  for (const [bad, code, says] of [
    [{ args: [1] }, 'ERR_INVALID_ARG_TYPE', /args\[0\]/],
    [{ env: 'A=1' }, 'ERR_INVALID_ARG_TYPE', /env/],
    [{ fds: [{ source: 0 }] }, 'ERR_INVALID_ARG_TYPE', /fds\[0\]\.target/],
    [{ fds: [{ source: -1, target: 0 }] }, 'ERR_OUT_OF_RANGE', /fds\[0\]\.source/],
    [
      {
        fds: [
          { source: 0, target: 4 },
          { source: 1, target: 4 },
        ],
      },
      'ERR_INVALID_ARG_VALUE',
      /fds\[1\]\.target/,
    ],
    [{ file: 'a\0b' }, 'ERR_INVALID_ARG_VALUE', /file/],
    [{ newSession: 1 }, 'ERR_INVALID_ARG_TYPE', /newSession/],
    [{ pidVariable: 'X' }, 'ERR_INVALID_ARG_TYPE', /pidVariable/],
    [{ fds: [{ source: closed.fd, target: 4 }] }, 'EBADF', new RegExp(`fd ${closed.fd} as fd 4`)],
  ] as const) {
    assert.throws(() => raw.spawnProcess({ ...good, ...bad } as never), { code, message: says });
  }
  assert.throws(() => raw.reap(process.pid), { code: 'ECHILD', syscall: 'waitid' });
  assert.throws(() => raw.watchExit(process.pid, () => undefined), { code: 'ECHILD', syscall: 'waitid' });
});

test('a signal that was aborted before starts nothing', () => {
  const before = auditDescriptors();
  const reason = new Error('why');

  const start = () => spawn('true', [], { signal: AbortSignal.abort(reason), stdio: 'pipe' });

  assert.throws(start, { name: 'AbortError', code: 'ABORT_ERR', cause: reason });
  assert.deepEqual(auditDescriptors(), before);
});

test('no room for descriptors in this process: EMFILE, and nothing is left', () => {
  const many: number[] = [];
  const before = auditDescriptors().length;
  try {
    for (;;) many.push(raw.dup(file.fd));
  } catch (error) {
    assert.equal((error as NodeJS.ErrnoException).code, 'EMFILE');
  }
  try {
    for (let free = 0; free < 8; free++) {
      assert.throws(
        () => spawn('/nothing', [], { stdio: 'pipe' }),
        (error: NodeJS.ErrnoException) => {
          return error.code === 'EMFILE' || error.code === 'ENOENT';
        },
      );
      raw.close(many.pop() ?? -1);
    }
  } finally {
    for (const fd of many) raw.close(fd);
  }
  assert.equal(auditDescriptors().length, before);
});
