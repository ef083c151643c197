/** Waiting for a condition that events may make true, with a deadline and a message that says what was seen. Touches nothing but a timer. */

export class Waiting {
  readonly #wakers = new Set<() => void>();
  readonly #sofar: () => string;

  /** @param sofar - What was seen until now; ends the message of a deadline. */
  constructor(sofar: () => string) {
    this.#sofar = sofar;
  }

  /** Something has happened: everyone looks again. */
  wake(): void {
    for (const waker of [...this.#wakers]) waker();
  }

  /**
   * Resolves with the first value of `look` that is not undefined; it looks now and at each wake().
   * Rejects with what `look` throws, and after `deadline` ms.
   */
  async until<T>(what: string, deadline: number, look: () => T | undefined): Promise<T> {
    const now = look();
    if (now !== undefined) return now;
    return await new Promise<T>((resolve, reject) => {
      const finish = (settle: () => void): void => {
        clearTimeout(timer);
        this.#wakers.delete(waker);
        settle();
      };
      const waker = (): void => {
        try {
          const value = look();
          if (value !== undefined) finish(() => resolve(value));
        } catch (error) {
          const reason = error instanceof Error ? error : new Error(String(error));
          finish(() => reject(reason));
        }
      };
      const timer = setTimeout(() => {
        finish(() => reject(new Error(`not within ${deadline} ms: ${what}; ${this.#sofar()}`)));
      }, deadline);
      this.#wakers.add(waker);
    });
  }
}
