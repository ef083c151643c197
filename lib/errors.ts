/**
 * Every error that fdpass makes by itself: the codes, and the two classes that carry them.
 * Touches nothing. Errors of the system (EADDRINUSE, EBADF, ...) come from the addon with Node's own fields: code, errno, syscall.
 */

/** The codes of our own errors. What each means stands in docs/errors.md. */
export type FdpassErrorCode =
  | 'ERR_FDPASS_SPAWN' // the successor could not be started
  | 'ERR_FDPASS_SUCCESSOR_EXITED' // it ended before it was serving
  | 'ERR_FDPASS_READY_TIMEOUT' // it did not say READY in time
  | 'ERR_FDPASS_COMMIT_TIMEOUT' // it was told to accept and did not say SERVING in time
  | 'ERR_FDPASS_PROBATION' // it died or fell silent after SERVING
  | 'ERR_FDPASS_ABORTED' // one side gave up; the message says which and why
  | 'ERR_FDPASS_PROTOCOL' // bytes on the channel that are not ours
  | 'ERR_FDPASS_VERSION' // the two share no version of the protocol
  | 'ERR_FDPASS_SUPERSEDED' // another successor has taken over, or takes this one's place
  | 'ERR_FDPASS_NOT_READY' // asked before ready()
  | 'ERR_FDPASS_ENV' // a variable of a convention is malformed
  | 'ERR_FDPASS_NAMES' // a descriptor name cannot be written, or their number is wrong
  | 'ERR_FDPASS_BADFD' // a descriptor that was announced is not open
  | 'ERR_FDPASS_TYPE' // a descriptor is not of the kind that is needed
  | 'ERR_FDPASS_MISMATCH' // what was handed down is not what was asked for
  | 'ERR_FDPASS_LIMIT' // a limit of the kernel or of the protocol
  | 'ERR_FDPASS_CLAIMED' // a listener that was claimed before
  | 'ERR_FDPASS_CLOSED' // the Listener, Channel or received descriptor was closed
  | 'ERR_FDPASS_UNREAD' // bytes that were read, or are not yet written, would be lost
  | 'ERR_FDPASS_THREAD' // of the main thread alone
  | 'ERR_FDPASS_SUPERVISED' // the exit of this process would end the service
  | 'ERR_FDPASS_NO_PREDECESSOR' // nobody offers a takeover there, or it ended in the middle
  | 'ERR_FDPASS_BUSY' // another handoff is under way there
  | 'ERR_FDPASS_REFUSED' // a process or a path that must not be trusted
  | 'ERR_FDPASS_PLATFORM'; // no binary for this platform

/** What an error can say besides its code and its sentence. */
export interface FdpassErrorDetails {
  /** The lower error that led to this one. */
  cause?: unknown;
  /** As in Node: negative. */
  errno?: number | undefined;
  syscall?: string | undefined;
  /** The environment variable that was read, and what it held. */
  variable?: string;
  value?: string | undefined;
  fd?: number;
  expected?: string;
  got?: string;
  /** LISTEN_PID, and the pid of this process, where the two differ. */
  listenPid?: number;
  pid?: number;
}

/** An error of fdpass itself. Match on `code`; the text may change. */
export class FdpassError extends Error {
  readonly code: FdpassErrorCode;
  declare readonly errno?: number;
  declare readonly syscall?: string;
  declare readonly variable?: string;
  declare readonly value?: string;
  declare readonly fd?: number;
  declare readonly expected?: string;
  declare readonly got?: string;
  declare readonly listenPid?: number;
  declare readonly pid?: number;

  constructor(code: FdpassErrorCode, message: string, details: FdpassErrorDetails = {}) {
    const { cause, ...facts } = details;
    super(message, cause === undefined ? undefined : { cause });
    this.code = code;
    Object.assign(this, facts);
  }

  override get name(): string {
    return `FdpassError [${this.code}]`;
  }
}

/** What is known of the successor of a handoff that failed. */
export interface SuccessorFacts {
  /** Undefined where it could not be started. */
  pid: number | undefined;
  /** Null while it runs, and where a signal ended it. */
  exitCode: number | null;
  /** Null while it runs, and where it exited by itself. */
  signal: NodeJS.Signals | null;
}

/** How far a handoff had come, in the predecessor's words (docs/protocol.md). */
export type HandoffPhase = 'serving' | 'offered' | 'committing' | 'probation' | 'released';

/** A handoff that failed. This process never stopped accepting. */
export class HandoffError extends FdpassError {
  readonly phase: HandoffPhase;
  readonly successor: SuccessorFacts;

  constructor(
    code: FdpassErrorCode,
    message: string,
    facts: { phase: HandoffPhase; successor: SuccessorFacts; cause?: unknown },
  ) {
    super(code, message, facts.cause === undefined ? {} : { cause: facts.cause });
    this.phase = facts.phase;
    this.successor = facts.successor;
  }

  override get name(): string {
    return `HandoffError [${this.code}]`;
  }
}
