// Pieces that the charts share: axes, ticks, legends, a frame that is drawn anew when its width changes.
const PALETTE = ["s0", "s1", "s2", "s3", "s4", "s5", "s6"];
const paint = (name) => `var(--${name})`;
// A strategy has one colour on the whole page.
const STRATEGIES = ["fastseq", "ulysses", "ring", "usp", "megatron", "kv-gather", "single"];
const strategyPaint = (name) => {
  const known = STRATEGIES.indexOf(name);
  return paint(PALETTE[(known < 0 ? [...name].reduce((a, c) => a + c.charCodeAt(0), 0) : known) % PALETTE.length]);
};

const legend = (entries) => el("div", { class: "legend" },
  ...entries.map(([name, fillName, className]) =>
    el("span", {}, el("i", className ? { class: className } : { style: `background:${fillName}` }), name)));

// draw(width) gives an SVG of that width.
const framed = (title, note, draw) => {
  const frame = el("div");
  const panel = el("div", { class: "panel" }, el("h3", {}, title), note ? el("p", { class: "quiet" }, note) : null, frame);
  let drawn = 0;
  new ResizeObserver(() => {
    const width = Math.max(260, Math.floor(frame.clientWidth));
    if (width !== drawn) { drawn = width; frame.replaceChildren(draw(width)); }
  }).observe(frame);
  return panel;
};

const text = (x, y, content, attributes = {}) => svg("text", { x, y, ...attributes }, content);
const line = (x1, y1, x2, y2, className) => svg("line", { x1, y1, x2, y2, class: className });

// Ticks of a linear axis from 0.
const ticks = (most, wanted) => {
  let step = niceStep(most / wanted);
  // Two ticks say little: half the step if only they would stand.
  if (most / step < 2) step /= 2;
  return Array.from({ length: Math.floor(most / step + 1e-9) + 1 }, (_, i) => i * step);
};
// Powers of `base` that an axis from low to high shows.
const powers = (low, high, base = 10) => {
  const first = Math.ceil(Math.log(low) / Math.log(base) - 1e-9), last = Math.floor(Math.log(high) / Math.log(base) + 1e-9);
  return Array.from({ length: Math.max(0, last - first + 1) }, (_, i) => base ** (first + i));
};
const timeOf = (row) => number(row.time_us?.p50) ?? number(row.layer_us);
