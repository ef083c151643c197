/**
 * The number of a descriptor in the arguments: `uvicorn --fd 3`, `bind fd@3` of haproxy, `fd://3` of uwsgi, `$(circus.sockets.web)`.
 * Pure: it replaces text. Source: the manuals of those.
 */
import { type GivenDescriptor, unwritable } from './convention.js';

/** What stands for the number unless somebody says otherwise: {fd} for the only one, {fd:web} for that called web. */
const DEFAULT_ONE = '{fd}';
const DEFAULT_NAMED = '{fd:NAME}';

/**
 * Puts the numbers in place of what stands for them.
 *
 * @param token - What stands for a number. With `NAME` in it: for that of the descriptor whose name stands there. Without: for that of
 * the only descriptor. Default: `{fd}` and `{fd:NAME}`.
 * @throws FdpassError `ERR_FDPASS_NAMES`: it stands nowhere, so the child would not learn of a descriptor; or it is one for several.
 */
export function writeArguments(args: readonly string[], given: readonly GivenDescriptor[], token?: string): string[] {
  const [only] = given;
  const tokens = token === undefined ? [DEFAULT_NAMED, ...(given.length === 1 ? [DEFAULT_ONE] : [])] : [token];
  const numbers = new Map<string, number>(); // by what stands for them
  for (const each of tokens) {
    if (each === '') throw unwritable('The token of the convention argv is empty', each);
    if (each.includes('NAME')) {
      for (const { name, fd } of given) {
        const stands = each.replace('NAME', () => name); // by a function: `$` in a name is nothing else
        numbers.set(stands, fd);
      }
    } else if (given.length === 1 && only !== undefined) {
      numbers.set(each, only.fd);
    } else {
      const message = `The token "${each}" stands for one descriptor, and there are ${given.length}: put NAME in it`;
      throw unwritable(message, each);
    }
  }
  const found = new Set<number>();
  const replaced = args.map((argument) => {
    let text = argument;
    for (const [stands, fd] of numbers) {
      if (!text.includes(stands)) continue;
      found.add(fd);
      text = text.replaceAll(stands, String(fd));
    }
    return text;
  });
  const lost = given.find(({ fd }) => !found.has(fd));
  if (lost === undefined) return replaced;
  const stands = [...numbers].filter(([, fd]) => fd === lost.fd).map(([each]) => `"${each}"`);
  throw unwritable(`No argument has ${stands.join(' or ')} in it, for descriptor ${lost.fd} of the child`, lost.name);
}
