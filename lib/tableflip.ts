/**
 * This process as the child of a tableflip program: reads the names of what it was given, says when it is ready, sees the parent's end.
 * Owns the two pipes that come at 3 and 4. Waits for the names without the event loop, for 5 s at most: they are written at once.
 * Source: cloudflare/tableflip, parent.go and child.go.
 */
import fs from 'node:fs';

import type { Environment, NamedDescriptor } from './conventions/convention.js';
import { NAMES_PIPE, READY, READY_PIPE, readTableflip, readTableflipNames } from './conventions/tableflip.js';
import { FdpassError } from './errors.js';
import * as raw from './raw.js';

/** How long the names may take, ms, and how often they are looked for: nothing can be awaited yet. */
const NAMES_TIMEOUT = 5_000;
const LOOK = 2;

/** The process that started this one, and waits for its word. */
export interface TableflipParent {
  readonly descriptors: NamedDescriptor[];
  /** Resolves when the parent has ended. */
  readonly ended: Promise<void>;
  /** This process serves: the parent may stop. Once. */
  tellReady(): void;
  /** It will not: the parent goes on. */
  close(): void;
}

/**
 * The parent, where it is tableflip.
 *
 * @throws FdpassError `ERR_FDPASS_ENV`; `ERR_FDPASS_BADFD`: a pipe is missing; `ERR_FDPASS_PROTOCOL`: the names did not come, or are
 * something else.
 */
export function adoptTableflip(environment: Environment): TableflipParent | undefined {
  if (!readTableflip(environment)) return undefined;
  for (const fd of [READY_PIPE, NAMES_PIPE]) checkPipe(fd);
  for (const fd of [READY_PIPE, NAMES_PIPE]) raw.setCloseOnExec(fd, true);
  const descriptors = readNames();
  let resolve: () => void = () => undefined;
  const ended = new Promise<void>((settle) => (resolve = settle));
  let ready: number | undefined = READY_PIPE;
  const closeReady = (): void => {
    const fd = ready;
    ready = undefined;
    if (fd !== undefined) raw.close(fd);
  };
  const closeNames = (): void => {
    watch.close();
    raw.close(NAMES_PIPE);
  };
  let watching = true;
  const watch = raw.watch(NAMES_PIPE, { readable: true }, () => {
    if (readSome(Buffer.alloc(64)) !== 0) return;
    watching = false;
    closeNames();
    resolve();
  });
  watch.unref();
  return {
    descriptors,
    ended,
    tellReady: () => {
      if (ready === undefined) return;
      try {
        fs.writeSync(ready, Buffer.from([READY]));
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code !== 'EPIPE') throw error; // it has ended: nobody waits
      } finally {
        closeReady();
      }
    },
    close: () => {
      closeReady();
      if (watching) closeNames();
      watching = false;
    },
  };
}

function checkPipe(fd: number): void {
  let kind: string;
  try {
    ({ kind } = raw.describe(fd));
  } catch (error) {
    throw missing(fd, 'it is not open', error);
  }
  if (kind !== 'pipe' && kind !== 'socket') throw missing(fd, `a ${kind} is there`);
}

function missing(fd: number, why: string, cause?: unknown): FdpassError {
  const message = `TABLEFLIP_HAS_PARENT_7DIU3 is set, and descriptor ${fd} is not the pipe of tableflip: ${why}`;
  return new FdpassError('ERR_FDPASS_BADFD', message, { fd, cause });
}

function readNames(): NamedDescriptor[] {
  raw.setNonBlocking(NAMES_PIPE, true);
  const deadline = performance.now() + NAMES_TIMEOUT;
  const chunk = Buffer.alloc(65_536);
  let bytes = Buffer.alloc(0);
  for (;;) {
    const length = readSome(chunk);
    if (length === 0) throw silent('it ended before');
    if (length !== undefined) {
      bytes = Buffer.concat([bytes, chunk.subarray(0, length)]);
      const names = readTableflipNames(bytes);
      if (names !== undefined) return names;
    } else if (performance.now() > deadline) {
      throw silent(`nothing came for ${NAMES_TIMEOUT} ms`);
    } else {
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, LOOK); // the event loop has not begun to turn
    }
  }
}

/** How many bytes came, 0 at the end; undefined: nothing for now. */
function readSome(into: Buffer): number | undefined {
  try {
    return fs.readSync(NAMES_PIPE, into);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EAGAIN') return undefined;
    throw error;
  }
}

function silent(why: string): FdpassError {
  return new FdpassError('ERR_FDPASS_PROTOCOL', `tableflip did not say what its descriptors are called: ${why}`);
}
