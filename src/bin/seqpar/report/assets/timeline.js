// The timeline: a canvas that draws only what is seen, over a box that scrolls through the rows.
const RANK_GAP = 8, AXIS = 26, HEAD = 30;
const COLOUR_OF = { compute: "compute", copy: "copy", comm: "comm", external: "external", mark: "mark" };

// Rows of some reports on one time axis: a heading per report, then a row per stream; the fewer,
// the higher.
const rowsOf = (reports) => {
  const rows = [];
  const streams = sum(reports.map((report) => sum(report.streams.map((names) => names.length))));
  const rowHeight = streams <= 8 ? 34 : streams <= 16 ? 28 : 22;
  let y = 0;
  reports.forEach((report) => {
    if (reports.length > 1) {
      rows.push({ y, height: HEAD, heading: report });
      y += HEAD;
    }
    const lanes = report.streams.map((streams) => streams.map(() => []));
    report.spans.forEach((span) => lanes[span[0]][span[1]].push(span));
    report.streams.forEach((streams, rank) => {
      streams.forEach((stream, i) => {
        const spans = lanes[rank][i].sort((a, b) => a[5] - b[5]);
        rows.push({ y, height: rowHeight, bar: rowHeight - 6, report, rank, stream, first: i === 0, spans });
        y += rowHeight;
      });
      y += RANK_GAP;
    });
  });
  return { rows, height: y };
};

// First index of a sorted list for which `past` holds.
const lowerBound = (list, past) => {
  let low = 0, high = list.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (past(list[middle])) high = middle; else low = middle + 1;
  }
  return low;
};

const niceStep = (least) => {
  const power = 10 ** Math.floor(Math.log10(least));
  return [1, 2, 5, 10].map((n) => n * power).find((step) => step >= least) ?? 10 * power;
};

