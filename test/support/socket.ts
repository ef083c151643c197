/** A listening socket of the kernel's and nothing round it: what a Listener holds, for the tests of the layers below. */
import * as raw from '../../lib/raw.js';

export class ListeningSocket implements Disposable {
  readonly fd: number;
  readonly port: number;
  readonly backlog: number;
  /** Every duplicate that was given away. */
  readonly given: number[] = [];

  constructor(backlog = 511) {
    this.fd = raw.socket('IPv4', 'stream');
    raw.bind(this.fd, { family: 'IPv4', address: '127.0.0.1', port: 0 });
    raw.listen(this.fd, backlog);
    const address = raw.localAddress(this.fd);
    if (address.family === 'unix') throw new TypeError('not a TCP socket');
    this.port = address.port;
    this.backlog = backlog;
  }

  readonly dup = (): number => {
    const fd = raw.dup(this.fd);
    this.given.push(fd);
    return fd;
  };

  [Symbol.dispose](): void {
    raw.close(this.fd);
  }
}
