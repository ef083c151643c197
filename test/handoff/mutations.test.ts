/**
 * The explorer itself is tested: each rule of the handoff is broken once, and the explorer must find the run in which that does harm,
 * and name the invariant. A mutation wraps the real machines and changes one thing.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';

import type {
  FromPredecessor,
  PredecessorEffect,
  PredecessorEvent,
  PredecessorState,
  Step,
  SuccessorEffect,
  SuccessorEvent,
  SuccessorState,
} from '../../lib/handoff/machine.js';
import { explore, type Invariant, type Result, RULES, type Rules, SCENARIOS } from './explorer.js';

type OldStep = Step<PredecessorState, PredecessorEffect>;
type NewStep = Step<SuccessorState, SuccessorEffect>;

/** The old side, with its steps changed. */
function old(change: (step: OldStep, state: PredecessorState, event: PredecessorEvent) => OldStep): Rules {
  const predecessor: Rules['predecessor'] = (state, event) => change(RULES.predecessor(state, event), state, event);
  return { ...RULES, predecessor };
}

/** The new side, with its steps changed. */
function fresh(change: (step: NewStep, state: SuccessorState, event: SuccessorEvent) => NewStep): Rules {
  const successor: Rules['successor'] = (state, event) => change(RULES.successor(state, event), state, event);
  return { ...RULES, successor };
}

function says(step: OldStep | NewStep, type: string): boolean {
  return step.effects.some((effect) => effect.type === 'send' && effect.message.type === type);
}

function hears(event: PredecessorEvent | SuccessorEvent, type: FromPredecessor['type'] | 'SERVING' | 'READY'): boolean {
  return event.type === 'message' && event.message.type === type;
}

function without<State, Effect extends { type: string }>(
  step: Step<State, Effect>,
  drop: (effect: Effect) => boolean,
): Step<State, Effect> {
  return { ...step, effects: step.effects.filter((effect) => !drop(effect)) };
}

function and<State, Effect>(step: Step<State, Effect>, ...effects: Effect[]): Step<State, Effect> {
  return { ...step, effects: [...step.effects, ...effects] };
}

