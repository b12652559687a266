// Numbers as a person reads them, and elements without markup: text is always text.
const short = (x, digits = 3) => {
  if (x === 0) return "0";
  const places = Math.max(0, digits - 1 - Math.floor(Math.log10(Math.abs(x))));
  return String(Number(x.toFixed(Math.min(places, 12))));
};
const scaled = (x, units, base = 1000) => {
  let i = 0;
  while (Math.abs(x) >= base && i + 1 < units.length) { x /= base; i += 1; }
  return `${short(x)} ${units[i]}`;
};
const formatNs = (ns) => scaled(ns, ["ns", "µs", "ms", "s"]);
const formatBytes = (bytes) => scaled(bytes, ["B", "KiB", "MiB", "GiB", "TiB"], 1024);
const formatRate = (perSecond, unit) => scaled(perSecond, ["", "k", "M", "G", "T", "P"].map((p) => `${p}${unit}/s`));
const percent = (part) => `${(part * 100).toFixed(part > 0 && part < 0.1 ? 1 : 0)} %`;
const sum = (list) => list.reduce((a, b) => a + b, 0);
const largest = (list, least = 0) => list.reduce((a, b) => Math.max(a, b), least);
const number = (value) => (typeof value === "number" && Number.isFinite(value) ? value : null);

// el("p", { class: "quiet" }, "text", child): an HTML element.
const fill = (node, attributes, children) => {
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) node.setAttribute(key, value);
  }
  node.append(...children.filter((child) => child !== null));
  return node;
};
const el = (tag, attributes = {}, ...children) => fill(document.createElement(tag), attributes, children);
// The namespace is taken from an element of the page: no address stands in this file.
const { namespaceURI } = document.getElementById("svg");
const svg = (tag, attributes = {}, ...children) => fill(document.createElementNS(namespaceURI, tag), attributes, children);

// One tooltip for all; lines of text, the first in bold.
const tip = document.getElementById("tip");
const showTip = (event, [head, ...lines]) => {
  tip.replaceChildren(el("b", {}, head), lines.length ? "\n" + lines.join("\n") : "");
  tip.hidden = false;
  const { width, height } = tip.getBoundingClientRect();
  const x = event.clientX + 14 + width > innerWidth ? event.clientX - width - 10 : event.clientX + 14;
  const y = event.clientY + 16 + height > innerHeight ? event.clientY - height - 10 : event.clientY + 16;
  tip.style.left = `${Math.max(4, Math.min(x, innerWidth - width - 4))}px`;
  tip.style.top = `${Math.max(4, y)}px`;
};
const hideTip = () => { tip.hidden = true; };
const withTip = (node, lines) => {
  node.classList.add("hot");
  node.addEventListener("pointermove", (event) => showTip(event, lines));
  node.addEventListener("pointerleave", hideTip);
  return node;
};
