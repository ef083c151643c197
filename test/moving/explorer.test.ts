import assert from 'node:assert/strict';
import { test } from 'node:test';

import type {
  ReceiverEffect,
  ReceiverEvent,
  ReceiverState,
  SenderEffect,
  SenderEvent,
  SenderState,
  Step,
} from '../../lib/moving/rules.js';
import { explore, INVARIANTS, RULES, type Rules } from './explorer.js';

test('in every interleaving: never two readers, nothing lost while one lives that could serve it, every dup closed', (t) => {
  const { states, transitions, reached, violation } = explore(RULES);

  t.diagnostic(`${states} states, ${transitions} transitions`);
  assert.equal(violation, undefined, violation && `${violation.text}:\n${violation.trace.join('\n')}`);
  assert.ok(states > 5_000, `only ${states} states: the walk stays somewhere`);
  for (const what of [
    'old: takeBack 1',
    'old: letGo 2',
    'old: keep 1',
    'new: adopt 2',
    'new: drop 1',
    'new dies',
    'old closes',
  ]) {
    assert.ok(reached.includes(what), `${what} never happens`);
  }
});

type Broken<State, Event, Effect> = (step: Step<State, Effect>, state: State, event: Event) => Step<State, Effect>;

function old(broken: Broken<SenderState, SenderEvent, SenderEffect>): Rules {
  return { ...RULES, sender: (state, event) => broken(RULES.sender(state, event), state, event) };
}

function fresh(broken: Broken<ReceiverState, ReceiverEvent, ReceiverEffect>): Rules {
  return { ...RULES, receiver: (state, event) => broken(RULES.receiver(state, event), state, event) };
}

function without<State, Effect extends { type: string }>(step: Step<State, Effect>, type: string): Step<State, Effect> {
  return { ...step, effects: step.effects.filter((effect) => effect.type !== type) };
}

function instead<State, Effect>(step: Step<State, Effect>, change: (effect: Effect) => Effect[]): Step<State, Effect> {
  return { ...step, effects: step.effects.flatMap(change) };
}

/** Each breaks one rule, as a careless change might. The explorer must see the harm. */
const mutations: [name: string, invariant: keyof typeof INVARIANTS, rules: Rules][] = [
  [
    'the new one reads before it has answered',
    'torn',
    fresh((step, _state, event) => {
      if (event.type !== 'batch' || event.takes.length === 0) return step;
      const { batch, takes } = event;
      return { ...step, effects: [{ type: 'adopt', batch, indexes: takes }, ...step.effects] };
    }),
  ],
  [
    'an answer that waits in a queue counts as sent',
    'leak', // the shortest way to harm; with a death behind it, it is two readers
    fresh((step, state, event) =>
      event.type === 'answered' && event.outcome === 'full'
        ? RULES.receiver(state, { type: 'answered', outcome: 'sent' })
        : step,
    ),
  ],
  [
    'the old one takes back what is not answered when it closes by itself',
    'torn',
    old((step, _state, event) =>
      event.type === 'close'
        ? instead(step, (effect) =>
            effect.type === 'letGo' ? [{ ...effect, type: 'takeBack', why: 'closed' }] : [effect],
          )
        : step,
    ),
  ],
  [
    'the old one takes back from one that says nonsense',
    'torn',
    old((step, _state, event) =>
      event.type === 'mail' && event.garbage
        ? instead(step, (effect) =>
            effect.type === 'letGo' ? [{ ...effect, type: 'takeBack', why: 'ended' }] : [effect],
          )
        : step,
    ),
  ],
  ['the end is seen before the answers are read', 'torn', { ...RULES, forgetsAnswers: true }],
  [
    'the old one takes all of a batch back where a part is refused',
    'torn',
    old((step) =>
      step.effects.some((effect) => effect.type === 'takeBack' && effect.why === 'refused')
        ? instead(step, (effect) =>
            effect.type === 'letGo' ? [{ ...effect, type: 'takeBack', why: 'refused' }] : [effect],
          )
        : step,
    ),
  ],
  [
    'the old one keeps nothing until the answer',
    'lost',
    old((step, _state, event) =>
      event.type === 'mail' && event.ended
        ? instead(step, (effect) =>
            effect.type === 'takeBack' && effect.why === 'ended'
              ? [{ type: 'letGo', batch: effect.batch, indexes: effect.indexes }]
              : [effect],
          )
        : step,
    ),
  ],
  [
    'what is refused is let go',
    'lost',
    old((step) =>
      instead(step, (effect) =>
        effect.type === 'takeBack' && effect.why === 'refused'
          ? [{ type: 'letGo', batch: effect.batch, indexes: effect.indexes }]
          : [effect],
      ),
    ),
  ],
  [
    'a batch that is torn by the close is let go',
    'lost',
    old((step, state, event) => (event.type === 'close' ? RULES.sender(state, { ...event, unsent: false }) : step)),
  ],
  [
    'the new one drops what it cannot answer for',
    'lost',
    fresh((step, _state, event) =>
      event.type === 'answered' && event.outcome === 'ended'
        ? instead(step, (effect) => (effect.type === 'adopt' ? [{ ...effect, type: 'drop' }] : [effect]))
        : step,
    ),
  ],
  [
    'the new one drops what waits for its answer when the old one ends',
    'lost',
    fresh((step, _state, event) =>
      event.type === 'ended'
        ? instead(step, (effect) => (effect.type === 'adopt' ? [{ ...effect, type: 'drop' }] : [effect]))
        : step,
    ),
  ],
  [
    'the new one adopts what it has not answered for when it closes',
    'torn',
    fresh((step, _state, event) =>
      event.type === 'close'
        ? instead(step, (effect) => (effect.type === 'drop' ? [{ ...effect, type: 'adopt' }] : [effect]))
        : step,
    ),
  ],
  [
    'the new one takes what it has refused',
    'torn',
    fresh((step, _state, event) =>
      event.type === 'answered'
        ? instead(step, (effect) => (effect.type === 'drop' ? [{ ...effect, type: 'adopt' }] : [effect]))
        : step,
    ),
  ],
  ['what the new one refuses stays open there', 'leak', fresh((step) => without(step, 'drop'))],
  ['the dup is kept after the answer', 'leak', old((step) => without(step, 'letGo'))],
  [
    'the old one forgets what is not answered when the other ends',
    'leak',
    old((step) => instead(step, (effect) => (effect.type === 'takeBack' && effect.why === 'ended' ? [] : [effect]))),
  ],
  [
    'an answer for which there is no room is forgotten',
    'leak',
    fresh((step, state, event) =>
      event.type === 'answered' && event.outcome === 'full'
        ? { state: { ...state, waiting: state.waiting.slice(1) }, effects: [] }
        : step,
    ),
  ],
  [
    'the answer to what was never sent ends the process',
    'total',
    old((step, _state, event) => {
      if (event.type === 'mail' && event.garbage) throw new Error('unexpected');
      return step;
    }),
  ],
];

for (const [name, invariant, rules] of mutations) {
  test(`found: ${name}`, (t) => {
    const { violation } = explore(rules);

    assert.ok(violation !== undefined, 'the explorer finds nothing wrong');
    t.diagnostic(`${violation.invariant}: ${violation.text}, after ${violation.trace.length} steps`);
    assert.equal(violation.invariant, invariant, violation.trace.join('\n'));
  });
}
