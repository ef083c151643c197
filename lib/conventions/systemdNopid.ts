/**
 * LISTEN_FDS without LISTEN_PID: what systemfd --no-pid, facebookgo/grace and wrappers leave; LISTEN_FDS_FIRST_FD where they do not begin
 * at 3; LISTEN_FD of catflap, which is a single number. Nobody says for whom they are: the caller takes them only where all are listeners.
 * Pure: it sees the text it is given, and opens and closes nothing.
 * Source: systemfd and listenfd (src/imp/unix.rs), catflap, cloudflare/shellflip.
 */
import { UNNAMED } from '../names.js';
import {
  decimal,
  descriptorNumber,
  type Environment,
  type Identity,
  malformed,
  MAX_INT,
  nothing,
  present,
  type Reading,
} from './convention.js';
import { firstDescriptorOf, listed, SYSTEMD_VARIABLES } from './systemd.js';

/** What {@link readSystemdNopid} looks at, to be taken off the environment. */
export const NOPID_VARIABLES: readonly string[] = [...SYSTEMD_VARIABLES, 'LISTEN_FD'];

/**
 * Reads the descriptors of LISTEN_FDS where LISTEN_PID is absent or empty, else that of LISTEN_FD.
 *
 * @param self - Whom LISTEN_PID would have to name: one that names a process at all belongs to readSystemd.
 * @param options - `auto`: take `LISTEN_PID=auto` too, by which shellflip means whoever reads it. Default false.
 * @throws FdpassError `ERR_FDPASS_ENV`: a number is malformed or out of range. `ERR_FDPASS_NAMES`: not as many names as descriptors.
 */
export function readSystemdNopid(
  environment: Environment,
  self: Pick<Identity, 'pid' | 'channel'>,
  options: { auto?: boolean } = {},
): Reading {
  const { LISTEN_PID: pid = '', LISTEN_FDS: count, LISTEN_FD: single } = environment;
  const variables = present(environment, NOPID_VARIABLES);

  if (pid !== '' && !(pid === 'auto' && options.auto === true)) {
    const stranger = { variable: 'LISTEN_PID', value: pid, own: String(self.pid) };
    return nothing(`LISTEN_PID is ${pid}`, variables, pid === String(self.pid) ? undefined : stranger);
  }
  if (count === undefined && single !== undefined) {
    const fd = descriptorNumber('LISTEN_FD', single);
    return { descriptors: [{ name: UNNAMED, fd }], note: '', variables, named: false, unproven: true };
  }
  if (count === undefined) return nothing('LISTEN_FDS is not set', variables);
  const from = firstDescriptorOf(environment);
  const number = decimal('LISTEN_FDS', count, 1, MAX_INT - from);
  const { NODE_CHANNEL_FD: written = '' } = environment;
  const channel = /^\d+$/.test(written) ? Number(written) : self.channel;
  if (channel !== undefined && channel >= from && channel < from + number) {
    throw malformed(
      'LISTEN_FDS',
      count,
      `${count} descriptors from ${from} on would take in NODE_CHANNEL_FD, ${channel}`,
    );
  }
  return { ...listed(environment, from, number), note: '', variables, unproven: true };
}
