/** Drives test/moving/fixtures/server.mjs: starts it, restarts it, and reads what its drains report. */
import { fileURLToPath } from 'node:url';

import type { DrainReport } from '../../lib/drain/drain.js';
import { type Family, type Scope, startServer, type StartOptions } from '../support/fixture.js';

export const FIXTURES: string = fileURLToPath(new URL('../../../test/moving/fixtures/', import.meta.url));

export async function startMoving(
  t: Scope,
  env: Record<string, string> = {},
  options: StartOptions = {},
): Promise<Family> {
  return startServer(t, `${FIXTURES}server.mjs`, { ...options, env });
}

/** Restarts it, and waits until its predecessor has gone. */
export async function restarted(family: Family): Promise<DrainReport> {
  const old = family.newest;
  const from = family.lines.length;
  await family.restart();
  return reportOf(family, old, from);
}

/** What the drain of this process reports; waits for it. */
export async function reportOf(family: Family, pid: number, from = 0): Promise<DrainReport> {
  const line = await family.waitFor(`drained ${pid} `, { from, deadline: 40_000 });
  await family.gone(pid);
  return JSON.parse(line.text.replace(/^drained \d+ /, '')) as DrainReport;
}

/** The addresses behind the first. */
export async function otherAddresses(family: Family): Promise<{ host: string; port: number }[]> {
  const line = await family.waitFor(/^also on /, { from: 0 });
  return line.text
    .split(' ')
    .slice(2)
    .map((text) => {
      const [host = '', port = ''] = text.split(':');
      return { host, port: Number(port) };
    });
}
