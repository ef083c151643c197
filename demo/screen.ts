/**
 * The live picture on a terminal: paints lines in place, and gives the terminal back as it was on every way out.
 * Writes escape sequences to one stream; what is drawn it is told. It uses the alternate screen, so that a resize leaves no pieces of
 * older pictures behind. Source: ECMA-48; console_codes(4); XTerm's control sequences for 25, 1049; https://no-color.org.
 */
import type { WriteStream } from 'node:tty';

import type { Line, Style } from './layout.js';

const PERIOD = 125; // ms
const OPEN = '\x1b[?1049h\x1b[?25l\x1b[2J'; // another screen, no cursor, empty
const CLOSE = '\x1b[0m\x1b[?25h\x1b[?1049l';

const CODES: Record<Style, string> = { plain: '', strong: '1', dim: '2', good: '32', bad: '1;31', accent: '36' };

export interface Size {
  columns: number;
  rows: number;
}

/** A line as it is written to a terminal. */
export function terminalText(line: Line, useColour: boolean): string {
  return line
    .map(({ text, style }) => (useColour && CODES[style] !== '' ? `\x1b[${CODES[style]}m${text}\x1b[0m` : text))
    .join('');
}

/** Some terminals say 0 columns when they do not know. */
export function sizeOf({ columns, rows }: Partial<Size>): Size {
  return { columns: columns || 80, rows: rows || 24 };
}

export class Screen {
  readonly #output: WriteStream;
  readonly #draw: (size: Size) => Line[];
  readonly #useColour: boolean;
  #painted: string[] = [];
  #timer: NodeJS.Timeout | undefined;

  constructor(output: WriteStream, useColour: boolean, draw: (size: Size) => Line[]) {
    this.#output = output;
    this.#useColour = useColour;
    this.#draw = draw;
  }

  get isOpen(): boolean {
    return this.#timer !== undefined;
  }

  open(): void {
    if (this.#timer) return;
    this.#timer = setInterval(() => this.#paint(), PERIOD);
    this.#output.on('resize', this.#onResize);
    this.#output.write(OPEN);
    this.#painted = [];
    this.#paint();
  }

  /** Gives the terminal back. Twice is nothing. */
  close(): void {
    if (!this.#timer) return;
    clearInterval(this.#timer);
    this.#timer = undefined;
    this.#output.off('resize', this.#onResize);
    this.#output.write(CLOSE);
  }

  /** Writes the lines that have changed. Each is emptied first: behind a line of full width that would take its last character. */
  #paint(): void {
    const lines = this.#draw(sizeOf(this.#output)).map((line) => terminalText(line, this.#useColour));
    const count = Math.max(lines.length, this.#painted.length);
    let changes = '';
    for (let i = 0; i < count; i++) {
      if (lines[i] !== this.#painted[i]) changes += `\x1b[${i + 1};1H\x1b[2K${lines[i] ?? ''}`;
    }
    this.#painted = lines;
    if (changes !== '') this.#output.write(changes);
  }

  readonly #onResize = (): void => {
    this.#output.write('\x1b[2J');
    this.#painted = [];
    this.#paint();
  };
}
