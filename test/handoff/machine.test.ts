/** The two machines, one rule at a time: the failure tables of docs/protocol.md row by row. What they do together is the explorer's. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';

import {
  ADOPT_TIMEOUT,
  COMMIT_TIMEOUT,
  deliver,
  FINISH_TIMEOUT,
  type FromPredecessor,
  type FromSuccessor,
  GONE_TIMEOUT,
  KILL_AFTER,
  type Mail,
  newPredecessor,
  newSuccessor,
  predecessor,
  type PredecessorBirth,
  type PredecessorDeadline,
  type PredecessorEffect,
  type PredecessorEvent,
  type PredecessorPhase,
  type PredecessorState,
  type PredecessorWish,
  PROBATION,
  READY_TIMEOUT,
  RELEASE_MARGIN,
  RELEASED_TIMEOUT,
  STOPPING_READY_TIMEOUT,
  successor,
  type SuccessorBirth,
  type SuccessorDeadline,
  type SuccessorEffect,
  type SuccessorEvent,
  type SuccessorPhase,
  type SuccessorState,
  type SuccessorWish,
  type Wake,
} from '../../lib/handoff/machine.js';

// ---- Words ---------------------------------------------------------------------------------------------------------------

const ended = { type: 'ended' } as const;
const garbage = { type: 'malformed', why: 'not an fdpass peer' } as const;
const hello: Mail<FromSuccessor> = { type: 'message', message: { type: 'HELLO', compatible: true } };
const otherHello: Mail<FromSuccessor> = { type: 'message', message: { type: 'HELLO', compatible: false } };
const ready: Mail<FromSuccessor> = { type: 'message', message: { type: 'READY' } };
const serving: Mail<FromSuccessor> = { type: 'message', message: { type: 'SERVING', split: false } };
const release: Mail<FromSuccessor> = { type: 'message', message: { type: 'RELEASE' } };
const commit: Mail<FromPredecessor> = { type: 'message', message: { type: 'COMMIT', probation: 700 } };
const released: Mail<FromPredecessor> = { type: 'message', message: { type: 'RELEASED' } };
const abort = { type: 'message', message: { type: 'ABORT', code: 'ERR_X', message: 'why' } } as const;

type OldPhase = Exclude<PredecessorPhase, 'serving'>;

const TO_OLD_PHASE: Record<OldPhase, Mail<FromSuccessor>[]> = {
  offered: [hello],
  committing: [hello, ready],
  probation: [hello, ready, serving],
  released: [hello, ready, serving, release],
};

/** An old side in a phase. `foreign` knows offered, probation and released. */
function old(phase: OldPhase, birth: PredecessorBirth = 'spawn'): PredecessorState {
  let { state } = predecessor(newPredecessor({ birth }), { type: 'start' });
  if (birth === 'foreign') {
    if (phase !== 'offered') state = predecessor(state, { type: 'accepting' }).state;
    if (phase === 'released') state = predecessor(state, { type: 'deadline', deadline: 'probation' }).state;
  } else {
    for (const mail of TO_OLD_PHASE[phase]) state = predecessor(state, mail).state;
  }
  assert.equal(state.phase, phase);
  return state;
}

function fresh(phase: SuccessorPhase, birth: SuccessorBirth = 'spawn', ...more: SuccessorEvent[]): SuccessorState {
  const steps: Record<SuccessorPhase, SuccessorEvent[]> = {
    starting: [],
    adopted: [{ type: 'adopted', probation: 600 }],
    ready: [{ type: 'adopted', probation: 600 }, { type: 'ready' }],
    serving: [{ type: 'adopted', probation: 600 }, { type: 'ready' }, commit],
    alone: [{ type: 'adopted', probation: 600 }, { type: 'ready' }, commit, released],
    failed: [abort],
    leaving: [{ type: 'adopted', probation: 600 }, { type: 'ready' }, commit, abort],
  };
  let state = newSuccessor({ birth });
  for (const event of [{ type: 'start' } as const, ...steps[phase], ...more]) state = successor(state, event).state;
  assert.equal(state.phase, phase);
  return state;
}

function toOld(
  state: PredecessorState,
  mail: Mail<FromSuccessor>[],
  why: Wake<PredecessorDeadline, PredecessorWish> = 'readable',
): { state: PredecessorState; effects: readonly PredecessorEffect[]; told: string[] } {
  const step = deliver(predecessor, state, mail, why);
  return { ...step, told: step.effects.map(tell) };
}

function toNew(
  state: SuccessorState,
  mail: Mail<FromPredecessor>[],
  why: Wake<SuccessorDeadline, SuccessorWish> = 'readable',
): { state: SuccessorState; effects: readonly SuccessorEffect[]; told: string[] } {
  const step = deliver(successor, state, mail, why);
  return { ...step, told: step.effects.map(tell) };
}

/** An effect in a few words, with every number and code in it. */
function tell(effect: PredecessorEffect | SuccessorEffect): string {
  switch (effect.type) {
    case 'send': {
      const { message } = effect;
      switch (message.type) {
        case 'ABORT':
          return `send ABORT ${message.code}`;
        case 'COMMIT':
          return `send COMMIT ${message.probation}`;
        case 'SERVING':
          return message.split ? 'send SERVING split' : 'send SERVING';
        default:
          return `send ${message.type}`;
      }
    }
    case 'arm':
      return `arm ${effect.deadline} ${effect.ms}`;
    case 'terminate':
      return `terminate ${effect.gently ? 'gently' : 'now'} ${effect.termAfter}+${effect.killAfter}`;
    case 'fail':
      return `fail ${effect.code} in ${effect.phase}${'ended' in effect && effect.ended ? ', ended' : ''}`;
    case 'leave':
    case 'refuseRestart':
      return `${effect.type} ${effect.code}`;
    case 'report':
      return `report ${effect.what}`;
    default:
      return effect.type;
  }
}

