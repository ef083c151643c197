/**
 * What every convention has in common: the types of what is read from an environment, and of what is written for a child.
 * Pure: no file in this folder touches process.env or a descriptor; lib/inherit.ts and lib/spawn.ts do.
 */

/** One descriptor that was handed down, by its number alone: not yet known to be open, or a socket. */
export interface NamedDescriptor {
  name: string;
  fd: number;
}

/** What a convention found in an environment. */
export interface Reading {
  /** Undefined: this convention does not speak to this process. */
  descriptors: Iterable<NamedDescriptor> | undefined;
  /** One sentence for the user who expected a listener: why there is none. Empty where there are some. */
  note: string;
  /** The variables that were looked at, and go once they are read. */
  variables: string[];
}

/** What a convention adds to the environment of a child. */
export interface Writing {
  variables: Record<string, string>;
  /** Variables of which the child makes its own pid the value, between fork and exec. */
  pidVariables: string[];
}

export type Environment = Readonly<Record<string, string | undefined>>;
