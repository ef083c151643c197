/**
 * The documents keep their word: programs run and type-check, links and names lead somewhere, every export is described.
 * Reads the Markdown files and the sources; starts the programs it finds, on ports and in a directory of its own.
 */
import assert from 'node:assert/strict';
import fs from 'node:fs';
import { builtinModules, createRequire } from 'node:module';
import path from 'node:path';
import { describe, test } from 'node:test';

import ts from 'typescript';

import { get } from './support/client.js';
import { type Scope, startProcess, startServer, temporaryDirectory } from './support/fixture.js';

const root = path.resolve(import.meta.dirname, '../..');
const require = createRequire(path.join(root, 'package.json'));
const documents = ['.', 'docs', 'docs/supervisors', 'examples', 'prebuilds'].flatMap((folder) =>
  fs
    .readdirSync(path.join(root, folder))
    .filter((name) => name.endsWith('.md'))
    .map((name) => path.join(folder, name)),
);

/** A fenced block of a document. */
interface Block {
  where: string;
  language: string;
  /** The file that it shows, as in ```js examples/http.mjs: '' where it is its own. */
  file: string;
  text: string;
}

const blocks = documents.flatMap((document): Block[] =>
  [...read(document).matchAll(/^```(\w*)(?: (\S+))?\n([\s\S]*?)^```$/gm)].map((match) => ({
    where: `${document}:${read(document).slice(0, match.index).split('\n').length}`,
    language: match[1] ?? '',
    file: match[2] ?? '',
    text: match[3] ?? '',
  })),
);
const programs = blocks.filter(({ language }) => ['js', 'mjs', 'javascript', 'ts', 'typescript'].includes(language));

function read(file: string): string {
  return fs.readFileSync(path.join(root, file), 'utf8');
}

// ---- Programs ------------------------------------------------------------------------------------------------------------

const first = programs.find(({ where }) => where.startsWith('README.md'));
const servers = programs.filter(
  (program) => program.file === '' && isHere(program) && program.text.includes('`listening on'),
);

/** Whether everything that the program imports is installed: koa is not, and is looked at by eye alone. */
function isHere({ text }: Block): boolean {
  const names = [...text.matchAll(/from '([^'.]+)'/g)].map(({ 1: name = '' }) => name);
  return names.every((name) => {
    if (name.startsWith('node:')) return builtinModules.includes(name.slice('node:'.length));
    if (name.startsWith('fdpass')) return true;
    return fs.existsSync(path.join(root, 'node_modules', name));
  });
}

/** A directory in which the program finds what it imports, and its file. It binds port 0 in place of its own. */
function writeProgram(t: Scope, { text }: Block): string {
  const directory = temporaryDirectory(t);
  fs.mkdirSync(path.join(directory, 'node_modules'));
  fs.symlinkSync(root, path.join(directory, 'node_modules/fdpass'));
  for (const name of ['express', 'fastify', 'ws']) {
    fs.symlinkSync(path.join(root, 'node_modules', name), path.join(directory, 'node_modules', name));
  }
  for (const name of ['key.pem', 'certificate.pem']) {
    fs.copyFileSync(path.join(root, 'test/support/tls', name), path.join(directory, name));
  }
  const file = path.join(directory, 'server.mjs');
  fs.writeFileSync(file, text.replace(/port: 8\d{3}/, 'port: 0'));
  return file;
}