const TERM_NOW = `terminate now 0+${KILL_AFTER}`;
const TERM_GENTLY = `terminate gently ${FINISH_TIMEOUT}+${KILL_AFTER}`;
const ARM_GONE = `arm gone ${GONE_TIMEOUT}`;
const ACCEPTING_PHASES: readonly PredecessorPhase[] = ['offered', 'committing', 'probation'];

// ---- The old side ----------------------------------------------------------------------------------------------------------

test('the deadlines are those of docs/protocol.md', () => {
  assert.deepEqual([READY_TIMEOUT, COMMIT_TIMEOUT, PROBATION, RELEASE_MARGIN], [30_000, 5_000, 1_000, 5_000]);
});

test('a machine begins with nothing said, and only `start` begins it', () => {
  const state = newPredecessor({ birth: 'spawn' });
  assert.deepEqual(state, {
    phase: 'serving',
    birth: 'spawn',
    readyTimeout: READY_TIMEOUT,
    probation: PROBATION,
    hello: false,
    stopping: false,
    over: false,
    remains: false,
    killed: false,
    deadline: null,
  });
  assert.deepEqual(newSuccessor({ birth: 'takeover' }), {
    phase: 'starting',
    birth: 'takeover',
    probation: PROBATION,
    readyWanted: false,
    ended: false,
    split: false,
    released: false,
    restart: false,
    overdue: false,
    deaf: false,
    deadline: null,
  });
  for (const event of [hello, ready, abort, garbage, ended, { type: 'stop' }, { type: 'accepting' }] as const) {
    assert.deepEqual(predecessor(state, event), { state, effects: [] });
  }
});

describe('old: a handoff that goes well', () => {
  test('step by step: COMMIT on READY, listeners closed on RELEASE, and RELEASED said only then', () => {
    let state = newPredecessor({ birth: 'spawn', readyTimeout: 20_000, probation: 700 });
    const told: string[] = [];
    for (const event of [{ type: 'start' } as const, hello, ready, serving, release]) {
      const step = predecessor(state, event);
      state = step.state;
      told.push(step.effects.map(tell).join(', '));
    }
    assert.deepEqual(told, [
      'arm ready 20000',
      '',
      'send COMMIT 700, arm commit 5000',
      'arm release 5700',
      'disarm, closeListeners, send RELEASED, succeed',
    ]);
    assert.equal(state.phase, 'released');
  });

  test('all of it in one read, after a freeze', () => {
    const { state, told } = toOld(old('offered'), [ready, serving, release]);
    assert.equal(state.phase, 'released');
    assert.deepEqual(told.slice(-4), ['disarm', 'closeListeners', 'send RELEASED', 'succeed']);
  });

  test('a successor without a channel: its probation begins when it accepts, and the clock ends it', () => {
    const { state } = predecessor(newPredecessor({ birth: 'foreign', probation: 700 }), { type: 'start' });
    const accepting = predecessor(state, { type: 'accepting' });
    const over = toOld(accepting.state, [], { deadline: 'probation' });

    assert.deepEqual(accepting.effects.map(tell), ['arm probation 700']);
    assert.equal(accepting.state.phase, 'probation');
    assert.deepEqual(over.told, ['disarm', 'closeListeners', 'succeed']);
    assert.equal(over.state.phase, 'released');
  });

  test('a successor with a channel says by itself that it accepts: nothing else counts', () => {
    for (const phase of ['offered', 'committing', 'probation'] as const) {
      const state = old(phase);
      assert.deepEqual(predecessor(state, { type: 'accepting' }), { state, effects: [] });
    }
  });

  test('a foreign successor that accepts once more begins no second probation', () => {
    const state = old('probation', 'foreign');
    assert.deepEqual(predecessor(state, { type: 'accepting' }), { state, effects: [] });
  });
});

describe('old: the new one dies', () => {
  const deaths: [OldPhase, PredecessorBirth, Mail<FromSuccessor>[], string[]][] = [
    ['offered', 'spawn', [ended], [TERM_NOW, 'fail ERR_FDPASS_SUCCESSOR_EXITED in offered', 'disarm', 'clear']],
    [
      'committing',
      'spawn',
      [ended],
      [TERM_GENTLY, 'fail ERR_FDPASS_SUCCESSOR_EXITED in committing', 'disarm', 'clear'],
    ],
    ['probation', 'spawn', [ended], [TERM_GENTLY, 'fail ERR_FDPASS_PROBATION in probation', 'disarm', 'clear']],
    [
      'probation',
      'spawn',
      [release, ended],
      [TERM_GENTLY, 'fail ERR_FDPASS_PROBATION in probation', 'disarm', 'clear'],
    ],
    [
      'probation',
      'spawn',
      [ended, release],
      [TERM_GENTLY, 'fail ERR_FDPASS_PROBATION in probation', 'disarm', 'clear'],
    ],
    ['offered', 'takeover', [ended], ['fail ERR_FDPASS_SUCCESSOR_EXITED in offered', 'disarm', 'clear']],
    ['offered', 'foreign', [ended], [TERM_NOW, 'fail ERR_FDPASS_SUCCESSOR_EXITED in offered', 'disarm', 'clear']],
    [
      'probation',
      'foreign',
      [ended],
      [`terminate gently 0+${FINISH_TIMEOUT}`, 'fail ERR_FDPASS_PROBATION in probation', 'disarm', 'clear'],
    ],
  ];
  for (const [phase, birth, mail, expected] of deaths) {
    const letters = mail.map((item) => (item.type === 'message' ? item.message.type : item.type)).join(', ');
    test(`${birth}, ${phase}, ${letters}: back to serving`, () => {
      const { state, told } = toOld(old(phase, birth), mail);

      assert.deepEqual(told, expected);
      assert.equal(state.phase, 'serving');
      assert.equal(state.remains, false);
    });
  }

  test('released: nothing happens any more', () => {
    const state = old('released');
    assert.deepEqual(toOld(state, [ended]), { state, effects: [], told: [] });
  });

  test('RELEASE, and a death that only the pidfd shows at the same time: back to serving', () => {
    const { told } = toOld(old('probation'), [ended, release], { deadline: 'release' });
    assert.ok(!told.includes('closeListeners'));
  });
});

