/**
 * Whether the exit of this process would end the service: who watches its pid, and what to use instead.
 * Pure but for the last function, which looks at this process. Source: the manuals of the supervisors, systemd.exec(5), docs/supervisors.md.
 */
import cluster from 'node:cluster';
import fs from 'node:fs';

import { FdpassError } from './errors.js';

/** What there is to see of who watches this process. */
export interface Surroundings {
  pid: number;
  isClusterWorker: boolean;
  environment: Readonly<Record<string, string | undefined>>;
  /** The name of the program at this process's parent, where that is pid 1; else undefined. */
  init: string | undefined;
}

/** Inits of containers that end with the one child that they started. */
const CONTAINER_INITS = ['tini', 'docker-init', 'dumb-init', 'catatonit', 'podman-init', 'pod-init'];

/**
 * Why a restart by handoff would end the service here.
 *
 * @returns A sentence with what to use instead; undefined where nothing speaks against it.
 */
export function whySupervised({ pid, isClusterWorker, environment, init }: Surroundings): string | undefined {
  if (isClusterWorker) {
    return 'it is a cluster worker, and the primary owns the socket: restart by handoff in the primary, or do without cluster';
  }
  if (pid === 1) {
    return (
      'it is pid 1, and its exit ends the container: start the new one as a container of its own, or run a supervisor that ' +
      'follows a changing pid as pid 1'
    );
  }
  if (environment['pm_id'] !== undefined && environment['PM2_HOME'] !== undefined) {
    return 'PM2 starts it anew when it exits: use `pm2 reload`, or start it without PM2';
  }
  if (environment['SUPERVISOR_ENABLED'] !== undefined) {
    return 'supervisord starts it anew when it exits: run it under systemd (Type=notify), or without a supervisor';
  }
  if (init !== undefined && CONTAINER_INITS.includes(init)) {
    return `its parent ${init} is pid 1 and ends the container with it: start the new one as a container of its own`;
  }
  if (environment['SYSTEMD_EXEC_PID'] === String(pid) && environment['NOTIFY_SOCKET'] === undefined) {
    return 'it is the main process of a systemd unit that does not hear of a successor: set Type=notify in the unit';
  }
  return undefined;
}

/** Refuses what would end the service: `ERR_FDPASS_SUPERVISED`. */
export function assertNotSupervised(): void {
  const why = whySupervised({
    pid: process.pid,
    isClusterWorker: cluster.isWorker,
    environment: process.env,
    init: process.ppid === 1 ? nameOfInit() : undefined,
  });
  if (why === undefined) return;
  const message = `A restart by handoff ends with the exit of this process (pid ${process.pid}), and ${why}`;
  throw new FdpassError('ERR_FDPASS_SUPERVISED', message);
}

function nameOfInit(): string | undefined {
  try {
    return fs.readFileSync('/proc/1/comm', 'utf8').trim();
  } catch {
    return undefined; // no /proc, or not ours to read
  }
}
