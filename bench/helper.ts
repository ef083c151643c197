/**
 * Helper processes that answer one message with another: child_process.fork, and no helper outlives its figure.
 */
import { fork } from 'node:child_process';
import { fileURLToPath } from 'node:url';

import type { Scope } from '../test/support/fixture.js';

export interface Helper<Request, Reply> {
  readonly pid: number;
  /** Sends a message (none: it speaks first) and waits for the next one. One at a time. Rejects when the helper ends. */
  ask(request?: Request): Promise<Reply>;
  /** Ends it, and waits until it has ended. */
  stop(): Promise<void>;
}

/** @param script - From dist/bench, without its extension. */
export function startHelper<Request extends object | string, Reply>(
  scope: Scope,
  script: string,
  args: readonly string[] = [],
): Helper<Request, Reply> {
  const file = fileURLToPath(new URL(`./${script}.js`, import.meta.url));
  const child = fork(file, args, { execArgv: [] });
  const { pid } = child;
  if (pid === undefined) throw new Error(`${script} could not be started`);
  let ending: string | undefined;
  const ended = new Promise<void>((resolve) => {
    child.once('exit', (code, signal) => {
      ending = `${script} (pid ${pid}) ended with ${signal ?? `code ${code}`}`;
      resolve();
    });
  });
  const stop = async (): Promise<void> => {
    if (ending === undefined) child.kill('SIGKILL');
    await ended;
  };
  scope.after(stop);
  return {
    pid,
    stop,
    ask: (request) =>
      new Promise<Reply>((resolve, reject) => {
        const onMessage = (message: unknown): void => resolve(message as Reply);
        child.once('message', onMessage);
        void ended.then(() => reject(new Error(ending)));
        if (request !== undefined) child.send(request);
      }),
  };
}