describe('old: a deadline', () => {
  const silences: [OldPhase, PredecessorDeadline, string][] = [
    ['offered', 'ready', 'ERR_FDPASS_READY_TIMEOUT'],
    ['committing', 'commit', 'ERR_FDPASS_COMMIT_TIMEOUT'],
    ['probation', 'release', 'ERR_FDPASS_PROBATION'],
  ];
  for (const [phase, deadline, code] of silences) {
    test(`${phase}: ABORT, back to serving, and the successor gets TERM and KILL`, () => {
      const { state, told } = toOld(old(phase), [], { deadline });
      const term = phase === 'offered' ? TERM_NOW : TERM_GENTLY;
      assert.deepEqual(told, [`send ABORT ${code}`, term, `fail ${code} in ${phase}`, ARM_GONE]);
      assert.equal(state.phase, 'serving');
    });
  }

  test('offered: a READY that is in the buffer wins over the timer', () => {
    const { state, told } = toOld(old('offered'), [ready], { deadline: 'ready' });
    assert.equal(state.phase, 'committing');
    assert.deepEqual(told, ['send COMMIT 1000', 'arm commit 5000']);
  });

  test('committing: a SERVING that is in the buffer wins over the timer', () => {
    const { state, told } = toOld(old('committing'), [serving], { deadline: 'commit' });
    assert.equal(state.phase, 'probation');
    assert.deepEqual(told, ['arm release 6000']);
  });

  test('probation: a RELEASE that is in the buffer wins over the timer', () => {
    assert.equal(toOld(old('probation'), [release], { deadline: 'release' }).state.phase, 'released');
  });

  test('probation by the clock: a death that the pidfd holds wins over the timer', () => {
    const { state, told } = toOld(old('probation', 'foreign'), [ended], { deadline: 'probation' });
    assert.equal(state.phase, 'serving');
    assert.ok(told.includes('fail ERR_FDPASS_PROBATION in probation'));
  });

  test('one that was disarmed while it fired is ignored', () => {
    for (const phase of ['offered', 'committing', 'probation'] as const) {
      const state = old(phase);
      for (const deadline of ['ready', 'commit', 'release', 'probation', 'gone'] as const) {
        if (deadline !== state.deadline)
          assert.deepEqual(toOld(state, [], { deadline }).told, [], `${phase} ${deadline}`);
      }
    }
  });

  test('a late SERVING and a late RELEASE are dropped: ABORT was final', () => {
    const { state } = toOld(old('committing'), [], { deadline: 'commit' });
    assert.deepEqual(toOld(state, [serving, release]), { state, effects: [], told: [] });
  });
});

describe('old: the new one says ABORT, or nonsense', () => {
  for (const phase of ['offered', 'committing', 'probation'] as const) {
    test(`${phase}, ABORT: back to serving; no ABORT is answered, and it may finish`, () => {
      const { state, told } = toOld(old(phase), [abort]);
      assert.deepEqual(told, [TERM_GENTLY, `fail ERR_FDPASS_ABORTED in ${phase}`, ARM_GONE]);
      assert.equal(state.phase, 'serving');
    });

    test(`${phase}, garbage: ABORT, back to serving`, () => {
      const { told } = toOld(old(phase), [garbage]);
      const term = phase === 'offered' ? TERM_NOW : TERM_GENTLY;
      assert.deepEqual(told, [
        'send ABORT ERR_FDPASS_PROTOCOL',
        term,
        `fail ERR_FDPASS_PROTOCOL in ${phase}`,
        ARM_GONE,
      ]);
    });
  }

  test('ABORT takes back what was said before it: READY is not answered with COMMIT', () => {
    assert.deepEqual(toOld(old('offered'), [ready, abort]).told[0], TERM_GENTLY);
  });

  test('ABORT counts, wherever the pidfd puts the end', () => {
    for (const mail of [
      [ended, abort],
      [abort, ended],
    ]) {
      const { told } = toOld(old('offered'), mail);
      assert.deepEqual(told, [TERM_GENTLY, 'fail ERR_FDPASS_ABORTED in offered', ARM_GONE, 'disarm', 'clear']);
    }
  });

  test('ABORT behind RELEASE: the listeners stay open', () => {
    assert.equal(toOld(old('probation'), [release, abort]).state.phase, 'serving');
  });

  test('garbage behind RELEASE: the listeners stay open', () => {
    const { told } = toOld(old('probation'), [release, garbage]);
    assert.ok(told.includes('fail ERR_FDPASS_PROTOCOL in probation') && !told.includes('closeListeners'));
  });

  test('the message of the ABORT is in the failure', () => {
    const [failure] = toOld(old('offered'), [abort]).effects.filter((effect) => effect.type === 'fail');
    assert.match(failure?.message ?? '', /ERR_X, why/);
  });

  test('ABORT with ERR_FDPASS_VERSION keeps its code', () => {
    const { told } = toOld(old('offered'), [
      { type: 'message', message: { type: 'ABORT', code: 'ERR_FDPASS_VERSION', message: '' } },
    ]);
    assert.ok(told.includes('fail ERR_FDPASS_VERSION in offered'));
  });

  test('HELLO of other versions: ABORT ERR_FDPASS_VERSION, back to serving', () => {
    const { state } = predecessor(newPredecessor({ birth: 'spawn' }), { type: 'start' });
    const { told } = toOld(state, [otherHello, ready]);
    assert.deepEqual(told, ['send ABORT ERR_FDPASS_VERSION', TERM_NOW, 'fail ERR_FDPASS_VERSION in offered', ARM_GONE]);
  });

  const wrong: [OldPhase | 'before HELLO', Mail<FromSuccessor>][] = [
    ['before HELLO', ready],
    ['before HELLO', serving],
    ['before HELLO', release],
    ['offered', hello],
    ['offered', serving],
    ['offered', release],
    ['committing', hello],
    ['committing', ready],
    ['committing', release],
    ['probation', hello],
    ['probation', ready],
    ['probation', serving],
  ];
  for (const [phase, mail] of wrong) {
    const type = mail.type === 'message' ? mail.message.type : '';
    test(`${phase}, ${type}: a protocol error`, () => {
      const state =
        phase === 'before HELLO'
          ? predecessor(newPredecessor({ birth: 'spawn' }), { type: 'start' }).state
          : old(phase);
      const { told } = toOld(state, [mail]);
      assert.equal(told[0], 'send ABORT ERR_FDPASS_PROTOCOL');
      assert.ok(told.includes(`fail ERR_FDPASS_PROTOCOL in ${state.phase}`));
    });
  }

  test('released: ABORT, garbage and late words are ignored', () => {
    const state = old('released');
    for (const mail of [abort, garbage, hello, ready, serving, release]) {
      assert.deepEqual(toOld(state, [mail]), { state, effects: [], told: [] });
    }
  });
});