describe('the programs of the documents', { concurrency: 2 }, () => {
  test('the first program of the README starts, answers, restarts and stops', async (t) => {
    assert.ok(first, 'it is the first block of JavaScript');
    assert.match(first.text, /restartOn\([^]*drainOn\(/);
    const file = writeProgram(t, first);

    const server = await startServer(t, 'server.mjs', { cwd: path.dirname(file) });
    const url = `http://localhost:${server.port}/`;
    assert.equal(await get(url), `served by ${server.pid}\n`);
    const { pid, generation } = await server.restart();
    await server.gone(server.pid);
    assert.equal(generation, 2);
    assert.equal(await get(url), `served by ${pid}\n`);
    await server.stop();
    await assert.rejects(get(url), { code: 'ECONNREFUSED' });
  });

  for (const program of servers.filter((each) => each !== first)) {
    test(`${program.where} starts, answers, restarts and stops`, async (t) => {
      const file = writeProgram(t, program);
      const answers = program.text.includes('served by') && !program.text.includes('node:https');
      const server = await startServer(t, file, { cwd: path.dirname(file) });
      const url = `http://localhost:${server.port}/`;
      if (answers) assert.equal(await get(url), `served by ${server.pid}\n`);

      if (program.text.includes('restartOn(')) await server.restart();
      else await Promise.all([server.waitFor(/, generation 2$/), get(`${url}restart`)]);

      await server.gone(server.pid);
      if (answers) assert.equal(await get(url), `served by ${server.newest}\n`);
      await server.stop();
    });
  }

  const short = programs.filter(
    ({ file, text }) => file === '' && !text.includes('ready()') && !text.includes('.listen('),
  );
  for (const program of short) {
    test(`${program.where} runs to its end`, async (t) => {
      const file = writeProgram(t, program);
      const run = startProcess(t, file, { cwd: path.dirname(file) });

      assert.deepEqual(await run.exited, { code: 0, signal: null }, run.sofar());
    });
  }
});

// ---- Types and doc comments ----------------------------------------------------------------------------------------------

const sources = ['lib/index.ts', 'lib/raw.ts', 'lib/ws.ts'].map((file) => path.join(root, file));
const virtual = new Map(
  programs.map(({ language, text }, index) => {
    const extension = language.startsWith('t') ? 'mts' : 'mjs';
    return [path.join(root, `document-${index}.${extension}`), text]; // inside the package: 'fdpass' is this one
  }),
);
const options: ts.CompilerOptions = {
  target: ts.ScriptTarget.ES2023,
  lib: ['lib.es2023.d.ts', 'lib.esnext.disposable.d.ts'],
  module: ts.ModuleKind.NodeNext,
  moduleResolution: ts.ModuleResolutionKind.NodeNext,
  rootDir: root,
  outDir: path.join(root, 'dist'),
  types: ['node'],
  allowJs: true,
  checkJs: true,
  strict: false, // the programs are JavaScript
  skipLibCheck: true,
  noEmit: true,
};
const disk = ts.createCompilerHost(options);
const host: ts.CompilerHost = {
  ...disk,
  fileExists: (file) => virtual.has(file) || disk.fileExists(file),
  readFile: (file) => virtual.get(file) ?? disk.readFile(file),
  getSourceFile: (file, settings) => {
    const text = virtual.get(file);
    return text === undefined ? disk.getSourceFile(file, settings) : ts.createSourceFile(file, text, settings);
  },
};
const compiled = ts.createProgram([...sources, ...virtual.keys()], options, host);
const checker = compiled.getTypeChecker();

for (const [index, [file]] of [...virtual].entries()) {
  const program = programs[index];
  test(`${program?.where ?? ''} type-checks`, () => {
    const source = compiled.getSourceFile(file);
    const NOT_INSTALLED = new Set([2307, 7016]); // koa
    const found = [...compiled.getSyntacticDiagnostics(source), ...compiled.getSemanticDiagnostics(source)]
      .filter(({ code }) => !NOT_INSTALLED.has(code))
      .map(({ messageText }) => ts.flattenDiagnosticMessageText(messageText, '\n'));

    assert.deepEqual(found, []);
  });
}

/** What a module exports, aliases followed. */
function exportsOf(file: string): ts.Symbol[] {
  const source = compiled.getSourceFile(file);
  const module = source === undefined ? undefined : checker.getSymbolAtLocation(source);
  assert.ok(module, file);
  return checker.getExportsOfModule(module);
}

function resolved(symbol: ts.Symbol): ts.Symbol {
  return symbol.flags & ts.SymbolFlags.Alias ? checker.getAliasedSymbol(symbol) : symbol;
}

function isDocumented(symbol: ts.Symbol): boolean {
  if (symbol.flags & ts.SymbolFlags.Module) return true; // `raw`: the head of its file
  return ts.displayPartsToString(symbol.getDocumentationComment(checker)).trim() !== '';
}

const api = read('docs/api.md');

function isInApi(name: string): boolean {
  return new RegExp(`\`[^\`\\n]*\\b${name}\\b[^\`\\n]*\``).test(api);
}

for (const file of sources) {
  const name = path.relative(root, file);
  const symbols = exportsOf(file);

  test(`every export of ${name} has a doc comment, the public methods of its classes too`, () => {
    const missing = symbols.flatMap((symbol) => {
      const target = resolved(symbol);
      const own = isDocumented(target) ? [] : [symbol.name];
      return [...own, ...undocumentedMethods(target).map((method) => `${symbol.name}.${method}`)];
    });

    assert.deepEqual(missing, []);
  });

  test(`every function of ${name} names its man page, its specification or its document`, () => {
    const functions = symbols.map(resolved).filter(({ flags }) => flags & ts.SymbolFlags.Function);
    const missing = functions.filter((each) => !each.getJsDocTags(checker).some((tag) => tag.name === 'see'));

    assert.deepEqual(
      missing.map((each) => each.name),
      [],
    );
  });

  test(`every export of ${name} stands in docs/api.md, every option of an export too`, () => {
    const missing = symbols.flatMap((symbol) => {
      const type = checker.getDeclaredTypeOfSymbol(resolved(symbol));
      const isList = /(Options|Report|Event)$/.test(symbol.name) && symbol.name !== 'SocketOptions';
      const names = isList && !type.isUnion() ? type.getProperties().map((property) => property.name) : [];
      return [symbol.name, ...names].filter((each) => !isInApi(each));
    });

    assert.deepEqual(missing, []);
  });
}

/** Methods that say nothing of themselves. Those of Symbol.dispose do what the class says. */
function undocumentedMethods(symbol: ts.Symbol): string[] {
  if (!(symbol.flags & ts.SymbolFlags.Class)) return [];
  return [...(symbol.members?.values() ?? [])]
    .filter(({ flags, name }) => flags & ts.SymbolFlags.Method && !name.startsWith('__'))
    .filter((method) => method.declarations?.every((declaration) => !isHidden(declaration)) === true)
    .filter((method) => !isDocumented(method))
    .map(({ name }) => name);
}

function isHidden(declaration: ts.Declaration): boolean {
  const { name } = declaration as ts.NamedDeclaration;
  const isPrivate = (ts.getCombinedModifierFlags(declaration) & ts.ModifierFlags.Private) !== 0;
  return isPrivate || (name !== undefined && ts.isPrivateIdentifier(name));
}

// ---- Links, codes and names ------------------------------------------------------------------------------------------------

/** The document without its code: neither links nor headings are in there. */
function prose(document: string): string {
  return read(document)
    .replace(/^```[\s\S]*?^```$/gm, '')
    .replace(/^ {4}.*$/gm, '');
}

/** As the anchors of a page are made: lower case, no punctuation, `-` for each blank, a number behind the second of a name. */
function anchorsOf(document: string): Set<string> {
  const anchors = new Set<string>();
  for (const { 1: heading = '' } of prose(document).matchAll(/^#+ (.+)$/gm)) {
    const slug = heading
      .toLowerCase()
      .replace(/[^\p{L}\p{N} _-]/gu, '')
      .replaceAll(' ', '-');
    let anchor = slug;
    for (let number = 1; anchors.has(anchor); number++) anchor = `${slug}-${number}`;
    anchors.add(anchor);
  }
  return anchors;
}

for (const document of documents) {
  test(`every relative link of ${document} leads to a file, and to a heading that is there`, () => {
    const broken = [...prose(document).matchAll(/\]\(([^)\s]+)\)/g)]
      .map(({ 1: link = '' }) => link)
      .filter((link) => !/^[a-z]+:/.test(link))
      .filter((link) => {
        const [file = '', anchor] = link.split('#');
        const target = file === '' ? document : path.join(path.dirname(document), file);
        if (!fs.existsSync(path.join(root, target))) return true;
        return anchor !== undefined && !anchorsOf(target).has(anchor);
      });

    assert.deepEqual(broken, []);
  });

  test(`every npm script that ${document} names is there`, () => {
    const { scripts } = require('./package.json') as { scripts: Record<string, string> };
    const named = [...read(document).matchAll(/npm (?:--prefix \S+ )?run ([\w:-]+)/g)].map(({ 1: name = '' }) => name);

    assert.deepEqual(
      named.filter((name) => scripts[name] === undefined),
      [],
    );
  });
}

test('every code of lib/errors.ts has a row in docs/errors.md, and every code that a document names is one', () => {
  const codes = [...new Set(read('lib/errors.ts').match(/ERR_FDPASS_[A-Z_]+/g))].sort();
  const rows = [...read('docs/errors.md').matchAll(/^\| `(ERR_FDPASS_\w+)`/gm)].map(({ 1: code = '' }) => code);
  const named = documents.flatMap((document) => read(document).match(/ERR_FDPASS_[A-Z]\w+/g) ?? []);

  assert.deepEqual(rows.toSorted(), codes);
  assert.deepEqual(
    named.filter((code) => !codes.includes(code)),
    [],
  );
});

test('every document that a comment points to is there', () => {
  const files = ['lib', 'native', 'test', 'scripts', 'examples'].flatMap((folder) =>
    fs
      .readdirSync(path.join(root, folder), { recursive: true, encoding: 'utf8' })
      .filter((name) => /\.(ts|mjs|cc|h|c|py)$/.test(name))
      .map((name) => path.join(folder, name)),
  );
  const dangling = files.flatMap((file) =>
    [...read(file).matchAll(/\bdocs\/[\w/-]+\.md/g)]
      .map(([document]) => document)
      .filter((document) => !fs.existsSync(path.join(root, document)))
      .map((document) => `${file}: ${document}`),
  );

  assert.deepEqual(dangling, []);
});

// ---- Files that pages show -------------------------------------------------------------------------------------------------

const SHOWN = ['examples/supervisors', 'examples/fleet'];

for (const { where, file, text } of blocks.filter((block) => block.file !== '')) {
  test(`${where} shows ${file} as it is`, () => {
    assert.equal(text, read(file));
  });
}

test('every file of the pages for supervisors and of the fleet is shown by one, and is what a test with the real program runs', () => {
  const files = SHOWN.flatMap((folder) =>
    fs
      .readdirSync(path.join(root, folder), { recursive: true, encoding: 'utf8' })
      .map((name) => path.join(folder, name))
      .filter((name) => fs.statSync(path.join(root, name)).isFile()),
  );
  const folder = path.join(root, 'test/interop');
  const tests = fs.readdirSync(folder).filter((name) => name.endsWith('.test.ts'));
  const text = tests.map((name) => fs.readFileSync(path.join(folder, name), 'utf8')).join('');
  const isRun = (file: string): boolean => {
    const [, , ...rest] = file.split('/');
    const named = [
      rest.join('/'),
      file.slice('examples/'.length),
      rest.join('/').replace(/^s6\/(fdholder|web)\//, 's6/${name}/'),
    ];
    return named.some((name) => text.includes(`'${name}'`) || text.includes(`\`${name}\``));
  };

  assert.deepEqual(
    files.filter((file) => !blocks.some((block) => block.file === file)),
    [],
    'no page shows it',
  );
  assert.deepEqual(
    files.filter((file) => !isRun(file) && !file.endsWith('.yaml')),
    [],
    'no test runs it',
  );
});
