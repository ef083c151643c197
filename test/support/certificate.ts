/** A self-signed certificate for localhost, for tests alone: its key is public. Good until 2125. Read from the sources: tsc copies no .pem. */
import { readFileSync } from 'node:fs';
import path from 'node:path';

const folder = path.join(import.meta.dirname, '../../../test/support/tls');

/** Options of tls, https and http2 servers. */
export const certificate: { key: Buffer; cert: Buffer } = {
  key: readFileSync(path.join(folder, 'key.pem')),
  cert: readFileSync(path.join(folder, 'certificate.pem')),
};