const mutations: [name: string, invariant: Invariant, rules: Rules][] = [
  [
    'the old one closes its listeners at SERVING',
    'proof',
    old((step, state, event) =>
      state.phase === 'committing' && hears(event, 'SERVING') ? and(step, { type: 'closeListeners' }) : step,
    ),
  ],
  [
    'the old one stops accepting when it says COMMIT',
    'proof',
    old((step) => (says(step, 'COMMIT') ? and(step, { type: 'closeListeners' }) : step)),
  ],
  [
    'RELEASE with EOF behind it is taken as success',
    'proof',
    {
      ...RULES,
      deliver: (machine, state, mail, why) => {
        const first = mail.findIndex((item) => item.type === 'ended');
        if (first < 0) return RULES.deliver(machine, state, mail, why);
        const before = RULES.deliver(machine, state, mail.slice(0, first), 'readable');
        const after = RULES.deliver(machine, before.state, mail.slice(first), why);
        return { state: after.state, effects: [...before.effects, ...after.effects] };
      },
    },
  ],
  [
    'a deadline is judged before the mail is read',
    'mailFirst',
    {
      ...RULES,
      deliver: (machine, state, mail, why) => {
        const first = RULES.deliver(machine, state, [], why);
        const second = RULES.deliver(machine, first.state, mail, 'readable');
        return { state: second.state, effects: [...first.effects, ...second.effects] };
      },
    },
  ],
  [
    'the new one accepts as soon as it is ready, and asks afterwards',
    'told',
    fresh((step, state, event) => {
      if (!says(step, 'READY')) return step;
      assert.ok(event.type === 'ready' || state.readyWanted);
      return { ...step, effects: [{ type: 'accept' }, ...step.effects] };
    }),
  ],
  [
    'the new one ignores the death of the old one in ready',
    'heeded',
    fresh((step, state, event) =>
      state.phase === 'ready' && (event.type === 'ended' || event.type === 'sendFailed')
        ? { state, effects: [] }
        : step,
    ),
  ],
  [
    'the new one gives up when the old one dies in ready',
    'accepts',
    fresh((step, state, event) =>
      state.phase === 'ready' && (event.type === 'ended' || event.type === 'sendFailed')
        ? RULES.successor(state, { type: 'failed', code: 'ERR_FDPASS_ABORTED', message: '' })
        : step,
    ),
  ],
  [
    'the new one waits for COMMIT without a deadline: the old one is frozen, and nobody accepts',
    'accepts',
    fresh((step) => without(step, (effect) => effect.type === 'arm' && effect.deadline === 'commit')),
  ],
  [
    'the new one waits for RELEASED without a deadline',
    'deadline',
    fresh((step) => without(step, (effect) => effect.type === 'arm' && effect.deadline === 'released')),
  ],
  [
    'the new one ignores ABORT in ready',
    'leak',
    fresh((step, state, event) => (state.phase === 'ready' && hears(event, 'ABORT') ? { state, effects: [] } : step)),
  ],
  [
    'the new one does not stop on ABORT after SERVING',
    'leak',
    fresh((step, state, event) => (state.phase === 'serving' && hears(event, 'ABORT') ? { state, effects: [] } : step)),
  ],
  [
    'ABORT is treated as the death of the old one',
    'leak',
    fresh((step, state, event) => (hears(event, 'ABORT') ? RULES.successor(state, { type: 'ended' }) : step)),
  ],
  [
    'the new one heeds ABORT when it is alone',
    'proof',
    fresh((step, state, event) =>
      state.phase === 'alone' && hears(event, 'ABORT') ? RULES.successor({ ...state, phase: 'serving' }, event) : step,
    ),
  ],
  [
    'the new one stops accepting when the old one ends',
    'proof',
    fresh((step, state, event) =>
      state.phase === 'serving' && event.type === 'ended' ? RULES.successor(state, { type: 'stop' }) : step,
    ),
  ],
  [
    'RELEASED is said before the listeners are closed',
    'paths',
    old((step) => {
      if (!says(step, 'RELEASED')) return step;
      const effects = step.effects.filter((effect) => effect.type !== 'closeListeners');
      return { ...step, effects: [...effects, { type: 'closeListeners' }] };
    }),
  ],
  [
    'the new one claims the Unix paths at SERVING',
    'paths',
    fresh((step) => (says(step, 'SERVING') ? and(step, { type: 'alone' }) : step)),
  ],
  [
    'the new one says RELEASE together with SERVING',
    'proof',
    fresh((step) => (says(step, 'SERVING') ? and(step, { type: 'send', message: { type: 'RELEASE' } }) : step)),
  ],
  [
    'a request for a restart cuts the probation short before it begins',
    'proof',
    fresh((step, state) =>
      says(step, 'SERVING') && state.restart ? and(step, { type: 'send', message: { type: 'RELEASE' } }) : step,
    ),
  ],
  [
    'a generation starts a successor of its own before it is alone',
    'alone',
    fresh((step, state, event) =>
      state.phase === 'serving' && event.type === 'restartRequested' ? and(step, { type: 'startSuccessor' }) : step,
    ),
  ],
  [
    'a restart that was asked for is forgotten',
    'heeded',
    fresh((step) => without(step, (effect) => effect.type === 'startSuccessor')),
  ],
  [
    'SERVING is accepted after ABORT',
    'final',
    old((step, state, event) =>
      state.over && hears(event, 'SERVING')
        ? RULES.predecessor({ ...state, over: false, remains: false, phase: 'committing', deadline: 'commit' }, event)
        : step,
    ),
  ],
  [
    'the old one waits for SERVING without a deadline',
    'deadline',
    old((step) => without(step, (effect) => effect.type === 'arm' && effect.deadline === 'commit')),
  ],
  [
    'the old one waits for RELEASE without a deadline',
    'deadline',
    old((step) => without(step, (effect) => effect.type === 'arm' && effect.deadline === 'release')),
  ],
  [
    'an aborted successor is left running',
    'leak',
    old((step) => without(step, (effect) => effect.type === 'terminate')),
  ],
  [
    'an aborted successor is forgotten before it has let go',
    'leak',
    old((step) =>
      step.effects.some((effect) => effect.type === 'fail') && step.state.remains
        ? and({ ...step, state: { ...step.state, remains: false } }, { type: 'disarm' }, { type: 'clear' })
        : step,
    ),
  ],
  [
    'a successor that does not react to ABORT is not killed',
    'leak',
    old((step) => without(step, (effect) => effect.type === 'kill')),
  ],
  [
    'the old one gives up in silence',
    'paths',
    old((step) => without(step, (effect) => effect.type === 'send' && effect.message.type === 'ABORT')),
  ],
  [
    'COMMIT is never sent',
    'heeded',
    old((step) => without(step, (effect) => effect.type === 'send' && effect.message.type === 'COMMIT')),
  ],
  [
    'READY counts without HELLO',
    'heeded',
    old((step, state, event) =>
      !state.hello && hears(event, 'READY') ? RULES.predecessor({ ...state, hello: true }, event) : step,
    ),
  ],
  [
    'the probation of a foreign successor is forgotten',
    'proof',
    old((step, _state, event) =>
      event.type === 'accepting' && step.state.phase === 'probation'
        ? RULES.predecessor(step.state, { type: 'deadline', deadline: 'probation' })
        : step,
    ),
  ],
  [
    'a newcomer over the takeover path is given up when the old one is asked to stop',
    'heeded',
    old((step, state, event) =>
      state.birth === 'takeover' && event.type === 'stop' && state.phase === 'offered'
        ? RULES.predecessor(state, { type: 'exit' })
        : step,
    ),
  ],
  [
    'garbage of an old one that dies ends the new one too',
    'accepts',
    fresh((step, state, event) =>
      event.type === 'malformed' ? RULES.successor(state, { type: 'malformed', why: event.why }) : step,
    ),
  ],
  [
    'a machine throws where it need not',
    'total',
    fresh((step, state, event) => {
      if (state.phase === 'alone' && event.type === 'ended') throw new Error('unexpected');
      return step;
    }),
  ],
];

