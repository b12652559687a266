// Strategies beside each other: the times of one shape as bars, a sweep as lines, prediction
// beside measurement.

const isStrategyRow = (row) => typeof row.strategy === "string" && timeOf(row) !== null;
const groupBy = (list, key) => {
  const groups = new Map();
  list.forEach((item) => groups.set(key(item), [...(groups.get(key(item)) ?? []), item]));
  return [...groups.entries()];
};
const shapeOf = (row) => [row.bench ?? "layer", row.model, row.part, `${row.ranks} ranks`,
  row.clock && row.clock !== "real" ? row.clock : null, row.machine ?? null, row.kind].filter(Boolean).join(" · ");

const BAR_ROW = 46;
const strategyBars = (rows) => (width) => {
  const left = Math.min(92, width * 0.26), right = 64, bottom = 30;
  const most = largest(rows.flatMap((row) => [timeOf(row), number(row.t_seq_us?.p50) ?? 0]));
  const x = (us) => left + (us / most) * (width - left - right);
  const height = rows.length * BAR_ROW + bottom;
  const root = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": "Time of each strategy" });
  ticks(most, Math.max(2, (width - left - right) / 90)).forEach((us) => {
    root.append(line(x(us), 0, x(us), height - bottom, "grid"),
      text(x(us), height - bottom + 18, formatNs(us * 1e3), { "text-anchor": "middle", class: "q" }));
  });
  rows.forEach((row, i) => {
    const y = i * BAR_ROW + 4, us = timeOf(row);
    const gemm = number(row.t_gemm_us?.p50), comm = number(row.t_comm_us?.p50), bound = number(row.t_lb_us);
    const lines = [`${row.strategy}, ${row.ranks} ranks`, `${gemm === null ? "time" : "T_ovl"} ${formatNs(us * 1e3)}` +
      (number(row.time_us?.p95) === null ? "" : `, p95 ${formatNs(row.time_us.p95 * 1e3)}`)];
    if (gemm !== null && comm !== null) {
      lines.push(`T_gemm ${formatNs(gemm * 1e3)}, T_comm ${formatNs(comm * 1e3)}`);
    }
    if (number(row.hidden_fraction) !== null) lines.push(`H ${row.hidden_fraction.toFixed(2)}, R ${row.regret.toFixed(2)}`);
    if (bound !== null) lines.push(`lower bound of the schedule ${formatNs(bound * 1e3)}`);
    if (number(row.bytes_per_rank) !== null) lines.push(`${formatBytes(row.bytes_per_rank)} sent a rank`);
    const group = svg("g");
    group.append(text(0, y + 18, row.strategy, { "font-weight": 600 }));
    group.append(svg("rect", { x: left, y, width: Math.max(1, x(us) - left), height: 20, rx: 3, fill: strategyPaint(row.strategy) }));
        if (gemm !== null && comm !== null) {
      group.append(svg("rect", { x: left, y: y + 23, width: Math.max(1, x(gemm) - left), height: 8, rx: 2, fill: paint("compute"), opacity: 0.85 }));
      group.append(svg("rect", { x: x(gemm), y: y + 23, width: Math.max(1, x(comm) - left), height: 8, rx: 2, fill: paint("comm"), opacity: 0.85 }));
    }
    const exposed = number(row.exposed_comm_us);
    if (gemm === null && exposed !== null) {
      lines.push(`${formatNs(exposed * 1e3)} of exposed communication`);
      group.append(svg("rect", { x: left, y: y + 23, width: Math.max(1, x(exposed) - left), height: 8, rx: 2, fill: paint("exposed"), opacity: 0.85 }));
    }
    if (bound !== null) {
      group.append(svg("line", { x1: x(bound), x2: x(bound), y1: y - 3, y2: y + 34, stroke: paint("bound"), "stroke-width": 2, "stroke-dasharray": "3 2" }));
    }
    // Last, so that no mark runs through it.
    const end = bound !== null && bound > us && x(bound) - x(us) < 70 ? x(bound) : x(us);
    group.append(text(end + 8, y + 15, formatNs(us * 1e3), { class: "halo" }));
    root.append(withTip(group, lines));
  });
  return root;
};

