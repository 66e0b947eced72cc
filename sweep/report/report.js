"use strict";

// Plots take their colours from the style sheet, and again when the reader's system turns dark or light.
const styled = (value) => {
  if (typeof value === "string" && value.startsWith("--")) {
    return getComputedStyle(document.documentElement).getPropertyValue(value).trim();
  }
  if (Array.isArray(value)) return value.map(styled);
  if (value && typeof value === "object") {
    return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, styled(item)]));
  }
  return value;
};

const axis = { gridcolor: "--line", linecolor: "--line", zeroline: false, automargin: true, fixedrange: true };
const frame = {
  paper_bgcolor: "rgba(0,0,0,0)",
  plot_bgcolor: "rgba(0,0,0,0)",
  margin: { l: 8, r: 12, t: 12, b: 8 },
  font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: "--muted" },
  hoverlabel: { bgcolor: "--panel", bordercolor: "--faint", font: { color: "--ink" } },
  legend: { bgcolor: "rgba(0,0,0,0)" },
  modebar: { bgcolor: "rgba(0,0,0,0)", color: "--faint", activecolor: "--muted" },
};
const config = { responsive: true, displaylogo: false, modeBarButtons: [["toImage"]] };

const draw = () => {
  for (const place of document.querySelectorAll(".plot")) {
    const { data, layout } = JSON.parse(document.getElementById(place.dataset.plot).textContent);
    const merged = { ...frame, ...layout, legend: { ...frame.legend, ...layout.legend } };
    merged.height = Math.min(layout.height, 1.2 * place.clientWidth);
    merged.xaxis = { ...axis, ...layout.xaxis };
    merged.yaxis = { ...axis, ...layout.yaxis };
    Plotly.react(place, styled(data), styled(merged), config);
  }
};
draw();
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);

// Tables: a click on a heading sorts, a second click turns the order around. Figures sort by their full value.
const key = (cell) => {
  const text = cell.dataset.sort ?? cell.querySelector("data")?.value ?? cell.textContent.trim();
  const number = Number(text);
  return text === "" || Number.isNaN(number) ? text : number;
};
const compare = (a, b) =>
  typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), undefined, { numeric: true });

const sort = (heading) => {
  const direction = heading.getAttribute("aria-sort") === "ascending" ? -1 : 1;
  for (const other of heading.parentElement.children) other.removeAttribute("aria-sort");
  heading.setAttribute("aria-sort", direction === 1 ? "ascending" : "descending");
  const body = heading.closest("table").tBodies[0];
  const at = heading.cellIndex;
  body.append(...[...body.rows].sort((a, b) => direction * compare(key(a.cells[at]), key(b.cells[at]))));
};
for (const heading of document.querySelectorAll(".sortable thead th")) {
  const button = document.createElement("button");
  button.type = "button";
  button.append(...heading.childNodes);
  button.addEventListener("click", () => sort(heading));
  heading.replaceChildren(button);
}

for (const button of document.querySelectorAll(".filters button")) {
  button.addEventListener("click", () => {
    for (const other of button.parentElement.children) other.setAttribute("aria-pressed", String(other === button));
    for (const row of document.getElementById("patient-table").tBodies[0].rows) {
      row.hidden = button.dataset.outcome !== "" && row.dataset.outcome !== button.dataset.outcome;
    }
  });
}

// Every table and plot as CSV, with full values; a text that begins like a formula gets an apostrophe, as in the run's own files.
const csvCell = (text) => {
  const safe = Number.isNaN(Number(text)) && /^[=+\-@\t\r']/.test(text) ? `'${text}` : text;
  return `"${safe.replaceAll('"', '""')}"`;
};
const offerCsv = (place, name, label, rows) => {
  const link = document.createElement("a");
  link.className = "download";
  link.textContent = "CSV";
  link.href = "#";
  link.download = `${name}.csv`;
  link.setAttribute("aria-label", `Download ${label} as CSV`);
  link.addEventListener("click", () => {
    const lines = rows().map((cells) => cells.map((cell) => csvCell(String(cell ?? ""))).join(","));
    link.href = URL.createObjectURL(new Blob([lines.join("\n") + "\n"], { type: "text/csv" }));
  });
  place.after(link);
};
const cellText = (cell) => {
  const figures = [...cell.querySelectorAll("data")];
  return figures.length ? figures.map((figure) => figure.value).join(" ") : cell.textContent.trim().replace(/\s+/g, " ");
};
for (const table of document.querySelectorAll("table:not(.confusion)")) {
  const label = `the table ${table.caption?.textContent ?? ""}`;
  offerCsv(table.closest(".scroll") ?? table, table.closest("section").id, label, () =>
    [...table.rows].map((row) => [...row.cells].map(cellText)),
  );
}
const plain = (text) => new DOMParser().parseFromString(text.replaceAll("<br>", ", "), "text/html").body.textContent;
const points = (trace) =>
  trace.type === "contour"
    ? trace.z.flatMap((line, row) => line.map((z, column) => ["surface", trace.x[column], trace.y[row], z]))
    : trace.x.map((x, at) => [trace.name, x, trace.y[at], trace.text && plain(trace.text[at])]);
for (const place of document.querySelectorAll(".plot")) {
  const { data } = JSON.parse(document.getElementById(place.dataset.plot).textContent);
  const rows = () => [["curve", "x", "y", "value"], ...data.flatMap(points)];
  offerCsv(place, place.dataset.plot, `the plot ${place.getAttribute("aria-label")}`, rows);
}

// What scrolls sideways on this screen can be scrolled by keyboard as well, under the name of its table.
for (const place of document.querySelectorAll(".scroll")) {
  if (place.scrollWidth <= place.clientWidth && place.scrollHeight <= place.clientHeight) continue;
  const name = place.querySelector("caption")?.textContent ?? place.closest("section").querySelector("h2").textContent;
  place.tabIndex = 0;
  place.setAttribute("role", "region");
  place.setAttribute("aria-label", name.trim());
}

// Paper shows what a click would open.
addEventListener("beforeprint", () => {
  for (const details of document.querySelectorAll("details")) details.open = true;
});
