/**
 * The conventions by name: how each is read, which variables are its own, and in which order they are looked for.
 * Pure. What stands in the files beside this one; docs/supervisors/README.md has the order for users.
 */
import type { Environment, Identity, Reading } from './convention.js';
import { einhornVariables, readEinhorn } from './einhorn.js';
import { fpmVariables, readFpm } from './fpm.js';
import { GUNICORN_VARIABLES, readGunicorn } from './gunicorn.js';
import { NGINX_VARIABLES, readNginx } from './nginx.js';
import { pumaVariables, readPuma } from './puma.js';
import { readServerStarter, SERVER_STARTER_VARIABLES } from './serverStarter.js';
import { readStdin } from './stdin.js';
import { readSystemd, SYSTEMD_VARIABLES } from './systemd.js';
import { NOPID_VARIABLES, readSystemdNopid } from './systemdNopid.js';
import { TABLEFLIP_VARIABLES } from './tableflip.js';
import { readUnicorn, UNICORN_VARIABLES } from './unicorn.js';

/** The conventions of supervisors, and of other programs that can be one's parent. */
export type SupervisorConvention =
  | 'systemd'
  | 'server-starter'
  | 'einhorn'
  | 'systemd-nopid'
  | 'stdin'
  | 'nginx'
  | 'fpm'
  | 'gunicorn'
  | 'unicorn'
  | 'puma'
  | 'tableflip';

/** In which order they are looked for, where nobody names one. The rest is read only when it is named. */
export const AUTOMATIC: readonly Exclude<SupervisorConvention, 'tableflip'>[] = [
  'systemd',
  'server-starter',
  'einhorn',
  'systemd-nopid',
  'stdin',
];

/** Those that prove nothing: numbers without a word for whom they are. */
export const GUESSED: readonly SupervisorConvention[] = ['systemd-nopid', 'stdin'];

/** How one is read. */
export interface ConventionEntry {
  /** Its variables that are set. */
  variables(environment: Environment): string[];
  read(environment: Environment, self: Identity, isNamed: boolean): Reading;
}

/** The environment does not say all of tableflip: its names come by a pipe. */
type EntryOf<Name> = Name extends 'tableflip' ? Pick<ConventionEntry, 'variables'> : ConventionEntry;

const fixed =
  (names: readonly string[]) =>
  (environment: Environment): string[] =>
    names.filter((name) => environment[name] !== undefined);

const TABLE: { [Name in SupervisorConvention]: EntryOf<Name> } = {
  systemd: { variables: fixed(SYSTEMD_VARIABLES), read: readSystemd },
  'server-starter': { variables: fixed(SERVER_STARTER_VARIABLES), read: readServerStarter },
  einhorn: { variables: einhornVariables, read: readEinhorn },
  'systemd-nopid': {
    variables: fixed(NOPID_VARIABLES),
    read: (environment, self, isNamed) => readSystemdNopid(environment, self, { auto: isNamed }),
  },
  stdin: { variables: () => [], read: readStdin },
  nginx: { variables: fixed(NGINX_VARIABLES), read: readNginx },
  fpm: { variables: fpmVariables, read: readFpm },
  gunicorn: { variables: fixed(GUNICORN_VARIABLES), read: readGunicorn },
  unicorn: { variables: fixed(UNICORN_VARIABLES), read: readUnicorn },
  puma: { variables: pumaVariables, read: readPuma },
  tableflip: { variables: fixed(TABLEFLIP_VARIABLES) },
};

/** All of them. */
export const SUPERVISOR_CONVENTIONS: readonly SupervisorConvention[] = Object.keys(TABLE) as SupervisorConvention[];

/** The entry of one. */
export function conventionEntry(name: Exclude<SupervisorConvention, 'tableflip'>): ConventionEntry;
export function conventionEntry(name: SupervisorConvention): Pick<ConventionEntry, 'variables'>;
export function conventionEntry(name: SupervisorConvention): Pick<ConventionEntry, 'variables'> {
  return TABLE[name];
}
