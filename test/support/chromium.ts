/**
 * A browser for tests: Debian's chromium without a window, driven over a pair of pipes. Opens pages and evaluates expressions in them.
 * It leaves nothing behind: its profile is a directory of its own, its processes are one group. Where there is none, tests are skipped.
 * Source: the DevTools protocol, version 1.3; --remote-debugging-pipe: JSON with a NUL behind it, to descriptor 3 and from 4.
 */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import type { Readable, Writable } from 'node:stream';
import { setTimeout as delay } from 'node:timers/promises';

import { type Scope, temporaryDirectory } from './fixture.js';

const NAMES = ['chromium', 'chromium-browser', 'google-chrome'];
const DEADLINE = 30_000; // ms for one answer
const END = 5_000; // ms for the browser to end by itself
const POLL = 20; // ms

/** The program; undefined: none is installed. */
export const chromium: string | undefined = NAMES.find((name) => spawnSync(name, ['--version']).status === 0);

interface Answer {
  id?: number;
  result?: Record<string, unknown>;
  error?: { message: string };
}

export class Browser {
  readonly #child: ChildProcess;
  readonly #commands: Writable;
  readonly #waiting = new Map<number, (answer: Answer) => void>();
  readonly #ended: Promise<unknown>;
  #rest = '';
  #next = 1;

  private constructor(program: string, profile: string) {
    const args = ['--headless', '--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage', '--no-first-run'];
    args.push('--disable-background-networking', '--disable-component-update', '--disable-extensions');
    args.push('--remote-debugging-pipe', `--user-data-dir=${profile}`, 'about:blank');
    this.#child = spawn(program, args, { stdio: ['ignore', 'ignore', 'ignore', 'pipe', 'pipe'], detached: true });
    this.#ended = once(this.#child, 'close');
    const [, , , commands, answers] = this.#child.stdio as unknown as [null, null, null, Writable, Readable];
    this.#commands = commands.on('error', () => undefined); // it has ended: then no answer comes, and that is told
    answers.setEncoding('utf8').on('data', (chunk: string) => {
      const [rest = '', ...messages] = (this.#rest + chunk).split('\0').reverse();
      this.#rest = rest;
      for (const message of messages.reverse()) this.#answered(JSON.parse(message) as Answer);
    });
  }

  static async start(t: Scope, program: string): Promise<Browser> {
    const browser = new Browser(program, temporaryDirectory(t));
    t.after(() => browser.#stop());
    await browser.send('Browser.getVersion');
    return browser;
  }

  /** A page of its own, once its scripts have run. */
  async open(url: string): Promise<Page> {
    const { targetId } = await this.send('Target.createTarget', { url });
    const { sessionId } = await this.send('Target.attachToTarget', { targetId, flatten: true });
    const page = new Page(this, String(sessionId));
    await page.until('it has loaded', `document.readyState === 'complete' && location.href !== 'about:blank'`);
    return page;
  }

  /** One command of the protocol, and its result. */
  async send(method: string, params: object = {}, sessionId?: string): Promise<Record<string, unknown>> {
    const id = this.#next++;
    const answered = new Promise<Answer>((resolve) => this.#waiting.set(id, resolve));
    this.#commands.write(
      `${JSON.stringify({ id, method, params, ...(sessionId === undefined ? {} : { sessionId }) })}\0`,
    );
    const late = AbortSignal.timeout(DEADLINE);
    const answer = await Promise.race([answered, this.#ended, once(late, 'abort')]);
    this.#waiting.delete(id);
    if (Array.isArray(answer))
      throw new Error(`${method}: the browser ${late.aborted ? 'does not answer' : 'has ended'}`);
    const { result = {}, error } = answer as Answer;
    if (error !== undefined) throw new Error(`${method}: ${error.message}`);
    return result;
  }

  #answered(answer: Answer): void {
    if (answer.id !== undefined) this.#waiting.get(answer.id)?.(answer);
  }

  /** All its processes end with it: its profile is removed next. */
  async #stop(): Promise<void> {
    const { pid } = this.#child;
    if (pid === undefined) return;
    if (this.#child.exitCode === null) this.#commands.write(`${JSON.stringify({ id: 0, method: 'Browser.close' })}\0`);
    await Promise.race([this.#ended, delay(END, undefined, { ref: false })]);
    try {
      process.kill(-pid, 'SIGKILL');
    } catch {
      // nobody of the group is left
    }
    await this.#ended;
  }
}

export class Page {
  readonly #browser: Browser;
  readonly #session: string;

  constructor(browser: Browser, session: string) {
    this.#browser = browser;
    this.#session = session;
  }

  /** The value of an expression, which must be JSON; of a promise, what it resolves to. */
  async evaluate<T>(expression: string): Promise<T> {
    const params = { expression, returnByValue: true, awaitPromise: true };
    const { result, exceptionDetails } = await this.#browser.send('Runtime.evaluate', params, this.#session);
    if (exceptionDetails !== undefined) throw new Error(`${expression}: ${JSON.stringify(exceptionDetails)}`);
    return (result as { value: T }).value;
  }

  /** Asks until the expression is true. */
  async until(what: string, expression: string, deadline: number = DEADLINE): Promise<void> {
    const end = performance.now() + deadline;
    while (!(await this.evaluate<boolean>(`Boolean(${expression})`))) {
      if (performance.now() > end) throw new Error(`not within ${deadline} ms: ${what}`);
      await delay(POLL);
    }
  }
}
