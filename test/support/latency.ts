/** Latencies and their percentiles. Pure: numbers in, numbers out. */

/** ms. NaN where there was nothing to measure. `count` is how many were measured. */
export interface Latency {
  count: number;
  p50: number;
  p99: number;
  p999: number;
  max: number;
}

/** Every value is kept, with its time: exact percentiles, of any window. 16 bytes each. */
export class Latencies {
  #times = new Float64Array(1024);
  #values = new Float64Array(1024);
  #count = 0;

  /** @param time - When the request was due. @param ms - How long it took from then. */
  add(time: number, ms: number): void {
    if (this.#count === this.#times.length) {
      this.#times = grown(this.#times);
      this.#values = grown(this.#values);
    }
    this.#times[this.#count] = time;
    this.#values[this.#count++] = ms;
  }

  /** Of what was due from `from` until before `to`; of all without them. */
  summary(from: number = -Infinity, to: number = Infinity): Latency {
    const sorted = this.#values
      .subarray(0, this.#count)
      .filter((_, i) => (this.#times[i] ?? NaN) >= from && (this.#times[i] ?? NaN) < to)
      .sort();
    const at = (part: number): number => sorted[Math.max(0, Math.ceil(part * sorted.length) - 1)] ?? NaN;
    return { count: sorted.length, p50: at(0.5), p99: at(0.99), p999: at(0.999), max: at(1) };
  }
}

function grown(old: Float64Array): Float64Array<ArrayBuffer> {
  const larger = new Float64Array(old.length * 2);
  larger.set(old);
  return larger;
}