describe('old: failures of its own', () => {
  for (const phase of ['offered', 'committing', 'probation'] as const) {
    const term = phase === 'offered' ? TERM_NOW : TERM_GENTLY;

    test(`${phase}, EPIPE: back to serving`, () => {
      const { state, told } = toOld(old(phase), [], 'sendFailed');
      assert.equal(state.phase, 'serving');
      assert.ok(told.includes('clear'));
      assert.ok(!told.some((effect) => effect.startsWith('send')));
    });

    test(`${phase}, the caller cancels: ABORT with its code`, () => {
      const event: PredecessorWish = { type: 'cancel', code: 'ERR_FDPASS_LIMIT', message: 'need 12, have 3' };
      const { told } = toOld(old(phase), [], { event });
      assert.deepEqual(told, ['send ABORT ERR_FDPASS_LIMIT', term, `fail ERR_FDPASS_LIMIT in ${phase}`, ARM_GONE]);
    });

    for (const type of ['stop', 'exit'] as const) {
      test(`${phase}, spawn, ${type}: ABORT, so that the successor does not take it for a crash`, () => {
        const { told } = toOld(old(phase), [], { event: { type } });
        assert.deepEqual(told, [
          'send ABORT ERR_FDPASS_ABORTED',
          term,
          `fail ERR_FDPASS_ABORTED in ${phase}`,
          ARM_GONE,
        ]);
      });
    }

    test(`${phase}, foreign or not, a second start changes nothing`, () => {
      const state = old(phase);
      assert.deepEqual(predecessor(state, { type: 'start' }), { state, effects: [] });
    });
  }

  test('offered, takeover, stop: it goes on to READY for at most 5 s', () => {
    const first = toOld(old('offered', 'takeover'), [], { event: { type: 'stop' } });
    const again = toOld(first.state, [], { event: { type: 'stop' } });
    const inTime = toOld(again.state, [ready], { deadline: 'ready' });
    const late = toOld(again.state, [], { deadline: 'ready' });

    assert.deepEqual(first.told, [`arm ready ${STOPPING_READY_TIMEOUT}`]);
    assert.deepEqual(again.told, []);
    assert.equal(inTime.state.phase, 'committing');
    assert.deepEqual(late.told, [
      'send ABORT ERR_FDPASS_READY_TIMEOUT',
      'fail ERR_FDPASS_READY_TIMEOUT in offered',
      ARM_GONE,
    ]);
  });

  test('committing and probation, takeover, stop: it goes on', () => {
    for (const phase of ['committing', 'probation'] as const) {
      const { state, told } = toOld(old(phase, 'takeover'), [], { event: { type: 'stop' } });
      assert.deepEqual(told, []);
      assert.equal(state.phase, phase);
      assert.equal(state.stopping, true);
    }
  });

  test('offered, foreign, stop: there is no channel for an ABORT, TERM says it', () => {
    const { told } = toOld(old('offered', 'foreign'), [], { event: { type: 'stop' } });
    assert.deepEqual(told, [TERM_NOW, 'fail ERR_FDPASS_ABORTED in offered', ARM_GONE]);
  });

  test('probation, foreign, cancel: TERM at once, and time to finish', () => {
    const { told } = toOld(old('probation', 'foreign'), [], {
      event: { type: 'cancel', code: 'ERR_FDPASS_ABORTED', message: '' },
    });
    assert.deepEqual(told, [
      `terminate gently 0+${FINISH_TIMEOUT}`,
      'fail ERR_FDPASS_ABORTED in probation',
      `arm gone ${FINISH_TIMEOUT}`,
    ]);
  });

  test('supersede: before READY only, and a READY that waits counts', () => {
    const before = toOld(old('offered'), [], { event: { type: 'supersede' } });
    const waiting = toOld(old('offered'), [ready], { event: { type: 'supersede' } });
    const after = toOld(old('probation'), [], { event: { type: 'supersede' } });

    assert.deepEqual(before.told, [
      'send ABORT ERR_FDPASS_SUPERSEDED',
      TERM_NOW,
      'fail ERR_FDPASS_SUPERSEDED in offered',
      ARM_GONE,
    ]);
    assert.equal(waiting.state.phase, 'committing');
    assert.deepEqual(after.told, []);
  });

  test('a wish meets the state that the mail leaves: RELEASE in the buffer, and it is asked to stop', () => {
    const { state, told } = toOld(old('probation'), [release], { event: { type: 'stop' } });
    assert.equal(state.phase, 'released');
    assert.ok(!told.some((effect) => effect.startsWith('send ABORT')));
  });

  test('released, and over: nothing of all this does anything', () => {
    const cancelled = toOld(old('offered'), [], {
      event: { type: 'cancel', code: 'ERR_FDPASS_ABORTED', message: '' },
    }).state;
    const events: PredecessorEvent[] = [
      { type: 'start' },
      { type: 'accepting' },
      { type: 'cancel', code: 'ERR_FDPASS_ABORTED', message: '' },
      { type: 'supersede' },
      { type: 'stop' },
      { type: 'exit' },
      { type: 'deadline', deadline: 'ready' },
      garbage,
      ready,
    ];
    for (const state of [old('released'), cancelled]) {
      for (const event of events) assert.deepEqual(predecessor(state, event), { state, effects: [] }, event.type);
    }
  });
});

