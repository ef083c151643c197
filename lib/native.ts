/**
 * The one file that loads the addon: it finds the binary that fits this platform, and says what it has in types.
 * It touches the file system below the package root, and the head of Node's own binary on Linux, where it must choose a C library.
 * Nothing but raw.ts imports it (and spawn.ts and channel/transfer.ts, each for what is of it alone).
 */
import { closeSync, existsSync, openSync, readSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

import { FdpassError } from './errors.js';

/** A socket address as the addon reads and writes it; raw.ts documents it. */
export type NativeAddress =
  | { family: 'IPv4'; address: string; port: number }
  | { family: 'IPv6'; address: string; port: number; scopeId?: number }
  | { family: 'unix'; path: string };

/** An address of vsock(7), which is written and never read. */
export interface NativeVsockAddress {
  family: 'vsock';
  cid: number;
  port: number;
}

/** Credentials of a process: `pid` 0 where it cannot be known. */
export interface NativeCredentials {
  pid: number;
  uid: number;
  gid: number;
}

/** What `describe` says of a descriptor; raw.ts documents it. */
export interface NativeDescription {
  fd: number;
  kind: 'socket' | 'file' | 'directory' | 'pipe' | 'character' | 'block' | 'anonymous' | 'unknown';
  device: bigint;
  inode: bigint;
  closeOnExec: boolean;
  nonBlocking: boolean;
  socket?: {
    domain: 'IPv4' | 'IPv6' | 'unix' | 'vsock' | 'other';
    type: 'stream' | 'dgram' | 'seqpacket' | 'other';
    protocol: number;
    listening: boolean;
    localAddress?: NativeAddress;
    peerAddress?: NativeAddress;
    cookie?: bigint;
    options: {
      reuseAddress?: boolean;
      reusePort?: boolean;
      ipv6Only?: boolean;
      freeBind?: boolean;
      deferAccept?: number;
      fastOpen?: number;
      bindToDevice?: string;
      sendBuffer?: number;
      receiveBuffer?: number;
      keepAlive?: boolean;
      noDelay?: boolean;
      passCredentials?: boolean;
    };
  };
}

/** What `receive` gives: a message, or the news that one was cut and is lost. */
export type NativeMessage =
  | { truncated?: undefined; bytes: Buffer; fds: number[]; credentials?: NativeCredentials; from?: NativeAddress }
  | { truncated: 'rights' | 'bytes'; received: number; limit: number };

/** The watch of the addon: a handle in the event loop. raw.ts wraps it. */
export interface NativeWatch {
  update(events: { readable?: boolean; writable?: boolean; hangUp?: boolean }): void;
  ref(): void;
  unref(): void;
  close(): void;
}

/** How a child is to be started; spawn.ts and native/spawn.cc document it. */
export interface NativeSpawnOptions {
  /** A path, or a name that is looked for in the PATH of `env`. */
  file: string;
  /** argv, with argv[0]. */
  args: string[];
  /** 'NAME=value', each. */
  env: string[];
  cwd?: string;
  /** Which of our descriptors the child has, and as which number; nothing else is open there. */
  fds: { source: number; target: number }[];
  /** Variables whose value the child replaces by its own pid. */
  pidVariable?: string[];
  newSession?: boolean;
  sibling?: boolean;
  /** Go the ways that older kernels need, for tests: no pidfd; fork in place of clone; how descriptors are kept back. */
  fallback?: { pidfd?: false; fork?: true; marking?: 'range' | 'list' | 'each' };
}

/** How a child ended. */
export interface NativeExit {
  exitCode: number | null;
  signal: string | null;
}

/** Everything the addon exports. Each function checks its arguments itself, whatever the types say. */
export interface NativeBinding {
  dup(fd: number, lowest: number): number;
  dupTo(fd: number, target: number): number;
  close(fd: number): void;
  closeAll(fds: readonly number[]): void;
  closeAll(fds: Int32Array, count: number): void;
  getCloseOnExec(fd: number): boolean;
  setCloseOnExec(fd: number, on: boolean): void;
  getNonBlocking(fd: number): boolean;
  setNonBlocking(fd: number, on: boolean): void;
  describe(fd: number): NativeDescription;
  isSame(a: number, b: number): boolean;
  openDescriptors(): { fd: number; target: string }[];

  memoryFile(name: string): number;
  flock(fd: number, operation: string): boolean;

  socket(domain: string, type: string, protocol: number): number;
  socketPair(type: string): [number, number];
  bind(fd: number, address: NativeAddress | NativeVsockAddress): void;
  listen(fd: number, backlog: number): void;
  connect(fd: number, address: NativeAddress | NativeVsockAddress): boolean;
  shutdown(fd: number, how: string): void;
  localAddress(fd: number): NativeAddress;
  peerAddress(fd: number): NativeAddress;
  accept(fd: number): number | undefined;
  getOption(fd: number, name: string): number | string;
  setOption(fd: number, name: string, value: number | boolean | string): void;
  listenQueue(fd: number): { length: number; backlog: number };
  peerCredentials(fd: number): NativeCredentials;

  send(fd: number, bytes: Uint8Array, fds: readonly number[], to: NativeAddress | undefined): number | undefined;
  receive(
    fd: number,
    size: number,
    credentials: boolean | undefined,
    from: boolean | undefined,
  ): NativeMessage | undefined;

  transfer(fd: number, bytes: Uint8Array, start: number, end: number, fds: Int32Array, count: number): number;
  receiveMany(fd: number, bytes: Uint8Array, fds: Int32Array, ends: Int32Array, least: number, most: number): void;
  systemError(error: number, syscall: string, what: string, fd: number): Error;

  Watch: new (
    fd: number,
    events: { readable?: boolean; writable?: boolean },
    callback: (events: { readable: boolean; writable: boolean; error: boolean }) => void,
  ) => NativeWatch;

  pidfdOpen(pid: number): number;
  peerPidfd(fd: number): number;
  pidfdSignal(pidfd: number, signal: number): void;

  spawnProcess(options: NativeSpawnOptions): { pid: number; pidfd: number | undefined };
  reap(pid: number, descriptor?: number): NativeExit | undefined;
  hasEnded(pid: number, descriptor?: number): boolean;
  watchExit(pid: number): number;
  launchActivateSocket(name: string): number[];
}

/** What node-gyp-build is: a function from a package root to what its binary exports, and to that binary's path. */
interface NodeGypBuild {
  (root: string): unknown;
  resolve(root: string): string;
}

const require = createRequire(import.meta.url);

/** The addon. Loaded at import; that throws {@link FdpassError} `ERR_FDPASS_PLATFORM` where there is none that fits. */
export const native: NativeBinding = load(packageRoot());

/** The nearest directory above this file that has a package.json: from lib/ and from dist/lib/ alike. */
function packageRoot(): string {
  let directory = dirname(fileURLToPath(import.meta.url));
  while (!existsSync(join(directory, 'package.json'))) {
    const parent = dirname(directory);
    if (parent === directory) break;
    directory = parent;
  }
  return directory;
}

function load(root: string): NativeBinding {
  if (process.platform !== 'linux' && process.platform !== 'darwin') {
    throw new FdpassError('ERR_FDPASS_PLATFORM', `fdpass runs on Linux and macOS, not on ${process.platform}`);
  }
  const prebuilds = join(root, 'prebuilds', `${process.platform}-${process.arch}`);
  const libc = process.platform === 'linux' && existsSync(prebuilds) ? cLibrary() : undefined;
  try {
    const binary = knownBinary(root, prebuilds, libc) ?? binaryPath(root, libc);
    return require(binary) as NativeBinding;
  } catch (cause) {
    const libcName = process.platform === 'linux' ? `-${libc ?? cLibrary()}` : '';
    const wanted = `${process.platform}-${process.arch}${libcName}, Node ${process.versions.node}`;
    const command = `npm --prefix ${/^[\w./@+-]+$/.test(root) ? root : `'${root}'`} run build:native`;
    const message = `There is no binary of fdpass that loads here (${wanted}); to build it, run "${command}"`;
    throw new FdpassError('ERR_FDPASS_PLATFORM', message, { cause });
  }
}

/**
 * What node-gyp-build finds in nearly every case: a build of one's own, or the prebuilt binary of the name that ours have. To load it
 * and let it look takes 3 ms of every start. Undefined: ask it, also where the user's environment tells it what to take.
 */
function knownBinary(root: string, prebuilds: string, libc: string | undefined): string | undefined {
  if (process.env['LIBC'] !== undefined || process.env['PREBUILDS_ONLY'] !== undefined) return undefined;
  const prebuilt = libc === undefined ? 'fdpass.node' : `fdpass.${libc}.node`;
  return [join(root, 'build/Release/fdpass.node'), join(prebuilds, prebuilt)].find((file) => existsSync(file));
}

/**
 * The path of the binary, as node-gyp-build finds it. That decides between glibc and musl by /etc/alpine-release alone,
 * or by LIBC, and only once, when it is loaded: so it is loaded afresh with LIBC set to what is really there, and
 * whoever else uses it in this process keeps his own.
 */
function binaryPath(root: string, libc: string | undefined): string {
  if (libc === undefined || process.env['LIBC'] !== undefined) {
    return (require('node-gyp-build') as NodeGypBuild).resolve(root);
  }
  const files = [
    require.resolve('node-gyp-build'),
    join(dirname(require.resolve('node-gyp-build')), 'node-gyp-build.js'),
  ];
  const cached = files.map((file) => require.cache[file]);
  for (const file of files) Reflect.deleteProperty(require.cache, file);
  process.env['LIBC'] = libc;
  try {
    return (require('node-gyp-build') as NodeGypBuild).resolve(root);
  } finally {
    delete process.env['LIBC'];
    files.forEach((file, index) => {
      Reflect.deleteProperty(require.cache, file);
      if (cached[index] !== undefined) require.cache[file] = cached[index];
    });
  }
}

/**
 * Which C library this Node was linked with. Its binary names it: the dynamic linker stands in the first page, elf(5), as in
 * /lib64/ld-linux-x86-64.so.2 or /lib/ld-musl-x86_64.so.1. Node's report says it too, and takes 4 ms and more of every start.
 */
function cLibrary(): 'glibc' | 'musl' {
  const linker = /\/ld-(linux|musl)-[\w-]+\.so\.\d\0/.exec(headOf(process.execPath))?.[1];
  if (linker === undefined) return cLibraryInReport();
  return linker === 'musl' ? 'musl' : 'glibc';
}

/** The first page of a file, a character a byte; '' where it cannot be read. */
function headOf(file: string): string {
  let fd: number | undefined;
  try {
    fd = openSync(file, 'r');
    const bytes = Buffer.alloc(4096);
    return bytes.toString('latin1', 0, readSync(fd, bytes, 0, bytes.length, 0));
  } catch {
    return '';
  } finally {
    if (fd !== undefined) closeSync(fd);
  }
}

/** The report names the version of glibc, and nothing where it is musl. */
function cLibraryInReport(): 'glibc' | 'musl' {
  const report = process.report as NodeJS.ProcessReport & { excludeNetwork?: boolean };
  const before = report.excludeNetwork;
  report.excludeNetwork = true; // Node 22 and later: no look-up of names for every open socket
  try {
    const { header } = report.getReport() as { header: { glibcVersionRuntime?: string } };
    return header.glibcVersionRuntime === undefined ? 'musl' : 'glibc';
  } finally {
    if (before !== undefined) report.excludeNetwork = before;
    else Reflect.deleteProperty(report, 'excludeNetwork');
  }
}
