/**
 * What happens, told to whoever listens: the diagnostics channel 'fdpass'.
 * Touches node:diagnostics_channel alone. Source: Node's documentation, diagnostics_channel.
 */
import { channel } from 'node:diagnostics_channel';

import type { HandoffPhase, SuccessorFacts } from './errors.js';

/** What is published on the diagnostics channel 'fdpass', each with the `pid` of the process that says it. */
export type FdpassEvent =
  /** This process, as the predecessor: how far its handoff is. */
  | { event: 'handoff'; phase: HandoffPhase; successor: number | undefined; generation: number }
  /** A handoff failed; this process goes on. */
  | { event: 'failed'; code: string; message: string; phase: HandoffPhase; successor: SuccessorFacts }
  /** This process, as a generation: what it has become. */
  | { event: 'generation'; phase: string; generation: number }
  /** As a successor: it accepted though no COMMIT came; the COMMIT came after all; RELEASED is overdue; the channel brought garbage. */
  | { event: 'odd'; what: 'split' | 'lateCommit' | 'notReleased' | 'garbage'; generation: number }
  /** One that asked to take over at the path, and was sent away; its user and process where they could be told. */
  | { event: 'refused'; path: string; why: string; uid: number | undefined; peer: number | undefined }
  /**
   * One connection: `moved` to the successor; `adopted` from the predecessor; `returned`: it was sent, and came back; `stays`: it
   * cannot move. `reason`: why it does not move. `way`: what it speaks, or the name of its hooks.
   */
  | {
      event: 'connection';
      change: 'moved' | 'adopted' | 'returned' | 'stays';
      listener: string;
      way: string | undefined;
      reason: string | undefined;
      remote: string | undefined;
    }
  /** Inherited, claimed by nobody, and closed. */
  | { event: 'unclaimed'; listeners: string[] };

const events = channel('fdpass');

/** Whether anybody would hear: for what is dear to say. */
export function isHeard(): boolean {
  return events.hasSubscribers;
}

/** Publishes to those who subscribed. */
export function publish(event: FdpassEvent): void {
  if (events.hasSubscribers) events.publish({ ...event, pid: process.pid });
}
