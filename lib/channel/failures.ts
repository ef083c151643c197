/** Errors as the parts of a Channel make and read them. Touches nothing. */

/** The AbortError of a wait that its signal ended: as Node's own. */
export function abortError(signal: AbortSignal | undefined, what: string): Error {
  const error = new Error(`The operation was aborted: ${what}`, { cause: signal?.reason });
  return Object.assign(error, { name: 'AbortError', code: 'ABORT_ERR' });
}

/** 'EPIPE', 'ERR_FDPASS_LIMIT', ...; undefined where there is none. */
export function codeOf(error: unknown): unknown {
  return error instanceof Error && 'code' in error ? error.code : undefined;
}

/** What was thrown, as the reason of a rejection. */
export function asError(thrown: unknown): Error {
  return thrown instanceof Error ? thrown : new Error(String(thrown));
}