describe('old: what is left of an aborted successor', () => {
  const cancel: PredecessorWish = { type: 'cancel', code: 'ERR_FDPASS_ABORTED', message: '' };

  test('until it has let go no other handoff may start; its end clears the way', () => {
    const { state } = toOld(old('offered'), [], { event: cancel });
    assert.equal(state.remains, true);
    const { state: clear, told } = toOld(state, [abort, ended]);
    assert.deepEqual(told, ['disarm', 'clear']);
    assert.equal(clear.remains, false);
    assert.deepEqual(toOld(clear, [ended]).told, []);
  });

  test('one that does not react is killed, and then given up', () => {
    const { state } = toOld(old('committing'), [], { event: cancel });
    const first = toOld(state, [], { deadline: 'gone' });
    const second = toOld(first.state, [], { deadline: 'gone' });
    assert.deepEqual(first.told, ['kill', ARM_GONE]);
    assert.deepEqual(second.told, ['disarm', 'clear']);
  });

  test('one that has reacted at the last moment is not killed', () => {
    const { state } = toOld(old('committing'), [], { event: cancel });
    assert.deepEqual(toOld(state, [ended], { deadline: 'gone' }).told, ['disarm', 'clear']);
  });

  test('a newcomer over the takeover path is not ours to kill', () => {
    const { state } = toOld(old('committing', 'takeover'), [], { event: cancel });
    assert.deepEqual(toOld(state, [], { deadline: 'gone' }).told, ['disarm', 'clear']);
  });

  test('EPIPE for the ABORT is as good as its end', () => {
    const { state } = toOld(old('offered'), [], { event: cancel });
    assert.deepEqual(toOld(state, [], 'sendFailed').told, ['disarm', 'clear']);
  });
});

test('old: it accepts in every phase but released, whatever comes', () => {
  // Three events of every kind in a row, from every phase: only RELEASE in probation, or the clock's, closes anything.
  const events: [Mail<FromSuccessor>[], Wake<PredecessorDeadline, PredecessorWish>][] = [
    ...[hello, otherHello, ready, serving, release, abort, garbage, ended].map(
      (mail): [Mail<FromSuccessor>[], 'readable'] => [[mail], 'readable'],
    ),
    [[], 'sendFailed'],
    ...(['ready', 'commit', 'release', 'gone'] as const).map(
      (deadline): [Mail<FromSuccessor>[], Wake<PredecessorDeadline>] => [[], { deadline }],
    ),
    [[], { event: { type: 'stop' } }],
    [[], { event: { type: 'supersede' } }],
  ];
  const walk = (state: PredecessorState, depth: number): void => {
    if (depth === 0) return;
    for (const [mail, why] of events) {
      const before = state.phase;
      const step = toOld(state, mail, why);
      if (step.told.includes('closeListeners')) {
        assert.equal(before, 'probation');
        assert.deepEqual(mail, [release]);
      }
      if (step.state.phase !== 'released') walk(step.state, depth - 1);
    }
  };
  for (const phase of ACCEPTING_PHASES) walk(old(phase as OldPhase), 3);
});

// ---- The new side ----------------------------------------------------------------------------------------------------------

describe('new: a handoff that goes well', () => {
  test('step by step', () => {
    let state = newSuccessor({ birth: 'spawn' });
    const told: string[] = [];
    const events: SuccessorEvent[] = [
      { type: 'start' },
      { type: 'adopted', probation: 600 },
      { type: 'ready' },
      commit,
      { type: 'deadline', deadline: 'probation' },
      released,
    ];
    for (const event of events) {
      const step = successor(state, event);
      state = step.state;
      told.push(step.effects.map(tell).join(', '));
    }
    assert.deepEqual(told, [
      'send HELLO',
      '',
      'send READY, arm commit 5000',
      'accept, send SERVING, arm probation 700',
      `send RELEASE, arm released ${RELEASED_TIMEOUT}`,
      'disarm, alone',
    ]);
    assert.equal(state.phase, 'alone');
  });

  test('takeover: the set comes over the channel, within a deadline', () => {
    const start = successor(newSuccessor({ birth: 'takeover' }), { type: 'start' });
    const adopted = successor(start.state, { type: 'adopted', probation: 600 });
    assert.deepEqual(start.effects.map(tell), ['send HELLO', `arm adopt ${ADOPT_TIMEOUT}`]);
    assert.deepEqual(adopted.effects.map(tell), ['disarm']);
  });

  test('ready() before the set is complete: READY follows', () => {
    const { state } = successor(fresh('starting', 'takeover'), { type: 'ready' });
    const { state: now, effects } = successor(state, { type: 'adopted', probation: 600 });
    assert.deepEqual(effects.map(tell), ['disarm', 'send READY', 'arm commit 5000']);
    assert.equal(now.phase, 'ready');
  });

  test('ready() twice is one READY, and a set is complete once', () => {
    const state = fresh('ready');
    assert.deepEqual(successor(state, { type: 'adopted', probation: 1 }), { state, effects: [] });
    assert.deepEqual(successor(state, { type: 'ready' }), { state, effects: [] });
  });
});

