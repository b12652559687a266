// Puts the page together.
const data = JSON.parse(document.getElementById("record").textContent);
data.reports.forEach((report) => {
  report.endNs = largest(report.spans.map((span) => span[6]), 1);
  const all = report.overlap.filter((rank) => rank.comm_ns > 0);
  report.commNs = sum(all.map((rank) => rank.comm_ns)) / Math.max(1, report.overlap.length);
  report.exposedNs = sum(all.map((rank) => rank.exposed_ns)) / Math.max(1, report.overlap.length);
  report.hidden = report.commNs > 0 ? 1 - report.exposedNs / report.commNs : null;
});

const section = (title, note, ...children) =>
  el("section", {}, el("div", { class: "head" }, el("h2", {}, title), note ? el("span", { class: "quiet" }, note) : null), ...children);
const badge = (kind) => el("span", { class: `badge ${kind}` }, kind === "simulated" ? "predicted" : "measured");

const card = (report, onclick) => {
  const share = (ns) => `width:${Math.min(100, (ns / report.endNs) * 100)}%`;
  return el("button", { type: "button", class: "card", onclick, title: report.name },
    el("b", {}, report.name), badge(report.kind),
    el("div", { class: "big" }, formatNs(report.endNs),
      el("small", {}, report.hidden === null ? "  no transfers" : `  ${percent(report.hidden)} of transfers hidden`)),
    el("div", { class: "meter", title: "hidden and exposed communication, as part of the run" },
      el("i", { style: `${share(report.commNs - report.exposedNs)};background:var(--comm)` }),
      el("i", { class: "hatch", style: share(report.exposedNs) })),
    el("div", { class: "quiet" },
      `${formatBytes(largest(report.bytes_sent))} sent and ${formatBytes(largest(report.peak_bytes))} peak, the most of ${report.ranks} rank${report.ranks === 1 ? "" : "s"}`));
};

const overlapTable = (report) => {
  const most = 256;
  const rows = report.overlap.slice(0, most).map((rank, i) => el("tr", {},
    el("td", {}, `rank ${i}`),
    ...[rank.compute_ns, rank.comm_ns, rank.exposed_ns].map((ns) => el("td", {}, formatNs(ns))),
    el("td", {}, rank.comm_ns > 0 ? percent(rank.hidden) : "–"),
    el("td", {}, el("div", { class: "meter" }, el("i", { style: `width:${rank.comm_ns > 0 ? rank.hidden * 100 : 0}%;background:var(--comm)` }),
      el("i", { class: "hatch", style: `width:${rank.comm_ns > 0 ? (1 - rank.hidden) * 100 : 0}%` }))),
    el("td", {}, formatBytes(report.bytes_sent[i] ?? 0)), el("td", {}, formatBytes(report.peak_bytes[i] ?? 0))));
  const names = ["rank", "compute", "communication", "exposed", "hidden", "", "sent", "peak"];
  return el("div", { class: "scroll" }, el("table", {}, el("thead", {}, el("tr", {}, ...names.map((name) => el("th", {}, name)))), el("tbody", {}, ...rows)),
    report.overlap.length > most ? el("p", { class: "quiet" }, `the first ${most} of ${report.overlap.length} ranks`) : null);
};

