/**
 * How this process was started, so that a successor can be started in the same way.
 * Looks at process.argv, at the working directory and at $PWD once, when it is loaded: the program may change all three later.
 * Source: execve(2), getcwd(3), proc_pid_cmdline(5).
 */
import fs from 'node:fs';
import { isAbsolute, join, resolve } from 'node:path';

import { FdpassError } from './errors.js';

/** A program, its arguments, and where it runs. */
export interface Command {
  file: string;
  args: string[];
  cwd: string;
}

/** What {@link commandOf} needs to know of a process. */
export interface Start {
  execPath: string;
  execArgv: readonly string[];
  /** process.argv: the script is already absolute there, with every symlink of the working directory resolved. */
  argv: readonly string[];
  /** The arguments as they were typed, where the system tells. */
  typed: readonly string[] | undefined;
  /** The working directory as the user named it, symlinks and all. */
  directory: string;
  /** The same, with every symlink resolved. */
  physical: string;
}

/**
 * The command that starts this program again, pure.
 *
 * The script is taken as it was typed, against the working directory as the user named it, so that a symlink to a release that
 * was re-pointed since takes effect.
 *
 * @throws {@link FdpassError} `ERR_FDPASS_SPAWN`: the program came from standard input, so there is nothing to start again.
 */
export function commandOf({ execPath, execArgv, argv, typed, directory, physical }: Start): Command {
  const script = argv[1];
  if (script === undefined) {
    if (execArgv.some((argument) => /^(-[pe]+|--eval|--print)(=|$)/.test(argument))) {
      return { file: execPath, args: [...execArgv], cwd: directory };
    }
    const message = 'This program was not started from a file, so it cannot be started again: pass options.command';
    throw new FdpassError('ERR_FDPASS_SPAWN', message);
  }
  const typedScript = typed?.[1 + execArgv.length];
  // Node made argv[1] of what was typed and of the physical directory: only where that holds is it the script.
  const named = typedScript !== undefined && resolve(physical, typedScript) === script ? typedScript : script;
  const path = isAbsolute(named) ? named : join(directory, named);
  return { file: execPath, args: [...execArgv, path, ...argv.slice(2)], cwd: directory };
}

function workingDirectory(physical: string): string {
  const named = process.env['PWD'];
  if (named === undefined || !isAbsolute(named)) return physical;
  const [here, there] = [physical, named].map((path) => fs.statSync(path, { bigint: true, throwIfNoEntry: false }));
  return here !== undefined && here.dev === there?.dev && here.ino === there.ino ? named : physical;
}

function typedArguments(): string[] | undefined {
  if (process.platform !== 'linux') return undefined; // there `argv` must do
  try {
    return fs.readFileSync('/proc/self/cmdline', 'utf8').split('\0').slice(0, -1);
  } catch {
    return undefined; // no /proc here
  }
}

/** Node's own file, by the symlink that was typed where there was one: re-pointed since, it leads to the next Node. */
function typedProgram(typed: readonly string[] | undefined): string {
  const [program = ''] = typed ?? [];
  if (!isAbsolute(program)) return process.execPath; // found by PATH, or no path at all: a title
  try {
    return fs.realpathSync(program) === fs.realpathSync(process.execPath) ? program : process.execPath;
  } catch {
    return process.execPath; // it is gone already
  }
}

const physical = process.cwd();
const typed = typedArguments();
const start: Start = {
  execPath: typedProgram(typed),
  execArgv: [...process.execArgv],
  argv: [...process.argv],
  typed,
  directory: workingDirectory(physical),
  physical,
};

/** The command that starts this process again: errors as {@link commandOf}. */
export function ownCommand(): Command {
  return commandOf(start);
}