describe('new: the old one dies', () => {
  test('starting, spawn: the set is complete from exec: it promotes itself at ready()', () => {
    const { state, told } = toNew(fresh('starting'), [ended]);
    const adopted = successor(state, { type: 'adopted', probation: 600 });
    const promoted = successor(adopted.state, { type: 'ready' });
    assert.deepEqual([...told, ...adopted.effects.map(tell)], []);
    assert.deepEqual(promoted.effects.map(tell), ['accept', 'disarm', 'alone']);
  });

  test('starting, takeover: closes all; a cold start may follow', () => {
    const { state, told } = toNew(fresh('starting', 'takeover'), [ended]);
    assert.deepEqual(told, ['disarm', 'closeAll', 'fail ERR_FDPASS_ABORTED in starting, ended']);
    assert.equal(state.phase, 'failed');
  });

  for (const birth of ['spawn', 'takeover'] as const) {
    test(`adopted, ${birth}: it promotes itself at ready(), and says nothing to the dead`, () => {
      const { state, told } = toNew(fresh('adopted', birth), [ended]);
      assert.deepEqual(told, []);
      assert.deepEqual(successor(state, { type: 'ready' }).effects.map(tell), ['accept', 'disarm', 'alone']);
    });
  }

  for (const mail of [[ended], [released], [{ ...garbage }, ended]]) {
    test(`ready, ${mail.map((item) => item.type).join(', ')}: it accepts, alone`, () => {
      const { state, told } = toNew(fresh('ready'), mail);
      assert.deepEqual(told, ['accept', 'disarm', 'alone']);
      assert.equal(state.phase, 'alone');
    });
  }

  test('ready, COMMIT and the end in one read: it accepts once, and is alone', () => {
    const { told } = toNew(fresh('ready'), [commit, ended]);
    assert.deepEqual(told, ['accept', 'send SERVING', 'arm probation 700', 'disarm', 'alone']);
  });

  test('ready, EPIPE for READY: as good as its end, once the mail is read', () => {
    assert.deepEqual(toNew(fresh('ready'), [], 'sendFailed').told, ['accept', 'disarm', 'alone']);
    assert.equal(toNew(fresh('ready'), [abort, ended], 'sendFailed').state.phase, 'failed');
  });

  test('serving: alone', () => {
    assert.deepEqual(toNew(fresh('serving'), [ended]).told, ['disarm', 'alone']);
  });

  test('alone: ignored', () => {
    const state = fresh('alone');
    assert.deepEqual(toNew(state, [ended]), { state, effects: [], told: [] });
  });

  for (const phase of ['adopted', 'ready', 'serving'] as const) {
    test(`${phase}, ABORT and then the end: an old one that stops on purpose is not promoted over`, () => {
      const { state } = toNew(fresh(phase), [abort, ended]);
      assert.equal(state.phase, phase === 'serving' ? 'leaving' : 'failed');
    });
  }
});

describe('new: a deadline', () => {
  test('adopting: closes all, says ABORT', () => {
    const { told } = toNew(fresh('starting', 'takeover'), [], { deadline: 'adopt' });
    assert.deepEqual(told, [
      'send ABORT ERR_FDPASS_ABORTED',
      'disarm',
      'closeAll',
      'fail ERR_FDPASS_ABORTED in starting',
    ]);
  });

  test('ready: no COMMIT in 5 s, though the old one lives: it accepts, says SERVING, reports a split', () => {
    const { state, told } = toNew(fresh('ready'), [], { deadline: 'commit' });
    assert.deepEqual(told, ['accept', 'send SERVING split', 'arm probation 600', 'report split']);
    assert.equal(state.phase, 'serving');
    assert.equal(state.split, true);
  });

  test('ready: a COMMIT that is in the buffer wins over the timer', () => {
    const { state, told } = toNew(fresh('ready'), [commit], { deadline: 'commit' });
    assert.deepEqual(told, ['accept', 'send SERVING', 'arm probation 700']);
    assert.equal(state.split, false);
  });

  test('ready: an ABORT that is in the buffer wins over the timer, and over a COMMIT before it', () => {
    for (const mail of [[abort], [commit, abort]]) {
      const { told } = toNew(fresh('ready'), mail, { deadline: 'commit' });
      assert.deepEqual(told, ['disarm', 'closeAll', 'fail ERR_FDPASS_ABORTED in ready']);
    }
  });

  test('serving, split: a COMMIT that comes later is taken', () => {
    const { state } = toNew(fresh('ready'), [], { deadline: 'commit' });
    const late = toNew(state, [commit]);
    assert.deepEqual(late.told, ['report lateCommit']);
    assert.equal(late.state.split, false);
    assert.equal(late.state.deadline, 'probation');
  });

  test('serving: a second COMMIT changes nothing', () => {
    const state = fresh('serving');
    assert.deepEqual(toNew(state, [commit]), { state, effects: [], told: [] });
  });

  test('serving: RELEASED is overdue: said once, and waited for on', () => {
    const { state } = toNew(fresh('serving'), [], { deadline: 'probation' });
    const first = toNew(state, [], { deadline: 'released' });
    const second = toNew(first.state, [], { deadline: 'released' });
    assert.deepEqual(first.told, [`arm released ${RELEASED_TIMEOUT}`, 'report notReleased']);
    assert.deepEqual(second.told, [`arm released ${RELEASED_TIMEOUT}`]);
    assert.equal(toNew(second.state, [released]).state.phase, 'alone');
  });

  test('one that was disarmed while it fired is ignored', () => {
    for (const phase of ['starting', 'adopted', 'ready', 'serving', 'alone', 'failed', 'leaving'] as const) {
      const state = fresh(phase);
      for (const deadline of ['adopt', 'commit', 'probation', 'released'] as const) {
        if (deadline !== state.deadline)
          assert.deepEqual(toNew(state, [], { deadline }).told, [], `${phase} ${deadline}`);
      }
    }
  });
});

