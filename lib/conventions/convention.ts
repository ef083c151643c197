/**
 * What every convention has in common: the types of what is read from an environment and of what is written for a child, and the
 * small grammar (decimal numbers, lists) with the errors that name variable and value.
 * Pure: no file in this folder touches process.env or a descriptor; lib/discover.ts and lib/spawn.ts do.
 */
import { FdpassError } from '../errors.js';

/** One descriptor that was handed down, by its number alone: not yet known to be open, or a socket. */
export interface NamedDescriptor {
  name: string;
  fd: number;
}

/** What this process is, as far as the conventions ask. */
export interface Identity {
  pid: number;
  ppid: number;
  /** The inode of this process's pidfd, where the kernel gives it a lasting one (pidfs, Linux 6.9). */
  pidfdId?: string | undefined;
  /** The channel to a parent of Node's own kind, which nobody has handed down to be taken. */
  channel?: number | undefined;
}

/** A variable that says that the others are meant for another process. */
export interface Stranger {
  variable: string;
  value: string;
  /** What it would have to be for this process. */
  own: string;
}

/** What a convention found in an environment. */
export interface Reading {
  /** Undefined: this convention does not speak to this process. */
  descriptors: Iterable<NamedDescriptor> | undefined;
  /** One sentence for the user who expected a listener: why there is none. Empty where there are some. */
  note: string;
  /** The variables that were looked at, and go once they are read. */
  variables: string[];
  /** Whether the names are what somebody called the descriptors. Else they are addresses, or made up here: any name will do. */
  named: boolean;
  /** A number says how many there are, and nothing else: behind the first that is not open nothing is believed. */
  counted?: boolean;
  /** Which of the processes that a supervisor has started this one is, counted from 1, where it says so. */
  generation?: number | undefined;
  /** Nothing proves that the numbers are meant for this process: what they name must decide. */
  unproven?: boolean;
  /** Why there are no descriptors, where another process is meant. */
  stranger?: Stranger | undefined;
}

/** One descriptor for a child: its number there, what it is called, and where it is bound (127.0.0.1:80, [::1]:80, /path, @name). */
export interface GivenDescriptor {
  fd: number;
  name: string;
  address: string;
}

/** What a convention adds to the environment of a child. */
export interface Writing {
  variables: Record<string, string>;
  /** Variables of which the child makes its own pid the value, between fork and exec. */
  pidVariables: string[];
}

export type Environment = Readonly<Record<string, string | undefined>>;

export const MAX_INT = 2_147_483_647;

/** Nothing was found, and why. */
export function nothing(note: string, variables: string[], stranger?: Stranger): Reading {
  return { descriptors: undefined, note, variables, named: false, stranger };
}

/** The variable is damaged: `ERR_FDPASS_ENV`. */
export function malformed(variable: string, value: string | undefined, what: string): FdpassError {
  return new FdpassError('ERR_FDPASS_ENV', `${variable}: ${what}`, { variable, value });
}

/**
 * A whole number in decimal digits alone. Others also take ` 2`, `+2` and `0x2`, which nobody writes.
 *
 * @param part - The piece of the value that is the number, where it is not the whole.
 * @throws {@link FdpassError} `ERR_FDPASS_ENV`
 */
export function decimal(
  variable: string,
  value: string,
  lowest: number,
  highest: number,
  part: string = value,
): number {
  if (!/^\d{1,10}$/.test(part)) throw malformed(variable, value, `"${part}" is not a whole number in decimal digits`);
  const number = Number(part);
  if (number < lowest || number > highest) {
    throw malformed(variable, value, `${part} is not between ${lowest} and ${highest}`);
  }
  return number;
}

/** The number of a descriptor. */
export function descriptorNumber(variable: string, value: string, part: string = value): number {
  return decimal(variable, value, 0, MAX_INT, part);
}

/** Those of the variables that are set. */
export function present(environment: Environment, variables: readonly string[]): string[] {
  return variables.filter((name) => environment[name] !== undefined);
}

/** What cannot be written: `ERR_FDPASS_NAMES`. */
export function unwritable(what: string, value: string): FdpassError {
  return new FdpassError('ERR_FDPASS_NAMES', what, { value });
}
