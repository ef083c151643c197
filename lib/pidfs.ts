/**
 * The identity of a process that no later one has, though pids are used again: the inode of its pidfd, where the kernel keeps one for as
 * long as the process lives. Opens a pidfd and closes it. Source: pidfd_open(2); pidfs, Linux 6.9.
 */
import fs from 'node:fs';

import * as raw from './raw.js';

const PIDFS_MAGIC = 0x50494446; // linux/magic.h

/** Undefined where there is none: an older kernel, another system, no such process. Then the pid alone must do, as in libsystemd. */
export function pidfdId(pid: number): string | undefined {
  let fd: number;
  try {
    fd = raw.pidfdOpen(pid);
  } catch {
    return undefined;
  }
  try {
    const { type } = fs.statfsSync(`/proc/self/fd/${fd}`);
    return type === PIDFS_MAGIC ? String(raw.describe(fd).inode) : undefined;
  } catch {
    return undefined; // no /proc here
  } finally {
    raw.close(fd);
  }
}