describe('new: the old one says ABORT, or nonsense', () => {
  for (const phase of ['starting', 'adopted', 'ready'] as const) {
    test(`${phase}, ABORT: closes all`, () => {
      const { told } = toNew(fresh(phase), [abort]);
      assert.deepEqual(told, ['disarm', 'closeAll', `fail ERR_FDPASS_ABORTED in ${phase}`]);
    });

    test(`${phase}, garbage: says ABORT, closes all`, () => {
      const { told } = toNew(fresh(phase), [garbage]);
      assert.deepEqual(told, [
        'send ABORT ERR_FDPASS_PROTOCOL',
        'disarm',
        'closeAll',
        `fail ERR_FDPASS_PROTOCOL in ${phase}`,
      ]);
    });
  }

  test('starting, garbage and the end: it was no predecessor, and no cold start follows', () => {
    const { told } = toNew(fresh('starting', 'takeover'), [garbage, ended]);
    assert.equal(told.at(-1), 'fail ERR_FDPASS_PROTOCOL in starting');
  });

  for (const phase of ['starting', 'adopted'] as const) {
    test(`${phase}, COMMIT before READY: a protocol error`, () => {
      assert.equal(toNew(fresh(phase), [commit]).told[0], 'send ABORT ERR_FDPASS_PROTOCOL');
    });
  }

  test('starting and adopted, RELEASED: it has closed, and is as good as gone', () => {
    assert.equal(toNew(fresh('starting'), [released]).state.ended, true);
    assert.equal(toNew(fresh('adopted'), [released]).state.ended, true);
  });

  test('ABORT with ERR_FDPASS_VERSION keeps its code', () => {
    const mail: Mail<FromPredecessor> = {
      type: 'message',
      message: { type: 'ABORT', code: 'ERR_FDPASS_VERSION', message: '' },
    };
    assert.equal(toNew(fresh('adopted'), [mail]).told.at(-1), 'fail ERR_FDPASS_VERSION in adopted');
  });

  test('serving, ABORT: stops accepting, finishes what it accepted, leaves', () => {
    const { state, told } = toNew(fresh('serving'), [abort]);
    assert.deepEqual(told, ['disarm', 'stopAccepting', 'leave ERR_X']);
    assert.equal(state.phase, 'leaving');
  });

  test('serving, RELEASE said, ABORT: the same: the old one was not yet released', () => {
    const { state } = toNew(fresh('serving'), [], { deadline: 'probation' });
    assert.equal(toNew(state, [abort]).state.phase, 'leaving');
  });

  test('serving, garbage: until RELEASE the old one accepts: ABORT, and leave', () => {
    const { told } = toNew(fresh('serving'), [garbage]);
    assert.deepEqual(told, ['send ABORT ERR_FDPASS_PROTOCOL', 'disarm', 'stopAccepting', 'leave ERR_FDPASS_PROTOCOL']);
  });

  test('starting and adopted, spawn, garbage with the end behind it: the set is complete, and nobody else is left', () => {
    for (const phase of ['starting', 'adopted'] as const) {
      const { state, told } = toNew(fresh(phase), [garbage, ended]);
      assert.deepEqual(told, []);
      assert.equal(state.ended, true);
    }
  });

  test('serving, garbage with the end behind it: the last words of a dying one: alone', () => {
    assert.deepEqual(toNew(fresh('serving'), [garbage, ended]).told, ['disarm', 'alone']);
  });

  test('adopted, ready and serving, takeover, garbage with the end behind it: the old one may live: nothing is promoted', () => {
    for (const phase of ['adopted', 'ready', 'serving'] as const) {
      const { state } = toNew(fresh(phase, 'takeover'), [garbage, ended]);
      assert.equal(state.phase, phase === 'serving' ? 'leaving' : 'failed');
    }
  });

  test('serving, RELEASE said, garbage: it may be the only one that accepts, so it stays until the old one ends', () => {
    const { state } = toNew(fresh('serving'), [], { deadline: 'probation' });
    const deaf = toNew(state, [garbage]);
    assert.deepEqual(deaf.told, ['report garbage']);
    assert.deepEqual(toNew(deaf.state, [abort]).told, []);
    assert.deepEqual(toNew(deaf.state, [released]).told, []);
    assert.deepEqual(toNew(deaf.state, [garbage]).told, []);
    assert.deepEqual(toNew(deaf.state, [ended]).told, ['disarm', 'alone']);
  });

  test('alone: ABORT, COMMIT and garbage are ignored', () => {
    const state = fresh('alone');
    for (const mail of [abort, commit, released, garbage]) {
      assert.deepEqual(toNew(state, [mail]), { state, effects: [], told: [] });
    }
  });

  test('RELEASED cannot be taken back by an ABORT behind it', () => {
    assert.equal(toNew(fresh('serving'), [released, abort]).state.phase, 'alone');
  });
});

