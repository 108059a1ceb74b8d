"use strict";
// The page of files of measurements: what was found in their curves, the last values, and a figure per metric over the steps.

const LOSS = "loss";
const MARKED = 40; // steps of a line whose points are drawn too

const measured = [...new Set(courses.flatMap((course) => Object.keys(course.values)))].sort(
  (a, b) => (a === LOSS) - (b === LOSS),
);
const arrowOf = (name) => ({ higher: " ↑", lower: " ↓" })[data.better?.[name]] ?? "";
const decimals = (name) =>
  courses.every((course) => (course.values[name] ?? []).every((value) => value === null || Number.isInteger(value))) ? 0 : 4;
const sameLine = (one, other, name) =>
  one.steps.length === other.steps.length &&
  one.steps.every((step, at) => step === other.steps[at] && one.values[name][at] === other.values[name][at]);

// Layers of one training share its loss, which is drawn once.
function drawnCourses(name) {
  const drawn = [];
  for (const course of courses)
    if (course.values[name] && !(name === LOSS && drawn.some((other) => sameLine(course, other, name)))) drawn.push(course);
  return drawn;
}

function courseFigure(name, theme) {
  const drawn = drawnCourses(name);
  const traces = drawn.map((course) => ({
    type: "scatter",
    mode: course.steps.length > MARKED ? "lines" : "lines+markers",
    name: plain(course.name),
    course,
    x: Array.from(course.steps),
    y: course.values[name],
    hoverinfo: "none",
    line: { color: viewColor(courses.indexOf(course), courses.length), width: 2 },
    marker: { size: 5 },
  }));
  const steps = drawn.flatMap((course) => [course.steps[0], course.steps.at(-1)]);
  const few = Math.max(...steps) - Math.min(...steps) <= 8; // such as the numbers of checkpoints
  const xaxis = { title: { text: "step" }, exponentformat: "none", separatethousands: true, ...(few ? { dtick: 1 } : { nticks: 6 }) };
  return { traces, layout: frame(theme, { xaxis, showlegend: traces.length > 1 }) };
}

function makeTrends() {
  const parent = section("findings", "Findings", "What stands out");
  for (const course of courses) {
    const same = courses.every((other) => other.layer === course.layer);
    if (courses.length > 1)
      parent.append(make("h3", {}, course.name, same ? make("span", { class: "small" }, ` ${course.layer}`) : null));
    if (!course.findings.length) {
      const looked = Object.keys(course.values).filter((name) => name !== LOSS);
      const why = course.checkpoints
        ? "These are scored checkpoints, in which no trends are looked for."
        : `Nothing stands out in ${plural(course.steps.length, "measurement")} of ${looked.join(", ")}.`;
      parent.append(make("p", {}, why));
      continue;
    }
    const items = course.findings.map(([step, text]) =>
      make("li", { class: "high" }, make("span", { class: "severity" }, `step ${whole(step)}`), ` ${text}.`),
    );
    parent.append(make("ul", { class: "findings" }, ...items));
  }
}

// The first, the last and the best value of a line, as far as there are any; `better` is the direction of the metric.
function ends(course, name) {
  const values = course.values[name] ?? [];
  const known = values.map((_, at) => at).filter((at) => values[at] !== null);
  const sign = { higher: 1, lower: -1 }[data.better[name]];
  const best = sign && known.reduce((a, b) => (sign * values[b] > sign * values[a] ? b : a), known[0]);
  return { last: values.at(-1) ?? null, first: values[known[0]] ?? null, best };
}

function makeLastValues() {
  const parent = section("scores", "Last values", "Last values", "At the last step that was measured.");
  const row = (title, ...cells) => make("tr", {}, make("th", { scope: "row" }, title), ...cells);
  const counted = (title, value) =>
    courses.some((course) => value(course) !== null) &&
    row(title, ...courses.map((course) => make("td", { class: "number" }, value(course) === null ? "–" : whole(value(course)))));
  const rows = measured.map((name) => {
    const digits = decimals(name);
    const cells = courses.map((course) => {
      if (!course.values[name]) return make("td", { class: "number" }, "–");
      const { last, first, best } = ends(course, name);
      const values = course.values[name];
      const more = [first === null ? null : `at first ${decimal(first, digits)}`];
      if (best !== undefined && values[best] !== last)
        more.push(`best ${decimal(values[best], digits)}, step ${whole(course.steps[best])}`);
      return make(
        "td",
        { class: "number" },
        decimal(last, digits),
        ...more.filter(Boolean).map((text) => make("span", { class: "small" }, text)),
      );
    });
    return row(`${name}${arrowOf(name)}`, ...cells);
  });
  const heads = courses.map((course) =>
    make("th", { scope: "col", class: "number" }, course.name, make("span", { class: "small" }, course.layer)),
  );
  const body = [
    counted("step", (course) => course.steps.at(-1)),
    counted("measurements", (course) => course.steps.length),
    counted("samples", (course) => course.samples),
    counted("dimensions", (course) => course.dimensions),
    counted("classes", (course) => course.classes),
  ].filter(Boolean);
  const head = make("thead", {}, make("tr", {}, make("td"), ...heads));
  parent.append(scrolling("Last values", make("table", {}, head, make("tbody", {}, ...body, ...rows))));
  const legend = "↑ higher is better, ↓ lower is better. One probe, measured at every step: no intervals, so small differences may be chance.";
  parent.append(make("p", { class: "note", style: "margin-top: .5rem" }, legend));
}

function makeTrajectory() {
  const parent = section("trajectory", "Trajectory", "Trajectory", "Every metric over the steps of training.");
  const grid = make("div", { class: "grid" });
  parent.append(grid);
  for (const name of measured) {
    addFigure(grid, {
      title: `${name}${arrowOf(name)}`,
      build: () => courseFigure(name, theme),
      caption: () => {
        const missing = drawnCourses(name).filter((course) => course.values[name].includes(null));
        return missing.length ? `Gaps: undefined or not measured (${missing.map((course) => course.name).join(", ")}).` : "";
      },
      tip: (point, made) => {
        const { course } = made.traces[point.curveNumber];
        const of = name === LOSS ? course.source : course.name;
        const value = `step ${whole(point.x)}: ${decimal(point.y, decimals(name))}`;
        return lines(of, value, course.checkpoints?.[point.pointNumber]);
      },
    });
  }
}

function makeCourses() {
  byId("classes").remove();
  document.querySelector("h1").textContent = "How does the embedding change?";
  byId("inputs").textContent = courses
    .map((course) => `${course.name} (${plural(course.steps.length, "measurement")})`)
    .join(", ");
  makeTrends();
  makeLastValues();
  makeTrajectory();
  makeProvenance();
  redraw();
}
