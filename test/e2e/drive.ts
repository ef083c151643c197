/** Drives test/e2e/fixtures/server.mjs: asks it for a handoff, and looks at what it and its successor hold. */
import assert from 'node:assert/strict';
import { fileURLToPath } from 'node:url';

import { inheritableDescriptors, zombiesOf } from '../support/audit.js';
import { Connection, get } from '../support/client.js';
import { type Family, type Scope, startProcess, startServer, type StartOptions } from '../support/fixture.js';

/** Fixtures are plain scripts: they stand in the source tree. */
export const FIXTURES: string = fileURLToPath(new URL('../../../test/e2e/fixtures/', import.meta.url));

/** What the fixture says of a handoff. `code` where it failed. */
export interface Outcome {
  pid?: number;
  generation?: number;
  name?: string;
  code?: string;
  message?: string;
  phase?: string;
  successor?: { pid?: number; exitCode: number | null; signal: string | null };
}

export async function startDriven(t: Scope, options: StartOptions = {}): Promise<Family> {
  return startServer(t, `${FIXTURES}server.mjs`, options);
}

/**
 * Starts a server that takes over at the path from whoever offers there, or is the first, and offers there itself. It is no child of
 * the one it takes over from: a family of its own.
 */
export async function startTaking(t: Scope, file: string, options: StartOptions = {}): Promise<Family> {
  return startDriven(t, { ...options, env: { TAKEOVER: file, ...options.env } });
}

/** The same, and waits for nothing: where it is to fail. */
export function startTaker(t: Scope, file: string, options: StartOptions = {}): Family {
  return startProcess(t, `${FIXTURES}server.mjs`, { ...options, env: { TAKEOVER: file, ...options.env } });
}

/** Asks the process that answers at `address` for a handoff, and waits for its outcome. */
export async function askHandoff(
  family: Family,
  options: object = {},
  address: string = family.address,
): Promise<Outcome> {
  const [host = '', port = ''] = address.split(':');
  using connection = await Connection.open({ host, port: Number(port) });
  const body = JSON.stringify(options);
  connection.write(`POST /handoff HTTP/1.1\r\nHost: x\r\nContent-Length: ${Buffer.byteLength(body)}\r\n\r\n${body}`);
  const reply = await connection.reply(60_000);
  return JSON.parse(reply.body) as Outcome;
}

export async function ask(family: Family, path: string): Promise<unknown> {
  return JSON.parse(await get(new URL(path, family.url).href));
}

/** Nothing that an exec would pass on but what this process was itself started with, and no zombie: of a process that serves. */
export function assertTidy(pid: number): void {
  const kinds = (descriptors: string[]): string[] => descriptors.map((line) => line.replace(/^\d+ /, ''));
  const given = kinds(inheritableDescriptors('self'));
  assert.deepEqual(
    kinds(inheritableDescriptors(pid)).filter((line) => !given.includes(line)),
    [],
  );
  assert.deepEqual(zombiesOf(pid), []);
}
