/**
 * What the tests of notifications share: a receiver in Python that knows nothing of fdpass, senders in Python, programs that are run.
 * Starts processes, and ends them with the test.
 */
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { text } from 'node:stream/consumers';
import type { TestContext } from 'node:test';

import * as raw from '../../lib/raw.js';

/** For `skip`: what is missing here. */
export const skipUnlessLinux: string | false = process.platform === 'linux' ? false : 'Linux alone';
export const skipWithoutPython: string | false =
  skipUnlessLinux || (spawnSync('python3', ['--version']).status === 0 ? false : 'python3 is not installed');
export const skipWithoutSystemdNotify: string | false =
  skipUnlessLinux ||
  (spawnSync('systemd-notify', ['--version']).status === 0
    ? false
    : 'systemd-notify (package systemd) is not installed');

/** The open descriptors of this process, one a line. What Node opens lazily is open when it is called for the first time. */
export function openList(): string[] {
  return raw.openDescriptors().map(({ fd, target }) => `${fd} ${target}`);
}

/** How a program ended, and what it said. */
export interface Outcome {
  code: number | null;
  signal: NodeJS.Signals | null;
  stdout: string;
  stderr: string;
}

/** Runs a program to its end; killed with the test. */
export async function run(
  t: TestContext,
  file: string,
  args: readonly string[],
  env: Record<string, string> = {},
): Promise<Outcome> {
  const own = { ...process.env };
  delete own['NODE_TEST_CONTEXT'];
  const child = spawn(file, args, { env: { ...own, ...env }, stdio: ['ignore', 'pipe', 'pipe'] });
  t.after(() => child.kill('SIGKILL'));
  const [stdout, stderr] = await Promise.all([text(child.stdout), text(child.stderr), once(child, 'close')]);
  return { code: child.exitCode, signal: child.signalCode, stdout, stderr };
}

/** Runs a script in Python; it finds the arguments in sys.argv. */
export function python(t: TestContext, script: string, ...args: string[]): Promise<Outcome> {
  return run(t, 'python3', ['-c', script, ...args]);
}

/** Runs a module in a fresh Node, with everything of fdpass as `fdpass`. */
export function node(t: TestContext, script: string, env: Record<string, string> = {}): Promise<Outcome> {
  const index = JSON.stringify(new URL('../../lib/', import.meta.url).href);
  const module =
    `const load = (file) => import(${index} + file);\n` +
    `const { notify } = await load('notify.js');\nconst raw = await load('raw.js');\n${script}`;
  return run(t, process.execPath, ['--input-type=module', '-e', module], env);
}

/** What the receiver in Python saw of one datagram. */
export interface Seen {
  text: string;
  pid: number;
  uid: number;
  fds: number;
}

const RECEIVER = `
import array, json, socket, struct, sys
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
name = sys.argv[1]
s.bind('\\0' + name[1:] if name[0] == '@' else name)
print('bound', flush=True)
for _ in range(int(sys.argv[2])):
    data, control, flags, _ = s.recvmsg(8192, socket.CMSG_SPACE(12) + socket.CMSG_SPACE(253 * 4))
    pid = uid = -1
    fds = array.array('i')
    for level, kind, bytes in control:
        if kind == socket.SCM_CREDENTIALS: pid, uid, _ = struct.unpack('3i', bytes)
        if kind == socket.SCM_RIGHTS: fds.frombytes(bytes)
    print(json.dumps({'text': data.decode(), 'pid': pid, 'uid': uid, 'fds': len(fds)}), flush=True)
`;

/** A receiver in Python for so many messages: resolves once it is bound. */
export async function receiver(t: TestContext, address: string, count: number): Promise<{ seen: Promise<Seen[]> }> {
  const child = spawn('python3', ['-c', RECEIVER, address, String(count)], { stdio: ['ignore', 'pipe', 'inherit'] });
  t.after(() => child.kill('SIGKILL'));
  const lines: string[] = [];
  let rest = '';
  let bound: () => void = () => undefined;
  const isBound = new Promise<void>((resolve) => (bound = resolve));
  const seen = new Promise<Seen[]>((resolve) => {
    child.stdout.on('data', (chunk: Buffer) => {
      const parts = (rest + chunk.toString()).split('\n');
      rest = parts.pop() ?? '';
      lines.push(...parts);
      if (lines.length > 0) bound();
    });
    child.stdout.on('end', () => resolve(lines.slice(1).map((line) => JSON.parse(line) as Seen)));
  });
  await isBound;
  return { seen };
}
