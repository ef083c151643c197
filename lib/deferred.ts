/** A promise, and the functions that settle it. Node 20 has no Promise.withResolvers. Touches nothing. */
export class Deferred<Value> {
  readonly promise: Promise<Value>;
  resolve!: (value: Value) => void; // set by the executor, which runs before the constructor returns
  reject!: (error: unknown) => void; // likewise

  constructor() {
    this.promise = new Promise((resolve, reject) => {
      this.resolve = resolve;
      this.reject = reject;
    });
    this.promise.catch(() => undefined); // whoever waits sees it; that nobody waits is no error
  }
}