describe('new: failures of its own', () => {
  for (const phase of ['starting', 'adopted', 'ready'] as const) {
    for (const event of [{ type: 'failed', code: 'ERR_FDPASS_MISMATCH', message: 'x' }, { type: 'stop' }] as const) {
      test(`${phase}, ${event.type}: ABORT, close, and fail`, () => {
        const code = event.type === 'stop' ? 'ERR_FDPASS_ABORTED' : event.code;
        const { effects } = successor(fresh(phase), event);
        assert.deepEqual(effects.map(tell), [`send ABORT ${code}`, 'disarm', 'closeAll', `fail ${code} in ${phase}`]);
      });
    }
  }

  test('adopted, the old one ended, the application fails: nobody is left to be told', () => {
    const { state } = toNew(fresh('adopted'), [ended]);
    const { effects } = successor(state, { type: 'failed', code: 'ERR_FDPASS_MISMATCH', message: 'x' });
    assert.deepEqual(effects.map(tell), ['disarm', 'closeAll', 'fail ERR_FDPASS_MISMATCH in adopted']);
  });

  for (const event of [
    { type: 'failed', code: 'ERR_FDPASS_BADFD', message: 'accept threw' },
    { type: 'stop' },
  ] as const) {
    test(`serving, ${event.type}: ABORT first, so that the old one goes on; then it leaves`, () => {
      const code = event.type === 'stop' ? 'ERR_FDPASS_ABORTED' : event.code;
      const { effects } = successor(fresh('serving'), event);
      assert.deepEqual(effects.map(tell), [`send ABORT ${code}`, 'disarm', 'stopAccepting', `leave ${code}`]);
    });
  }

  test('alone, failed, leaving: no longer the business of the handoff', () => {
    for (const phase of ['alone', 'failed', 'leaving'] as const) {
      const state = fresh(phase);
      const events: SuccessorEvent[] = [
        { type: 'start' },
        { type: 'adopted', probation: 1 },
        { type: 'ready' },
        { type: 'failed', code: 'ERR_FDPASS_BADFD', message: '' },
        { type: 'stop' },
        { type: 'sendFailed' },
        ended,
      ];
      for (const event of events)
        assert.deepEqual(successor(state, event), { state, effects: [] }, `${phase} ${event.type}`);
    }
  });

  test('a restart of its own, asked for in the probation: RELEASE at once, a successor only once alone', () => {
    const asked = successor(fresh('serving'), { type: 'restartRequested' });
    const alone = toNew(asked.state, [released]);
    assert.deepEqual(asked.effects.map(tell), ['send RELEASE', `arm released ${RELEASED_TIMEOUT}`]);
    assert.deepEqual(alone.told, ['disarm', 'alone', 'startSuccessor']);
    assert.deepEqual(successor(alone.state, { type: 'restartRequested' }).effects.map(tell), ['startSuccessor']);
  });

  test('asked for twice, RELEASE is said once', () => {
    const { state } = successor(fresh('serving'), { type: 'restartRequested' });
    assert.deepEqual(successor(state, { type: 'restartRequested' }).effects, []);
  });

  test('asked for before SERVING (a signal to the group): the probation is not cut short', () => {
    for (const phase of ['starting', 'adopted', 'ready'] as const) {
      const step = successor(fresh(phase), { type: 'restartRequested' });
      assert.deepEqual(step.effects, []);
      assert.equal(step.state.restart, true);
    }
    const { state } = successor(fresh('ready'), { type: 'restartRequested' });
    const accepted = toNew(state, [commit]);
    assert.deepEqual(accepted.told, ['accept', 'send SERVING', 'arm probation 700']);
    assert.deepEqual(toNew(accepted.state, [ended]).told, ['disarm', 'alone', 'startSuccessor']);
  });

  test('a wait for RELEASED is bounded for whoever waits: the restart is refused, once', () => {
    const { state } = successor(fresh('serving'), { type: 'restartRequested' });
    const late = toNew(state, [], { deadline: 'released' });
    assert.deepEqual(late.told, [
      `arm released ${RELEASED_TIMEOUT}`,
      'report notReleased',
      'refuseRestart ERR_FDPASS_NOT_READY',
    ]);
    assert.deepEqual(toNew(late.state, [released]).told, ['disarm', 'alone']);
  });

  test('a restart that was asked for is refused when the process fails or leaves instead', () => {
    const { state } = successor(fresh('adopted'), { type: 'restartRequested' });
    const { state: waiting } = successor(fresh('serving'), { type: 'restartRequested' });
    assert.ok(toNew(state, [abort]).told.includes('refuseRestart ERR_FDPASS_NOT_READY'));
    assert.ok(toNew(waiting, [abort]).told.includes('refuseRestart ERR_FDPASS_NOT_READY'));
    for (const phase of ['failed', 'leaving'] as const) {
      const { effects } = successor(fresh(phase), { type: 'restartRequested' });
      assert.deepEqual(effects.map(tell), ['refuseRestart ERR_FDPASS_NOT_READY']);
    }
  });
});

// ---- Both ------------------------------------------------------------------------------------------------------------------

test('what is not an event of a machine is refused loudly', () => {
  for (const phase of ['offered', 'committing', 'probation'] as const) {
    assert.throws(() => predecessor(old(phase), { type: 'nonsense' } as unknown as PredecessorEvent), TypeError);
  }
  for (const phase of ['starting', 'adopted', 'ready', 'serving'] as const) {
    assert.throws(() => successor(fresh(phase), { type: 'nonsense' } as unknown as SuccessorEvent), TypeError);
  }
});

test('a machine changes no state in place', () => {
  const before = Object.freeze(old('probation'));
  toOld(before, [release]);
  const fixed = Object.freeze(fresh('ready'));
  toNew(fixed, [commit]);
});