const timelineSections = (main) => {
  const { reports } = data;
  const chart = timeline();
  const second = el("select", { "aria-label": "Compare with" });
  const table = el("div");
  let first = 0;
  const cards = reports.map((report, i) => card(report, () => { choose(i); }));
  const choose = (i) => {
    // Who compares a run with its prediction sees the next run with its own.
    if (second.value !== "" && Number(second.value) === partner(first)) second.value = partner(i) < 0 ? "" : String(partner(i));
    first = i;
    update();
  };
  const update = () => {
    const other = second.value === "" ? null : Number(second.value);
    const shown = other === null || other === first ? [reports[first]] : [reports[first], reports[other]];
    cards.forEach((node, i) => node.classList.toggle("on", i === first));
    chart.show(shown);
    table.replaceChildren(overlapTable(reports[first]));
  };
  second.append(el("option", { value: "" }, "compare with …"),
    ...reports.map((report, i) => el("option", { value: i }, `${report.name} (${report.kind})`)));
  second.addEventListener("change", update);
  // A prediction and a measurement of the same strategy are shown beside each other at once.
  const partner = (i) => reports.findIndex((other) => other.kind !== reports[i].kind && other.strategy === reports[i].strategy && other.name === reports[i].name);
  if (partner(0) > 0) second.value = String(partner(0));
  const button = (label, hint, onclick) => el("button", { type: "button", title: hint, "aria-label": hint, onclick }, label);
  main.append(section("Runs", reports.length > 1 ? "choose one to see its timeline" : null, el("div", { class: "cards" }, ...cards)));
  main.append(section("Timeline", "drag to move, Ctrl + wheel or double-click to zoom, arrow keys and + − 0",
    el("div", { class: "tools" }, button("+", "Zoom in", () => chart.zoom(0.5)), button("−", "Zoom out", () => chart.zoom(2)),
      button("Fit", "Show all", () => chart.fit()), reports.length > 1 ? second : null),
    chart.box,
    legend([["compute", paint("compute")], ["copy", paint("copy")], ["communication", paint("comm")],
      ["exposed: communication without compute", "", "hatch"]])));
  main.append(section("Overlap by rank", "exposed: time in which a rank communicates and does not compute", table));
  update();
  window.seqparTimeline = chart;
};

const rowTable = (rows) => {
  const flat = rows.map((row) => Object.fromEntries(Object.entries(row).flatMap(([key, value]) =>
    value && typeof value === "object" && !Array.isArray(value)
      ? Object.entries(value).map(([inner, v]) => [`${key}.${inner}`, v]) : [[key, value]])));
  const keys = [...new Set(flat.flatMap(Object.keys))];
  const cell = (value) => (value === null || value === undefined ? "–" : typeof value === "number" ? short(value, 6) : String(value));
  return el("div", { class: "scroll", style: "max-height:60vh;overflow-y:auto" }, el("table", {},
    el("thead", {}, el("tr", {}, ...keys.map((key) => el("th", {}, key)))),
    el("tbody", {}, ...flat.map((row) => el("tr", {}, ...keys.map((key) => el("td", {}, cell(row[key]))))))));
};

const build = () => {
  const main = document.getElementById("main");
  document.getElementById("title").textContent = data.title;
  const host = data.host ? `${data.host.cpu ?? "unknown processor"}, ${data.host.instruction_set ?? ""}, ${data.host.cores ?? "?"} cores` : "";
  document.getElementById("subtitle").textContent = host;
  document.getElementById("footer").textContent = `seqpar ${data.version}`;
  if (data.reports.length > 0) timelineSections(main);
  const panels = strategyPanels(data.rows);
  if (panels.length > 0) {
    const has = (key) => data.rows.some((row) => row[key] !== undefined && isStrategyRow(row));
    const entries = [
      ...(has("t_gemm_us") ? [["T_gemm: compute alone", paint("compute")], ["T_comm: transfers alone", paint("comm")]] : []),
      ...(has("exposed_comm_us") ? [["exposed communication", paint("exposed")]] : []),
    ];
    main.append(section("Strategies", "measured times are medians", el("div", { class: "panels" }, ...panels), legend(entries)));
  }
  const pairs = predictions(data.rows, data.reports);
  if (pairs.length > 0) {
    main.append(section("Prediction beside measurement", "error: predicted over measured, less 1",
      el("div", { class: "panels" }, framed("Time", null, predictionBars(pairs))),
      legend([["measured", paint("copy")], ["predicted", paint("external")]])));
  }
  const points = kernelPoints(data.rows, data.reports);
  if (points.length > 0) {
    const groups = [...new Set(points.map((point) => point.group))];
    main.append(section("Roofline", data.roof ? `roof: measured on ${data.roof.threads} threads of this machine` : "no roof in these records",
      el("div", { class: "panels" }, framed("Kernels", null, rooflineChart(points, data.roof))),
      legend(groups.map((group) => [group, paint(GROUPS[group] ?? "s6")]))));
  }
  // Two charts of one panel each stand side by side where there is room.
  if (pairs.length > 0 && points.length > 0) [...main.children].slice(-2).forEach((node) => node.classList.add("half"));
  if (data.rows.length > 0) {
    main.append(section("Rows", `${data.rows.length} as they were recorded`, el("details", {}, el("summary", {}, "All figures"), rowTable(data.rows))));
  }
};
build();
