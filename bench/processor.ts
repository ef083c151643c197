/** The processor time of a process: what is left to compare where other programs want the same processors. proc(5): schedstat. */
import { readFileSync } from 'node:fs';

/** What the main thread of the process has run so far, in us. */
export function processorTime(pid: number): number {
  const stat = readFileSync(`/proc/${pid}/schedstat`, 'latin1');
  return Number(stat.split(' ')[0]) / 1000; // it counts in ns
}