// Time by tokens, both logarithmic, a line for each strategy.
const sweepLines = (rows) => (width) => {
  const height = Math.max(260, Math.min(380, width * 0.62)), left = 62, right = 84, top = 8, bottom = 40;
  const tokens = rows.map((row) => row.tokens), times = rows.map(timeOf);
  const [lowX, highX] = [Math.min(...tokens), Math.max(...tokens)];
  const [lowY, highY] = [Math.min(...times) / 1.15, Math.max(...times) * 1.15];
  const log = (v, low, high) => Math.log(v / low) / Math.log(high / low);
  const x = (v) => left + log(v, lowX, highX) * (width - left - right);
  const y = (v) => height - bottom - log(v, lowY, highY) * (height - top - bottom);
  const root = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": "Time by tokens" });
  const decades = powers(lowY, highY);
  const marks = decades.length >= 2 ? decades : ticks(highY, 5).filter((us) => us >= lowY);
  marks.forEach((us) => {
    root.append(line(left, y(us), width - right, y(us), "grid"),
      text(left - 8, y(us) + 4, formatNs(us * 1e3), { "text-anchor": "end", class: "q" }));
  });
  const sizes = [...new Set(tokens)].sort((a, b) => a - b);
  const every = Math.ceil(sizes.length / Math.max(2, (width - left - right) / 56));
  sizes.forEach((n, i) => {
    root.append(line(x(n), top, x(n), height - bottom, "grid"));
    if (i % every === 0) {
      root.append(text(x(n), height - bottom + 18, n % 1024 === 0 ? `${n / 1024}k` : String(n), { "text-anchor": "middle", class: "q" }));
    }
  });
  root.append(text(left + (width - left - right) / 2, height - 4, "tokens", { "text-anchor": "middle", class: "q" }));
  const ends = [];
  groupBy(rows, (row) => row.strategy).forEach(([name, list]) => {
    const points = list.sort((a, b) => a.tokens - b.tokens);
    root.append(svg("polyline", {
      points: points.map((row) => `${x(row.tokens)},${y(timeOf(row))}`).join(" "),
      fill: "none", stroke: strategyPaint(name), "stroke-width": 2,
    }));
    points.forEach((row) => root.append(withTip(
      svg("circle", { cx: x(row.tokens), cy: y(timeOf(row)), r: 4.5, fill: strategyPaint(name) }),
      [name, `${row.tokens} tokens`, formatNs(timeOf(row) * 1e3),
        ...(number(row.hidden_fraction) === null ? [] : [`H ${row.hidden_fraction.toFixed(2)}, R ${row.regret.toFixed(2)}`])])));
    ends.push({ name, y: y(timeOf(points[points.length - 1])) });
  });
  // Names at the lines' ends, pushed apart.
  ends.sort((a, b) => a.y - b.y).forEach((end, i) => {
    if (i > 0) end.y = Math.max(end.y, ends[i - 1].y + 15);
    root.append(text(width - right + 10, end.y + 4, end.name, { style: `fill:${strategyPaint(end.name)}`, "font-weight": 600 }));
  });
  return root;
};

const strategyPanels = (rows) => groupBy(rows.filter(isStrategyRow), shapeOf).flatMap(([shape, list]) => {
  const panels = [];
  const sizes = groupBy(list, (row) => row.tokens).sort((a, b) => a[0] - b[0]);
  if (sizes.length > 1) panels.push(framed(shape, "time of a layer by tokens, both axes logarithmic", sweepLines(list)));
  const [tokens, last] = sizes[sizes.length - 1];
  if (last.length > 0) {
    const sorted = [...last].sort((a, b) => timeOf(a) - timeOf(b));
    panels.push(framed(sizes.length > 1 ? `${shape} · ${tokens} tokens` : `${shape} · ${tokens ?? "?"} tokens`,
      sorted.some((row) => row.t_gemm_us) ? "upper bar: T_ovl; lower: T_gemm and T_comm one behind the other; dashed: the schedule's lower bound" : null,
      strategyBars(sorted)));
  }
  return panels;
});

// Predicted beside measured times: of rows that hold both, of rows of either kind, and of reports
// of a strategy for which no row speaks.
const predictions = (rows, reports) => {
  const timed = rows.filter(isStrategyRow);
  const nameOf = (row) => `${row.strategy}, ${row.ranks} ranks${row.tokens ? `, ${row.tokens} tokens` : ""}`;
  const both = timed.filter((row) => number(row.t_sim_us) !== null)
    .map((row) => ({ name: nameOf(row), strategy: row.strategy, ranks: row.ranks, measured: timeOf(row), simulated: row.t_sim_us }));
  const matched = (list, keyOf, usOf, name) => groupBy(list, keyOf).flatMap(([, same]) => {
    const measured = same.find((one) => one.kind === "measured"), simulated = same.find((one) => one.kind === "simulated");
    return measured && simulated
      ? [{ name: name(measured), strategy: measured.strategy, ranks: measured.ranks, measured: usOf(measured), simulated: usOf(simulated) }] : [];
  });
  const ofRows = matched(timed, (row) => [row.strategy, row.ranks, row.tokens, row.part].join("|"), timeOf, nameOf);
  const known = [...both, ...ofRows];
  const ofReports = matched(reports, (report) => `${report.strategy}|${report.ranks}|${report.name}`, (report) => report.endNs / 1e3, (report) => report.name);
  return [...known, ...ofReports.filter((pair) => !known.some((one) => one.strategy === pair.strategy && one.ranks === pair.ranks))];
};

const predictionBars = (pairs) => (width) => {
  const right = 74, row = 58, bottom = 26;
  const most = largest(pairs.flatMap((pair) => [pair.measured, pair.simulated]));
  const x = (us) => (us / most) * (width - right);
  const height = pairs.length * row + bottom;
  const root = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": "Prediction beside measurement" });
  ticks(most, Math.max(2, (width - right) / 90)).forEach((us) => root.append(line(x(us), 0, x(us), height - bottom, "grid"),
    text(x(us), height - 8, formatNs(us * 1e3), { "text-anchor": us === 0 ? "start" : "middle", class: "q" })));
  pairs.forEach((pair, i) => {
    const y = i * row + 2, error = pair.simulated / pair.measured - 1;
    const sign = `${error >= 0 ? "+" : "−"}${Math.abs(error * 100).toFixed(1)} %`;
    const group = svg("g", {}, text(0, y + 12, pair.name, { "font-weight": 600 }),
      svg("rect", { x: 0, y: y + 18, width: x(pair.measured), height: 13, rx: 2, fill: paint("copy") }),
      svg("rect", { x: 0, y: y + 33, width: x(pair.simulated), height: 13, rx: 2, fill: paint("external") }),
      text(x(largest([pair.measured, pair.simulated])) + 8, y + 37, sign));
    root.append(withTip(group, [pair.name, `measured ${formatNs(pair.measured * 1e3)}`, `predicted ${formatNs(pair.simulated * 1e3)}`, `error ${sign}`]));
  });
  return root;
};