const timeline = () => {
  const canvas = el("canvas", { tabindex: 0, role: "img", "aria-label": "Timeline of all ranks and streams" });
  const spacer = el("div", { style: "pointer-events:none" });
  const box = el("div", { class: "lanes" }, canvas, spacer);
  const pen = canvas.getContext("2d");
  let rows = [], contentHeight = 0, endNs = 1, from = 0, to = 1, hovered = null, queued = false;
  let width = 0, height = 0;

  const gutter = () => Math.min(150, Math.max(84, width * 0.16));
  const plot = () => width - gutter() - 8;
  const xOf = (ns) => gutter() + ((ns - from) / (to - from)) * plot();
  const nsOf = (x) => from + ((x - gutter()) / plot()) * (to - from);
  const redraw = () => {
    if (!queued) { queued = true; requestAnimationFrame(() => { queued = false; draw(); }); }
  };

  const view = (newFrom, newTo) => {
    const length = Math.min(Math.max(newTo - newFrom, 20), endNs);
    from = Math.min(Math.max(newFrom, 0), endNs - length);
    to = from + length;
    redraw();
  };
  const zoom = (factor, at = (from + to) / 2) => view(at - (at - from) * factor, at + (to - at) * factor);

  const resize = () => {
    width = box.clientWidth;
    const most = Math.max(240, Math.min(innerHeight * 0.7, 900));
    height = Math.min(AXIS + contentHeight + 4, most);
    const dpr = devicePixelRatio || 1;
    canvas.width = Math.round(width * dpr);
    canvas.height = Math.round(height * dpr);
    canvas.style.height = `${height}px`;
    spacer.style.height = `${Math.max(0, AXIS + contentHeight + 4 - height)}px`;
    pen.setTransform(dpr, 0, 0, dpr, 0, 0);
    redraw();
  };

  const draw = () => {
    if (width === 0) return;
    const scroll = box.scrollTop;
    const colours = Object.fromEntries(
      ["card", "text", "quiet", "grid", "line", "compute", "copy", "comm", "external", "mark", "exposed", "exposed-soft", "on-bar", "on-comm"]
        .map((name) => [name, theme.colour(name)]));
    pen.fillStyle = colours.card;
    pen.fillRect(0, 0, width, height);
    drawGrid(colours);
    pen.save();
    pen.beginPath();
    pen.rect(0, AXIS, width, height - AXIS);
    pen.clip();
    for (const row of rows) {
      const y = AXIS + row.y - scroll;
      if (y + row.height < AXIS) continue;
      if (y > height) break;
      if (row.heading) drawHeading(row.heading, y, colours);
      else drawRow(row, y, colours);
    }
    pen.restore();
  };

  const drawGrid = (colours) => {
    const step = niceStep((to - from) / Math.max(2, plot() / 85));
    pen.font = "12px system-ui, sans-serif";
    pen.textBaseline = "middle";
    pen.textAlign = "center";
    for (let at = Math.ceil(from / step) * step; at <= to; at += step) {
      const x = Math.round(xOf(at)) + 0.5;
      pen.strokeStyle = colours.grid;
      pen.beginPath(); pen.moveTo(x, AXIS - 4); pen.lineTo(x, height); pen.stroke();
      pen.fillStyle = colours.quiet;
      if (x > gutter() + 10 && x < width - 24 || at === 0) pen.fillText(formatNs(at), Math.min(x, width - 24), AXIS / 2);
    }
    pen.strokeStyle = colours.line;
    pen.beginPath(); pen.moveTo(0, AXIS - 0.5); pen.lineTo(width, AXIS - 0.5); pen.stroke();
  };

  const drawHeading = (report, y, colours) => {
    pen.fillStyle = colours.text;
    pen.textAlign = "left";
    pen.font = "600 13px system-ui, sans-serif";
    pen.fillText(`${report.name} · ${report.kind}`, 8, y + HEAD / 2 + 2, width - 16);
  };

  const drawRow = (row, y, colours) => {
    const left = gutter(), middle = y + row.bar / 2 + 2;
    pen.textAlign = "left";
    pen.font = "12px system-ui, sans-serif";
    if (row.first) {
      pen.fillStyle = colours.text;
      pen.fillText(width < 520 ? `r${row.rank}` : `rank ${row.rank}`, 8, middle);
    }
    pen.textAlign = "right";
    pen.fillStyle = colours.quiet;
    pen.fillText(row.stream, left - 8, middle, left - (width < 520 ? 36 : 58));
    pen.save();
    pen.beginPath();
    pen.rect(left, y, plot() + 8, row.height);
    pen.clip();
    if (row.first) drawExposed(row.report.exposed[row.rank] ?? [], y, row.bar, colours);
    pen.textAlign = "center";
    pen.font = "11.5px system-ui, sans-serif";
    let drawnTo = -Infinity;
    const first = Math.max(0, lowerBound(row.spans, (span) => span[5] >= from) - 64);
    for (let i = first; i < row.spans.length && row.spans[i][5] <= to; i += 1) {
      const span = row.spans[i];
      if (span[6] < from) continue;
      const x = xOf(span[5]), right = xOf(span[6]);
      // What ends in a pixel that is painted already cannot be seen.
      if (right < drawnTo) continue;
      const wide = Math.max(right - x, 0.75);
      drawnTo = Math.floor(x + wide) + (wide < 1 ? 1 : 0);
      const kind = row.report.kinds[span[3]];
      pen.fillStyle = colours[COLOUR_OF[kind] ?? "mark"];
      if (wide > 6) { pen.beginPath(); pen.roundRect(x + 0.25, y + 2, wide - 0.5, row.bar, 3); pen.fill(); }
      else pen.fillRect(x, y + 2, wide, row.bar);
      if (hovered && hovered.span === span) {
        pen.strokeStyle = colours.text;
        pen.lineWidth = 2;
        pen.strokeRect(x + 1, y + 3, Math.max(wide - 2, 1), row.bar - 2);
        pen.lineWidth = 1;
      }
      const shownFrom = Math.max(x, left), room = Math.min(right, width - 8) - shownFrom - 8;
      if (room > 26) {
        pen.fillStyle = kind === "comm" ? colours["on-comm"] : colours["on-bar"];
        pen.fillText(fitted(labelOf(row.report, span), room), shownFrom + room / 2 + 4, middle + 0.5);
      }
    }
    pen.restore();
  };

  const drawExposed = (intervals, y, bar, colours) => {
    const first = lowerBound(intervals, ([, end]) => end >= from);
    for (let i = first; i < intervals.length && intervals[i][0] <= to; i += 1) {
      const x = xOf(intervals[i][0]), wide = Math.max(xOf(intervals[i][1]) - x, 0.75);
      pen.fillStyle = wide < 4 ? colours.exposed : colours["exposed-soft"];
      pen.fillRect(x, y + 2, wide, bar);
      if (wide < 4) continue;
      pen.save();
      pen.beginPath(); pen.rect(x, y + 2, wide, bar); pen.clip();
      pen.strokeStyle = colours.exposed;
      pen.lineWidth = 1.6;
      pen.beginPath();
      const begin = Math.max(x, gutter()) - bar;
      for (let at = begin - (begin % 7); at < Math.min(x + wide, width); at += 7) {
        pen.moveTo(at, y + 2 + bar); pen.lineTo(at + bar, y + 2);
      }
      pen.stroke();
      pen.restore();
    }
  };

  const labelOf = (report, span) => report.ops[span[2]] + (span[4] === null ? "" : `[${span[4]}]`);
  // A shortened label keeps its number: "project… 2".
  const fitted = (text, room) => {
    const wide = pen.measureText(text).width;
    if (wide <= room) return text;
    const [tail] = text.match(/(\[\d+\]|\s\d+)?$/);
    const letters = Math.floor(text.length * room / wide) - 1 - tail.length;
    return letters < 2 ? "" : `${text.slice(0, letters).trimEnd()}…${tail}`;
  };

  // What lies under a point: a span, else an exposed gap.
  const at = (x, y) => {
    if (x < gutter() || y < AXIS) return null;
    const row = rows.find((r) => !r.heading && y - AXIS + box.scrollTop >= r.y && y - AXIS + box.scrollTop < r.y + r.height);
    if (!row) return null;
    const slack = (to - from) / plot(), ns = nsOf(x);
    for (let i = lowerBound(row.spans, (span) => span[5] > ns + slack) - 1, tries = 0; i >= 0 && tries < 64; i -= 1, tries += 1) {
      if (row.spans[i][6] >= ns - slack) return { row, span: row.spans[i] };
    }
    const gap = row.first ? (row.report.exposed[row.rank] ?? []).find(([begin, end]) => begin <= ns && ns <= end) : null;
    return gap ? { row, gap } : null;
  };

  const describe = ({ row, span, gap }) => {
    const where = `rank ${row.rank}, ${row.stream}`;
    if (gap) return ["exposed communication", where, `${formatNs(gap[1] - gap[0])} in which the rank waits`];
    const ns = span[6] - span[5], kind = row.report.kinds[span[3]], seconds = Math.max(ns, 1) / 1e9;
    const lines = [labelOf(row.report, span), `${where} · ${kind === "comm" ? "communication" : kind}`,
      `${formatNs(ns)}, from ${formatNs(span[5])} to ${formatNs(span[6])}`];
    if (span[7]) lines.push(`${formatBytes(span[7])} ${kind === "comm" ? "sent" : "read and written"}: ${formatRate(span[7] / seconds, "B")}`);
    if (span[8]) lines.push(`${scaled(span[8], ["FLOP", "kFLOP", "MFLOP", "GFLOP", "TFLOP"])}: ${formatRate(span[8] / seconds, "FLOP")}`);
    return lines;
  };

  const local = (event) => {
    const bounds = canvas.getBoundingClientRect();
    return [event.clientX - bounds.left, event.clientY - bounds.top];
  };
  const pointers = new Map();
  canvas.addEventListener("pointerdown", (event) => {
    pointers.set(event.pointerId, local(event));
    canvas.setPointerCapture(event.pointerId);
    canvas.classList.add("drag");
  });
  canvas.addEventListener("pointermove", (event) => {
    const [x, y] = local(event);
    const before = pointers.get(event.pointerId);
    if (before && pointers.size === 1) {
      const moved = ((before[0] - x) / plot()) * (to - from);
      view(from + moved, to + moved);
    } else if (before && pointers.size === 2) {
      const other = [...pointers.entries()].find(([id]) => id !== event.pointerId)[1];
      const was = Math.max(10, Math.abs(before[0] - other[0])), is = Math.max(10, Math.abs(x - other[0]));
      zoom(was / is, nsOf((x + other[0]) / 2));
    }
    if (before) pointers.set(event.pointerId, [x, y]);
    const found = at(x, y);
    if (found?.span !== hovered?.span || found?.gap !== hovered?.gap) { hovered = found; redraw(); }
    if (found) showTip(event, describe(found)); else hideTip();
  });
  const release = (event) => { pointers.delete(event.pointerId); canvas.classList.remove("drag"); };
  ["pointerup", "pointercancel"].forEach((name) => canvas.addEventListener(name, release));
  canvas.addEventListener("pointerleave", () => { hovered = null; hideTip(); redraw(); });
  canvas.addEventListener("wheel", (event) => {
    if (event.ctrlKey || event.metaKey) {
      event.preventDefault();
      zoom(Math.exp(event.deltaY * 0.004), nsOf(local(event)[0]));
    } else if (event.shiftKey || Math.abs(event.deltaX) > Math.abs(event.deltaY)) {
      event.preventDefault();
      const moved = ((event.deltaX || event.deltaY) / plot()) * (to - from);
      view(from + moved, to + moved);
    }
  }, { passive: false });
  canvas.addEventListener("dblclick", (event) => zoom(event.shiftKey ? 2.5 : 0.4, nsOf(local(event)[0])));
  canvas.addEventListener("keydown", (event) => {
    const step = (to - from) * 0.2;
    const action = {
      ArrowLeft: () => view(from - step, to - step), ArrowRight: () => view(from + step, to + step),
      "+": () => zoom(0.6), "=": () => zoom(0.6), "-": () => zoom(1.7), 0: () => view(0, endNs),
    }[event.key];
    if (action) { event.preventDefault(); action(); }
  });
  box.addEventListener("scroll", redraw);
  new ResizeObserver(resize).observe(box);
  theme.onChange(redraw);

  return {
    box, zoom,
    fit: () => view(0, endNs),
    show: (reports) => {
      const laid = rowsOf(reports);
      ({ rows } = laid);
      contentHeight = laid.height;
      endNs = largest(reports.map((report) => report.endNs), 1);
      from = 0; to = endNs; hovered = null;
      box.scrollTop = 0;
      resize();
    },
    window: () => [from, to],
  };
};
