// What a page does beyond being read: the theme, values under the pointer, and keeping up with the run.
// Nothing here is needed to read it, and nothing is asked of any other host.
"use strict";

const SVG = "http://www.w3.org/2000/svg";

// -- theme: that of the system, until somebody chooses ---------------------------------------------------------

const THEMES = ["system", "light", "dark"];

function themed(name) {
  if (name === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = name;
  document.getElementById("theme").textContent = `theme: ${name}`;
}

function chosenTheme() {
  try { return THEMES.includes(localStorage.theme) ? localStorage.theme : "system"; } catch { return "system"; }
}

function nextTheme() {
  const name = THEMES[(THEMES.indexOf(chosenTheme()) + 1) % THEMES.length];
  try { localStorage.theme = name; } catch { /* a browser that keeps nothing */ }
  themed(name);
}

// -- values under the pointer ----------------------------------------------------------------------------------

function nearest(points, x) {
  let low = 0, high = points.length - 1;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (points[middle][0] < x) low = middle; else high = middle;
  }
  return points.length && Math.abs(points[high][0] - x) < Math.abs(points[low][0] - x) ? points[high] : points[low];
}

function told(svg, x) {
  if (svg.dataset.hover === "saves") {
    const found = nearest(JSON.parse(svg.dataset.points), x);
    return found && { x: found[0], dots: [], text: `${found[3]}  ${found[2]}`, id: found[3] };
  }
  const lines = [...svg.querySelectorAll("path[data-points]")];
  const found = lines.map((line) => [line, nearest(JSON.parse(line.dataset.points), x)]).filter((each) => each[1]);
  if (!found.length) return null;
  const [, closest] = found.reduce((a, b) => (Math.abs(b[1][0] - x) < Math.abs(a[1][0] - x) ? b : a));
  const near = found.filter(([, point]) => Math.abs(point[0] - closest[0]) < 6);
  const text = near.map(([line, point]) => (found.length > 1 ? `${line.dataset.name}  ` : "") + shown(point[3]));
  const dots = near.map(([line, point]) => [point[0], point[1], line.getAttribute("class")]);
  return { x: closest[0], dots, text: [`step ${closest[2].toLocaleString("en")}`, ...text].join("\n") };
}

function shown(value) {
  return Math.abs(value) >= 1e5 || (value && Math.abs(value) < 1e-3) ? value.toExponential(3) : String(+value.toPrecision(5));
}

function drawn(name, attributes) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

function unhover(figure) {
  figure.querySelectorAll(".pointer, .point, .tip").forEach((each) => each.remove());
}

function hover(event) {
  const svg = event.target.closest?.("svg[data-hover]");
  document.querySelectorAll(".tip").forEach((tip) => { if (tip.parentNode !== svg?.parentNode) unhover(tip.parentNode); });
  if (!svg) return;
  const figure = svg.parentNode, box = svg.getBoundingClientRect(), view = svg.viewBox.baseVal;
  const found = told(svg, (event.clientX - box.left) * view.width / box.width);
  unhover(figure);
  if (!found) return;
  svg.append(drawn("line", { class: "pointer", x1: found.x, x2: found.x, y1: 10, y2: view.height - 24 }));
  for (const [cx, cy, of] of found.dots) svg.append(drawn("circle", { class: `point ${of.replace("line ", "")}`, cx, cy, r: 3.5 }));
  const tip = document.createElement("div");
  tip.className = "tip";
  tip.textContent = found.text;
  figure.append(tip);
  const frame = figure.getBoundingClientRect(), at = found.x * box.width / view.width + box.left - frame.left;
  tip.style.left = `${Math.max(4, Math.min(at + 12, figure.clientWidth - tip.offsetWidth - 4))}px`;
  tip.style.top = `${box.top - frame.top + 6}px`;
  svg.dataset.at = found.id || "";
}

function opened(event) {
  const svg = event.target.closest?.('svg[data-hover="saves"]');
  if (!svg?.dataset.at) return;
  const link = [...document.querySelectorAll("td.id a")].find((each) => each.textContent === svg.dataset.at);
  if (link) { link.closest("tr").scrollIntoView({ block: "center" }); link.focus(); }
}

// -- keeping up ------------------------------------------------------------------------------------------------

const RESTING = 10000; // milliseconds after which a pointer that lies on a picture reads it no more

let tag = null, moved = 0;

function isBusy() {
  const active = document.activeElement;
  const reads = document.querySelector(".tip") && Date.now() - moved < RESTING;
  return reads || String(getSelection()) || active?.matches("main input:not([type=radio]):not([type=checkbox])");
}

function kept(main) {
  const open = [...main.querySelectorAll("details[open]")].map((each) => each.id);
  const checked = [...main.querySelectorAll("input:checked")].map((each) => [each.name, each.value]);
  return (next) => {
    next.querySelectorAll("details").forEach((each) => { each.open = open.includes(each.id); });
    next.querySelectorAll("input").forEach((each) => {
      if (checked.some(([name, value]) => name === each.name && value === each.value)) each.checked = true;
    });
  };
}

async function renew() {
  if (document.hidden || isBusy()) return;
  const live = document.getElementById("live");
  try {
    const answer = await fetch(location.href, { headers: tag ? { "If-None-Match": tag } : {}, cache: "no-store" });
    if (answer.status === 304) { live.textContent = "up to date"; return; }
    const found = new DOMParser().parseFromString(await answer.text(), "text/html");
    if (!answer.ok) throw new Error(found.querySelector(".note")?.textContent || answer.statusText);
    if (isBusy()) return;
    tag = answer.headers.get("ETag");
    const main = document.querySelector("main"), next = found.querySelector("main");
    kept(main)(next);
    main.replaceWith(document.adoptNode(next));
    document.title = found.title;
    live.textContent = "up to date";
    live.className = "";
  } catch (error) {
    live.textContent = `not up to date: ${error.message}`;
    live.className = "bad";
  }
}

// -- all of it -------------------------------------------------------------------------------------------------

const theme = document.getElementById("theme");
theme.hidden = false;
themed(chosenTheme());
theme.addEventListener("click", nextTheme);
document.addEventListener("pointermove", (event) => { moved = Date.now(); hover(event); });
document.addEventListener("pointerleave", () => document.querySelectorAll(".chart").forEach(unhover));
document.addEventListener("click", opened);
const pause = Number(document.body.dataset.pause);
if (pause) setInterval(renew, 1000 * pause);
