/** What the acts amount to: the failures of fdpass, and all of it as one JSON document. Pure. */
import type { Act } from './act.js';
import type { Step } from './acts.js';

/** What fdpass did wrong, a sentence each. The contrast is not asked. */
export function failuresOf(acts: readonly Act[], leftBehind: number, errors: readonly string[]): string[] {
  const found = acts.filter(({ isFdpass }) => isFdpass).flatMap((act) => actFailures(act));
  return [...found, ...errors, ...(leftBehind > 0 ? [`${leftBehind} processes were left behind`] : [])];
}

function actFailures(act: Act): string[] {
  const { name, report, done, total, failures } = act;
  if (!report) return [...failures, `${name}: did not run`];
  const { new: fresh, keepAlive, stray } = report;
  const reasons = (tally: { reasons: object }): string =>
    Object.entries(tally.reasons)
      .map(([reason, count]) => `${reason} ${String(count)}`)
      .join(', ');
  const found = [
    fresh.lost > 0 && `${fresh.lost} new connections were lost (${reasons(fresh)})`,
    keepAlive.lost > 0 && `${keepAlive.lost} keep-alive requests were lost (${reasons(keepAlive)})`,
    (fresh.ok === 0 || keepAlive.ok === 0) && 'the load did not run',
    stray > 0 && `${stray} times bytes came that nobody had asked for`,
    done < total && `${total - done} of ${total} steps were not done`,
    ...failures,
  ].filter((failure) => failure !== false);
  return found.map((failure) => `${name}: ${failure}`);
}

/** The first losses, with their times in ms since the act's start. */
export function lossLines(acts: readonly Act[]): string[] {
  return acts.flatMap(({ name, isFdpass, report }) =>
    isFdpass && report
      ? report.losses.slice(0, 10).map(({ kind, reason, detail, due, sent, at }) => {
          const ms = (time: number): string => (time - report.from).toFixed(0);
          return `  ${name}, ${kind}: ${reason} (${detail}), due ${ms(due)}, sent ${ms(sent)}, lost ${ms(at)} ms`;
        })
      : [],
  );
}

/** For machines. Latencies in ms from the moment a request was due; null where nothing was measured. */
export function document(
  acts: readonly Act[],
  steps: ReadonlyMap<Act, readonly Step[]>,
  facts: { script: string; load: object; seconds: number; leftBehind: number; failures: readonly string[] },
): object {
  const { failures, ...others } = facts;
  return {
    ok: failures.length === 0,
    failures,
    ...others,
    node: process.version,
    acts: acts.map((act) => {
      const { title, isFdpass, done, total, note, report } = act;
      return {
        ...{ title, isFdpass, done, total, note, failures: act.failures },
        ...(report && {
          seconds: (report.to - report.from) / 1000,
          new: report.new,
          keepAlive: report.keepAlive,
          stray: report.stray,
          carried: report.carried,
          oldest: report.oldest,
          latency: report.latency,
          generator: report.generator,
        }),
        steps: steps.get(act) ?? [],
      };
    }),
  };
}
