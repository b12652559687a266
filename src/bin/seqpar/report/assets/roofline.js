// The roofline: what kernels reach beside what this machine can do, both axes logarithmic.

// Kernel rows, or where there are none, the ops of measured reports, each with all its spans.
const kernelPoints = (rows, reports) => {
  const points = rows.filter((row) => row.kernel && row.flops > 0 && row.bytes > 0 && timeOf(row) !== null)
    .map((row) => ({ name: row.kernel, note: row.shape ?? "", group: row.bench ?? "kernel", flops: row.flops, bytes: row.bytes, us: timeOf(row), fraction: number(row.roof_fraction) }));
  if (points.length > 0) return points;
  const ops = new Map();
  reports.filter((report) => report.kind === "measured").forEach((report) => report.spans.forEach((span) => {
    if (report.kinds[span[3]] !== "compute" || !(span[8] > 0) || !(span[7] > 0)) return;
    const name = report.ops[span[2]];
    const sums = ops.get(name) ?? { name, note: "mean of its spans", group: "op", flops: 0, bytes: 0, us: 0 };
    sums.flops += span[8]; sums.bytes += span[7]; sums.us += (span[6] - span[5]) / 1e3;
    ops.set(name, sums);
  }));
  return [...ops.values()].filter((point) => point.us > 0).sort((a, b) => b.us - a.us).slice(0, 60);
};

const GROUPS = { attention: "s0", gemm: "s1", adaln: "s2", op: "s4" };
const rooflineChart = (points, roof) => (width) => {
  const height = Math.max(280, Math.min(460, width * 0.56)), left = 56, right = 18, top = 14, bottom = 42;
  const intensity = (point) => point.flops / point.bytes, rate = (point) => point.flops / point.us / 1e3;
  const ridge = roof ? roof.flops_per_s / roof.bytes_per_s : null, peak = roof ? roof.flops_per_s / 1e9 : null;
  const xs = points.map(intensity).concat(ridge ? [ridge] : []), ys = points.map(rate).concat(peak ? [peak] : []);
  const [lowX, highX] = [Math.min(...xs) / 2.5, Math.max(...xs) * 2.2];
  const lowest = roof ? Math.min(...ys, lowX * roof.bytes_per_s / 1e9) : Math.min(...ys);
  const [lowY, highY] = [lowest / 1.6, Math.max(...ys) * 1.8];
  const x = (v) => left + Math.log(v / lowX) / Math.log(highX / lowX) * (width - left - right);
  const y = (v) => height - bottom - Math.log(v / lowY) / Math.log(highY / lowY) * (height - top - bottom);
  const root = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": "Roofline" });
  powers(lowX, highX).forEach((v) => root.append(line(x(v), top, x(v), height - bottom, "grid"),
    text(x(v), height - bottom + 16, short(v), { "text-anchor": "middle", class: "q" })));
  powers(lowY, highY).forEach((v) => root.append(line(left, y(v), width - right, y(v), "grid"),
    text(left - 8, y(v) + 4, short(v), { "text-anchor": "end", class: "q" })));
  root.append(text(left + (width - left - right) / 2, height - 6, "FLOP per byte", { "text-anchor": "middle", class: "q" }));
  root.append(text(left + 6, top + 10, "GFLOP/s", { class: "q" }));
  // A slope of bytes/s from the left or lower edge to the peak, with its rate along it.
  const slope = (bytesPerS, name, dashes) => {
    const start = Math.max(lowX, lowY * 1e9 / bytesPerS), top = roof.flops_per_s / bytesPerS;
    const at = (v) => [x(v), y(v * bytesPerS / 1e9)];
    const [[x0, y0], [x1, y1], [px, py]] = [at(start), at(top), at(Math.sqrt(start * top))];
    root.append(svg("path", { d: `M${x0},${y0} L${x1},${y1}`, fill: "none", stroke: paint("text"), "stroke-width": 2, "stroke-dasharray": dashes }));
    root.append(text(px, py - 7, `${name} ${short(bytesPerS / 1e9)} GB/s`, {
      "text-anchor": "middle", class: "halo", transform: `rotate(${Math.atan2(y1 - y0, x1 - x0) * 180 / Math.PI} ${px} ${py})`,
    }));
    return x1;
  };
  if (roof) {
    const cached = number(roof.cached_bytes_per_s);
    const ridges = [slope(roof.bytes_per_s, "memory", null), ...(cached ? [slope(cached, "cache", "5 4")] : [])];
    root.append(svg("path", { d: `M${Math.min(...ridges)},${y(peak)} L${width - right},${y(peak)}`, fill: "none", stroke: paint("text"), "stroke-width": 2 }));
    root.append(text(width - right, y(peak) - 8, `${short(peak)} GFLOP/s`, { "text-anchor": "end" }));
  }
  points.forEach((point) => {
    const lines = [point.name, point.note, `${short(rate(point))} GFLOP/s, ${short(point.bytes / point.us / 1e3)} GB/s`,
      `${short(intensity(point))} FLOP per byte, ${formatNs(point.us * 1e3)}`];
    if (roof) {
      const shortest = Math.max(point.flops / roof.flops_per_s, point.bytes / roof.bytes_per_s) * 1e6;
      lines.push(`${percent(point.fraction ?? shortest / point.us)} of the roof`);
    }
    root.append(withTip(svg("circle", {
      cx: x(intensity(point)), cy: y(rate(point)), r: 6, fill: paint(GROUPS[point.group] ?? "s6"), "fill-opacity": 0.85,
      stroke: paint("card"), "stroke-width": 1.5,
    }), lines.filter(Boolean)));
  });
  return root;
};
