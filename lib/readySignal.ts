/**
 * By what a child says that it is ready where its convention has a word for it: the pipe of tableflip, the acknowledgement of einhorn.
 * Owns the descriptors of both sides until the child has its own, then ours. Keeps no process alive: the Child does.
 * Source: cloudflare/tableflip, child.go; contribsys/einhorn, lib/einhorn/client.rb; unix(7).
 */
import fs from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';

import { isAcknowledgement } from './conventions/einhorn.js';
import { READY } from './conventions/tableflip.js';
import { Deferred } from './deferred.js';
import { FdpassError } from './errors.js';
import * as raw from './raw.js';

/** What may come before the line is whole, bytes: more is no acknowledgement. */
const MAX_LINE = 4_096;

/** The word of a child. */
export interface ReadySignal {
  /** Resolves when the child is ready; rejects with `ERR_FDPASS_SUCCESSOR_EXITED` when it never will be. That nobody waits is no error. */
  readonly ready: Promise<void>;
  /** The child runs: what is its own is closed here. */
  started(pid: number): void;
  /** The child has ended: what it has said is read, and all is closed. Also where it could not be started. */
  close(): void;
}

function never(): FdpassError {
  return new FdpassError(
    'ERR_FDPASS_SUCCESSOR_EXITED',
    'The child ended, or closed its pipe, before it said that it is ready',
  );
}

/**
 * The two pipes of tableflip, as two pairs of sockets: read and write and the end are the same.
 *
 * @param names - What is there to read for the child.
 * @returns The ends of the child, which are the signal's until `started`.
 * @throws {@link FdpassError} `ERR_FDPASS_LIMIT`: the names do not fit.
 */
export function tableflipPipes(names: Buffer): { signal: ReadySignal; ready: number; names: number } {
  const ours: number[] = [];
  const theirs: number[] = [];
  const closeAll = (fds: number[]): void => {
    for (const fd of fds.splice(0)) raw.close(fd);
  };
  const pair = (): [number, number] => {
    const [our, their] = raw.socketPair('stream');
    ours.push(our);
    theirs.push(their);
    raw.setNonBlocking(their, false);
    return [our, their];
  };
  try {
    const [readyHere, readyThere] = pair();
    const [namesHere, namesThere] = pair();
    const sent = names.length === 0 ? 0 : raw.send(namesHere, names);
    if (sent !== names.length) {
      const message = `The names of the descriptors have ${names.length} bytes, and the pipe of tableflip takes ${sent ?? 0}`;
      throw new FdpassError('ERR_FDPASS_LIMIT', message);
    }
    const word = new Deferred<void>();
    let watch: raw.Watch | undefined;
    const look = (isOver: boolean): void => {
      const message = raw.receive(readyHere, 64);
      if (message === undefined && !isOver) return;
      watch?.close();
      watch = undefined;
      for (const fd of message?.fds ?? []) raw.close(fd);
      if (message?.bytes[0] === READY) word.resolve();
      else word.reject(never());
    };
    const signal: ReadySignal = {
      ready: word.promise,
      started: () => {
        closeAll(theirs);
        watch = raw.watch(readyHere, { readable: true }, () => {
          look(false);
        });
        watch.unref();
      },
      close: () => {
        if (watch !== undefined) look(true);
        word.reject(never());
        closeAll(theirs);
        closeAll(ours);
      },
    };
    return { signal, ready: readyThere, names: namesThere };
  } catch (error) {
    closeAll(theirs);
    closeAll(ours);
    throw error;
  }
}

/** Listens at a path of its own, as the master of einhorn does, for the line that says that the worker is up. */
export function listenForAcknowledgement(): { signal: ReadySignal; path: string } {
  const folder = fs.mkdtempSync(path.join(tmpdir(), 'fdpass-einhorn-')); // 0700: nobody else gets there
  const socket = path.join(folder, 'einhorn.sock');
  const server = raw.socket('unix', 'stream');
  try {
    raw.bind(server, { family: 'unix', path: socket });
    raw.listen(server, 16);
  } catch (error) {
    raw.close(server);
    fs.rmSync(folder, { recursive: true, force: true });
    throw error;
  }
  const word = new Deferred<void>();
  const open = new Map<number, { watch: raw.Watch; text: string }>();
  let pid: number | undefined;
  let watch: raw.Watch | undefined;

  const drop = (fd: number): void => {
    open.get(fd)?.watch.close();
    open.delete(fd);
    raw.close(fd);
  };
  const read = (fd: number): void => {
    const connection = open.get(fd);
    const message = receive(fd);
    if (connection === undefined || message === undefined) return;
    for (const each of message.fds) raw.close(each);
    connection.text += message.bytes.toString();
    const lines = connection.text.split('\n');
    if (pid !== undefined && lines.some((line) => isAcknowledgement(line, pid ?? 0))) word.resolve();
    if (message.bytes.length === 0 || connection.text.length > MAX_LINE) drop(fd);
  };
  const accept = (): void => {
    for (let fd = raw.accept(server); fd !== undefined; fd = raw.accept(server)) {
      const connection = fd;
      const watching = raw.watch(connection, { readable: true }, () => {
        read(connection);
      });
      watching.unref();
      open.set(connection, { watch: watching, text: '' });
      read(connection);
    }
  };
  const signal: ReadySignal = {
    ready: word.promise,
    started: (child) => {
      pid = child;
      watch = raw.watch(server, { readable: true }, accept);
      watch.unref();
    },
    close: () => {
      if (watch !== undefined) {
        accept(); // it may have said so with its last breath
        for (const fd of open.keys()) read(fd);
      }
      watch?.close();
      watch = undefined;
      for (const fd of [...open.keys()]) drop(fd);
      word.reject(never());
      raw.close(server);
      fs.rmSync(folder, { recursive: true, force: true });
    },
  };
  return { signal, path: socket };
}

/** The end of the stream where the other side is gone. */
function receive(fd: number): Pick<raw.Message, 'bytes' | 'fds'> | undefined {
  try {
    return raw.receive(fd, MAX_LINE);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ECONNRESET') return { bytes: Buffer.alloc(0), fds: [] };
    throw error;
  }
}
