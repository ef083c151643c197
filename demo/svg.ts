/**
 * The picture as SVG: the same lines as on the terminal, as text in a monospaced font. Blocks are drawn, since fonts differ in them.
 * Pure. It brings its own light background, so that it reads the same on a light and on a dark page.
 */
import { UNICODE, type Line, type Style } from './layout.js';

const CELL = { width: 8, height: 18 }; // px
const MARGIN = 16;
const FONT = "ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', 'Liberation Mono', monospace";
const COLOURS: Record<Style, string> = {
  ...{ plain: '#1f2328', strong: '#1f2328', dim: '#636c76' },
  ...{ good: '#1a7f37', bad: '#cf222e', accent: '#0969da' },
};

/** @param title - Read out in place of the picture. */
export function svg(lines: readonly Line[], columns: number, title: string): string {
  const width = columns * CELL.width + 2 * MARGIN;
  const height = lines.length * CELL.height + 2 * MARGIN;
  return `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}" viewBox="0 0 ${width} ${height}" role="img">
<title>${escape(title)}</title>
<style>text { font: 13px ${FONT}; white-space: pre; } .strong, .bad { font-weight: bold; }</style>
<rect x="0.5" y="0.5" width="${width - 1}" height="${height - 1}" rx="8" fill="#ffffff" stroke="#d1d9e0"/>
${lines.flatMap(lineElements).join('\n')}
</svg>
`;
}

function lineElements(line: Line, row: number): string[] {
  const top = MARGIN + row * CELL.height;
  let column = 0;
  return line.flatMap(({ text, style }) => {
    const runs = text.match(/([▁-█░])\1*| +|[^▁-█░ ]+(?: [^▁-█░ ]+)*/gu) ?? [];
    return runs.flatMap((run) => {
      const x = MARGIN + column * CELL.width;
      const width = run.length * CELL.width;
      column += run.length;
      if (run.startsWith(' ')) return [];
      const level = run.startsWith(UNICODE.empty) ? UNICODE.spark.length : UNICODE.spark.indexOf(run.charAt(0)) + 1;
      if (level === 0) {
        const place = `x="${x}" y="${top + 13}" textLength="${width}" lengthAdjust="spacingAndGlyphs"`;
        return [`<text ${place} class="${style}" fill="${COLOURS[style]}">${escape(run)}</text>`];
      }
      const tall = Math.round(((CELL.height - 4) * level) / UNICODE.spark.length);
      const fill = run.startsWith(UNICODE.empty) ? '#d1d9e0' : COLOURS[style];
      return [`<rect x="${x}" y="${top + CELL.height - 2 - tall}" width="${width}" height="${tall}" fill="${fill}"/>`];
    });
  });
}

function escape(text: string): string {
  return text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;');
}
