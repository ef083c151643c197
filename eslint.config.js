/**
 * ESLint: the strict, type-aware rules of typescript-eslint for the TypeScript, light ones for the scripts and examples,
 * and two rules of our own: lib/ is a stack of layers, and a non-null assertion says why it holds.
 */
import path from 'node:path';
import js from '@eslint/js';
import tseslint from 'typescript-eslint';

/** lib/ from the bottom up. A file imports from its own line and from lines before it. A folder stands for its other files. */
const LAYERS = [
  ['command', 'deferred', 'errors', 'names', 'native', 'nodeInternals', 'report', 'supervised', 'thread'],
  ['raw'],
  ['conventions'],
  ['address', 'connections', 'giving', 'intercept', 'link', 'listener', 'pidfs', 'readySignal', 'serving', 'spawn'],
  ['channel', 'dialog', 'fdholder', 'haproxy', 'launchd'],
  ['notify', 'notifications', 'handoff/frame', 'handoff/wire'],
  ['discover', 'inherit', 'inheritOther', 'tableflip'],
  ['moving'],
  ['ws'],
  ['drain'],
  ['handoff'],
  ['lifecycle'],
  ['cli'],
  ['index'],
];

const lib = path.join(import.meta.dirname, 'lib');

/** The layer of a file: that of its own path below lib/, else that of its folder. -1: not in the list. */
function layerOf(file) {
  const name = path.relative(lib, file).replace(/\.[jt]s$/, '');
  const own = LAYERS.findIndex((layer) => layer.includes(name));
  return own >= 0 || !name.includes('/') ? own : layerOf(path.dirname(file));
}

const layers = {
  create(context) {
    const own = layerOf(context.filename);
    function check(node) {
      const source = node.source?.value;
      if (typeof source !== 'string' || !source.startsWith('.')) return;
      const target = layerOf(path.resolve(path.dirname(context.filename), source));
      if (target < 0) context.report({ node, message: `${source} has no layer: see LAYERS in eslint.config.js` });
      if (target > own) context.report({ node, message: `${source} is a layer above: import only from below` });
    }
    return {
      Program(node) {
        if (own < 0) context.report({ node, message: 'This file has no layer: see LAYERS in eslint.config.js' });
      },
      ImportDeclaration: check,
      ImportExpression: check,
      ExportNamedDeclaration: check,
      ExportAllDeclaration: check,
    };
  },
};

const explainedNonNull = {
  create(context) {
    const lines = new Set();
    for (const { loc } of context.sourceCode.getAllComments()) lines.add(loc.end.line).add(loc.end.line + 1);
    return {
      TSNonNullExpression(node) {
        const { line } = node.loc.end;
        if (!lines.has(line)) context.report({ node, message: 'A comment here or above says why this is never null' });
      },
    };
  },
};

const knownSafe = { from: 'package', package: 'node:test', name: ['test', 'it', 'describe', 'suite'] };

export default tseslint.config(
  { ignores: ['build/', 'dist/', 'prebuilds/'] },
  { linterOptions: { reportUnusedDisableDirectives: 'error' } },
  js.configs.recommended,
  {
    files: ['**/*.ts'],
    extends: [tseslint.configs.strictTypeChecked],
    languageOptions: { parserOptions: { projectService: true, tsconfigRootDir: import.meta.dirname } },
    plugins: { fdpass: { rules: { layers, 'explained-non-null': explainedNonNull } } },
    rules: {
      '@typescript-eslint/no-confusing-void-expression': ['error', { ignoreArrowShorthand: true }],
      '@typescript-eslint/no-floating-promises': ['error', { allowForKnownSafeCalls: [knownSafe] }],
      '@typescript-eslint/no-non-null-assertion': 'off', // ours asks for the reason
      '@typescript-eslint/no-unnecessary-condition': [
        'error',
        { allowConstantLoopConditions: 'only-allowed-literals' },
      ],
      '@typescript-eslint/restrict-plus-operands': ['error', { allowNumberAndString: true }],
      '@typescript-eslint/restrict-template-expressions': ['error', { allowNumber: true }],
    },
  },
  { files: ['lib/**/*.ts'], rules: { 'fdpass/layers': 'error', 'fdpass/explained-non-null': 'error' } },
  {
    files: ['**/*.{js,mjs}'],
    languageOptions: {
      globals: Object.fromEntries(Object.getOwnPropertyNames(globalThis).map((name) => [name, 'readonly'])),
    },
  },
);