for (const [name, invariant, rules] of mutations) {
  test(`found: ${name}`, (t) => {
    const result = hunt(rules);

    assert.ok(result?.violation !== undefined, 'the explorer finds nothing wrong');
    t.diagnostic(`${result.violation.invariant}: ${result.violation.text}`);
    assert.equal(result.violation.invariant, invariant, result.violation.trace.join('\n'));
  });
}

/** The first scenario in which something is wrong. */
function hunt(rules: Rules): Result | undefined {
  // The calm ones last: in them all harm has the same name.
  for (const scenario of [...SCENARIOS].sort((a, b) => Number(a.calm ?? false) - Number(b.calm ?? false))) {
    const result = explore(rules, scenario);
    if (result.violation !== undefined) return result;
  }
  return undefined;
}

test('a counterexample can be read: who did what, what it had read, what followed', () => {
  const closing = mutations.find(([name]) => name === 'the old one closes its listeners at SERVING');
  assert.ok(closing !== undefined);

  const violation = hunt(closing[2])?.violation;

  assert.deepEqual(violation?.trace, [
    'G1 serves',
    '1. G1 is asked for a restart: deadline ready',
    '2. G2 boots: HELLO',
    '3. G2 has the whole set: nothing follows',
    '4. G2 calls ready(): READY, deadline commit',
    '5. G2 has a deadline "commit": accept, SERVING, deadline probation, reports split',
    '6. G1 reads the channel to its successor (reads: HELLO, READY, SERVING): COMMIT, deadline commit, deadline release, closeListeners',
  ]);
});
