"use strict";
// The page itself: sections, what a reader picks, and what follows from it. Text becomes text nodes, never markup.

const MOST_PANELS = 4; // two WebGL contexts a panel, of which browsers give a page about sixteen
const PAGE_ROWS = 20;

const state = {
  picked: new Set(), // codes of classes
  sample: null, // { view, place }
  hovered: null, // the same
  layout: LAYOUTS[0],
  shown: views.length <= MOST_PANELS ? views.map((view) => view.index) : [0, views.length - 1],
  table: { view: judged?.index, key: judged?.silhouette ? "silhouette" : "id", descending: false, rows: PAGE_ROWS },
};

const webgl = (() => {
  const context = document.createElement("canvas").getContext("webgl");
  context?.getExtension("WEBGL_lose_context")?.loseContext();
  return Boolean(context);
})();

function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== false && value !== null && value !== undefined) node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}
const byId = (id) => document.getElementById(id);
const main = byId("main");

// Theme: the reader's system decides until the switch is pressed.

const darkSystem = matchMedia("(prefers-color-scheme: dark)");
let theme = {};
function setTheme(dark) {
  document.documentElement.dataset.theme = dark ? "dark" : "light";
  byId("theme").setAttribute("aria-pressed", dark);
  const style = getComputedStyle(document.documentElement);
  theme = Object.fromEntries(
    ["paper", "raised", "ink", "quiet", "line", "accent", "rest"].map((name) => [
      name,
      style.getPropertyValue(`--${name}`).trim(),
    ]),
  );
}
setTheme(darkSystem.matches);
byId("theme").addEventListener("click", () => {
  setTheme(document.documentElement.dataset.theme !== "dark");
  redraw();
});
darkSystem.addEventListener("change", (event) => {
  setTheme(event.matches);
  redraw();
});

// Figures: each knows how to make itself again; maps are made at once, the others one by one as the page is idle.

const figures = [];
let waiting = [];

function addFigure(parent, { title, caption, build, tip, click, map, label }) {
  const plot = make("div", { class: "plot", role: "group", "aria-label": label ?? title });
  const note = make("figcaption");
  const node = make("figure", map ? { class: "map" } : {}, make("h3", {}, title), plot, note);
  const figure = { node, plot, build, map, caption, note, tip, click, bound: false };
  parent.append(node);
  figures.push(figure);
  return figure;
}

function draw(figure) {
  if (!figure.node.isConnected) return;
  const made = figure.build();
  figure.made = made;
  if (!figure.map) figure.plot.style.height = `${made.height ?? 330}px`;
  figure.note.textContent = figure.caption?.(made) ?? "";
  const config = {
    responsive: true,
    displaylogo: false,
    showSendToCloud: false, // nothing leaves the page
    plotlyServerURL: "",
    doubleClick: "reset",
    ...(figure.map ? { modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"] } : { modeBarButtons: [["toImage"]] }),
  };
  if (figure.map) {
    made.layout.shapes = rings(figure.map);
    figure.home = { "xaxis.range": [...made.layout.xaxis.range], "yaxis.range": [...made.layout.yaxis.range] }; // plotly changes its layout
  }
  Plotly.react(figure.plot, made.traces, made.layout, config);
  if (figure.bound) return;
  figure.bound = true;
  figure.plot.on("plotly_hover", (event) => hover(figure, event));
  figure.plot.on("plotly_unhover", () => hover(figure, null));
  figure.plot.on("plotly_click", (event) => figure.click?.(event.points[0], figure.made));
  if (figure.map) makeMapKeys(figure);
}

function redraw() {
  waiting = [...figures].sort((a, b) => Boolean(b.map) - Boolean(a.map));
  for (const figure of waiting.filter((each) => each.map)) draw(figure);
  waiting = waiting.filter((each) => !each.map);
  document.documentElement.dataset.drawn = "maps";
  performance.mark("maps");
  drawWaiting();
}

let timer = null;
function drawWaiting() {
  clearTimeout(timer);
  if (!waiting.length) {
    document.documentElement.dataset.drawn = "all";
    performance.mark("all");
    return;
  }
  timer = setTimeout(() => {
    draw(waiting.shift());
    drawWaiting();
  }, 0);
}

function dropFigures(gone) {
  for (const figure of gone) {
    Plotly.purge(figure.plot);
    figure.node.remove();
    figures.splice(figures.indexOf(figure), 1);
  }
}

// Hovering: plotly says where the pointer is; what it shows is made of text nodes here, and linked in the other maps.

const tip = byId("tip");
function hover(figure, event) {
  if (figure.map) {
    const place = event && figure.made.traces[event.points[0].curveNumber].places[event.points[0].pointNumber];
    state.hovered = event ? { view: figure.map, place } : null;
    drawRings();
  }
  const content =
    event && (figure.map ? sampleLines(figure.map, state.hovered.place) : figure.tip?.(event.points[0], figure.made));
  tip.hidden = !content;
  if (!content) return;
  tip.replaceChildren(...content);
  const { clientX, clientY } = event.event;
  const { width, height } = tip.getBoundingClientRect();
  tip.style.left = `${Math.max(4, Math.min(clientX + 16, innerWidth - width - 4))}px`;
  tip.style.top = `${clientY + 18 + height > innerHeight ? Math.max(4, clientY - height - 14) : clientY + 18}px`;
}
const lines = (...texts) => [
  make("div", {}, ...texts.filter(Boolean).map((text, at) => make("div", {}, at ? text : make("b", {}, text)))),
];

function picture(set, place, kind) {
  const encoded = set.thumbnails?.[place];
  return encoded ? make("img", { class: kind, alt: "", src: `data:image/webp;base64,${encoded}` }) : null;
}

function sampleLines(view, place) {
  const { set } = view;
  const text = [set.ids[place], `class ${CLASSES[set.labels[place]]}`];
  if (view.nearest) text.push(`nearest other class ${CLASSES[view.nearest[place]]}`);
  if (view.silhouette) text.push(`silhouette ${decimal(view.silhouette[place])}`);
  for (const other of views) {
    const there = other === view || !other.silhouette || views.length > 5 ? -1 : placeIn(other, view, place);
    if (there >= 0)
      text.push(`${other.name}: ${decimal(other.silhouette[there])}, nearest other ${CLASSES[other.nearest[there]]}`);
  }
  return [picture(set, place, "tip"), ...lines(...text)].filter(Boolean);
}

function rings(view) {
  const found = [];
  for (const [sample, color, width] of [
    [state.hovered, theme.ink, 1.5],
    [state.sample, theme.accent, 3],
  ]) {
    const place = sample ? placeIn(view, sample.view, sample.place) : -1;
    if (place >= 0) found.push(ring(view.layouts[state.layout], place, color, width));
  }
  return found;
}
function drawRings() {
  for (const figure of figures.filter((each) => each.map && each.bound))
    Plotly.relayout(figure.plot, { shapes: rings(figure.map) });
}

// Keys on a focused map: + and - zoom, arrows move, 0 shows all.
function makeMapKeys(figure) {
  figure.plot.tabIndex = 0;
  figure.plot.addEventListener("keydown", (event) => {
    const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
    const zoom = { "+": 0.7, "=": 0.7, "-": 1 / 0.7 }[event.key];
    if (event.target !== figure.plot || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "0") Plotly.relayout(figure.plot, structuredClone(figure.home));
    else if (zoom || moves[event.key]) {
      const seen = figure.plot.layout;
      const [right, up] = moves[event.key] ?? [0, 0];
      const moved = ([low, high], by) => {
        const middle = (low + high) / 2 + (by * (high - low)) / 6;
        const half = ((high - low) / 2) * (zoom ?? 1);
        return [middle - half, middle + half];
      };
      Plotly.relayout(figure.plot, {
        "xaxis.range": moved(seen.xaxis.range, right),
        "yaxis.range": moved(seen.yaxis.range, up),
      });
    } else return;
    event.preventDefault();
  });
}

// Sections.

function section(id, short, title, ...notes) {
  const node = make(
    "section",
    { id, "aria-labelledby": `${id}-title` },
    make("h2", { id: `${id}-title` }, title),
    ...notes.map((note) => make("p", { class: "note" }, note)),
  );
  main.append(node);
  document.querySelector("nav").append(make("a", { href: `#${id}` }, short));
  return node;
}

const scrolling = (label, table) => make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": label }, table);

function makeFindings() {
  const parent = section("findings", "Findings", "What stands out");
  for (const view of views) {
    if (views.length > 1) parent.append(make("h3", {}, view.name, make("span", { class: "small" }, ` ${view.layer}`)));
    if (!view.findings.length) {
      parent.append(
        make(
          "p",
          {},
          "Nothing stands out.",
          make("span", { class: "small" }, view.examined.length ? ` Looked at: ${view.examined.join(", ")}.` : ""),
        ),
      );
      continue;
    }
    const items = view.findings.map((each) => {
      const show = each.classes.length
        ? make(
            "button",
            { type: "button", onclick: () => setPicked(new Set(each.classes)) },
            each.classes.length > 1 ? "Show these classes" : "Show this class",
          )
        : null;
      return make(
        "li",
        { class: each.severity },
        make("span", { class: "severity" }, each.severity),
        ` ${each.text}. `,
        make("span", { class: "small" }, `${each.next}. `),
        show,
      );
    });
    parent.append(make("ul", { class: "findings" }, ...items));
  }
}

function makeScores() {
  const parent = section("scores", "Scores", "Scores");
  const notes = new Map(); // text -> number
  const rows = data.metrics.map((name) => {
    const entries = views.map((view) => view.metrics[name]);
    const { better } = entries[0];
    const best = data.best[name];
    const arrow = better
      ? make(
          "span",
          { title: `${better} is better` },
          better === "higher" ? " ↑" : " ↓",
          make("span", { class: "hidden" }, ` ${better} is better`),
        )
      : null;
    const cells = entries.map(({ value, ci95, note }, place) => {
      if (note && !notes.has(note)) notes.set(note, notes.size + 1);
      const digits = better ? 4 : 0;
      const interval = ci95 && make("span", { class: "small" }, `${decimal(ci95[0], digits)} to ${decimal(ci95[1], digits)}`);
      const marks = [place === best ? " *" : "", note ? ` (${notes.get(note)})` : ""].join("");
      return make("td", { class: place === best ? "number best" : "number" }, decimal(value, digits), marks, interval);
    });
    return make("tr", {}, make("th", { scope: "row" }, name, arrow), ...cells);
  });
  const counted = (title, value) =>
    make(
      "tr",
      {},
      make("th", { scope: "row" }, title),
      ...views.map((view) => make("td", { class: "number" }, whole(value(view)))),
    );
  const head = make(
    "thead",
    {},
    make(
      "tr",
      {},
      make("td"),
      ...views.map((view) =>
        make("th", { scope: "col", class: "number" }, view.name, make("span", { class: "small" }, view.layer)),
      ),
    ),
  );
  const body = make(
    "tbody",
    {},
    counted("samples", (view) => view.samples),
    counted("dimensions", (view) => view.dimensions),
    counted("classes", (view) => view.classes),
    ...rows,
  );
  parent.append(scrolling("Scores", make("table", {}, head, body)));
  const legend = [
    "Below each value: its 95% interval over samples, corrected for bias. The interval covers the choice of samples, not the randomness of training.",
  ];
  const seeds = new Set(
    views.flatMap((view) => view.provenance.filter(([name]) => name === "finetune seed").map(([, seed]) => seed)),
  );
  if (seeds.size)
    legend.push(
      `After training: one trial per objective, seed ${[...seeds].join(", ")}${data.runs.length ? "; the means over trials are in the section Training" : ""}.`,
    );
  if (views.length > 1) legend.push("* best in its row, if the interval of the difference to the next best excludes 0.");
  parent.append(make("p", { class: "note", style: "margin-top: .5rem" }, legend.join(" ")));
  for (const [text, number] of notes) parent.append(make("p", { class: "note" }, `(${number}) ${text}`));
  for (const view of views.filter((each) => each.unlabelled))
    parent.append(
      make(
        "p",
        { class: "note" },
        `${view.name}: ${plural(view.unlabelled, "unlabeled row is", "unlabeled rows are")} left out.`,
      ),
    );
}

function toggles(label, options) {
  return make("div", { class: "controls", role: "group", "aria-label": label }, ...options);
}

let mapGrid;
const perView = []; // what is shown anew when other inputs are chosen: { parent, add }
function makeMap() {
  const parent = section(
    "map",
    "Map",
    "Map",
    "Each point is a sample. Hover over or click a point to find it on the other maps; select classes to highlight them everywhere.",
  );
  if (!webgl)
    parent.append(make("p", { class: "note" }, "This browser has no WebGL, so maps with many points are drawn slowly."));
  if (LAYOUTS.length > 1) {
    const buttons = LAYOUTS.map((title) =>
      make(
        "button",
        {
          type: "button",
          "aria-pressed": title === state.layout,
          onclick: () => {
            state.layout = title;
            for (const button of buttons) button.setAttribute("aria-pressed", button.textContent === title);
            showViews();
          },
        },
        title,
      ),
    );
    parent.append(toggles("Layout", buttons));
  }
  if (views.length > 2) {
    const buttons = views.map((view) =>
      make(
        "button",
        {
          type: "button",
          onclick: () => {
            const others = state.shown.filter((index) => index !== view.index);
            state.shown =
              others.length < state.shown.length
                ? others.length
                  ? others
                  : state.shown
                : [...state.shown, view.index].slice(-MOST_PANELS);
            update();
            showViews();
          },
        },
        view.name,
      ),
    );
    const update = () => {
      for (const [index, button] of buttons.entries()) button.setAttribute("aria-pressed", state.shown.includes(index));
    };
    update();
    parent.append(toggles("Inputs", buttons));
    if (views.length > MOST_PANELS)
      parent.append(
        make(
          "p",
          { class: "note" },
          `Up to ${MOST_PANELS} inputs are shown side by side; selecting another replaces the first.`,
        ),
      );
  }
  mapGrid = make("div", { class: "grid" });
  parent.append(mapGrid, make("div", { id: "sample", "aria-live": "polite" }));
  parent.append(make("p", { class: "note" }, "When a map has focus, arrow keys move it, + and − zoom, and 0 resets it."));
  perView.push({
    parent: mapGrid,
    add: (view) =>
      addFigure(mapGrid, {
        title: `${view.name} · ${state.layout} of ${view.layer}`,
        label: `${state.layout} of ${view.name}; arrow keys move, plus and minus zoom, 0 shows all`,
        map: view,
        build: () => mapFigure(view, state.layout, state.picked, theme, webgl),
        caption: () => {
          const drawn = view.set.ids.length;
          const many =
            CLASSES.length > FEW && !state.picked.size && data.lowest.length
              ? ` In color: the ${data.lowest.length} classes with the lowest silhouettes in ${views[0].name}, of ${whole(present.length)}.`
              : "";
          return (
            (drawn < view.samples
              ? `${whole(drawn)} of ${plural(view.samples, "sample")}, a stratified sample.`
              : `${plural(drawn, "sample")}.`) + many
          );
        },
        click: (point, made) => pin({ view, place: made.traces[point.curveNumber].places[point.pointNumber] }),
      }),
  });
}

// The samples as a table, the lowest silhouettes first.

let tableBody, tableHead, tableMore, tableStatus;
function makeSamples() {
  const parent = section(
    "samples",
    "Samples",
    judged.silhouette ? "Lowest-silhouette samples" : "Samples",
    "Sort by any column; select an id to show the sample on the maps. If classes are selected, only their samples are listed.",
  );
  if (views.length > 1) {
    const select = make(
      "select",
      {
        "aria-label": "Input",
        onchange: () => {
          state.table.view = Number(select.value);
          state.table.rows = PAGE_ROWS;
          drawTable();
        },
      },
      ...views.map((view) =>
        make("option", { value: view.index, selected: view.index === state.table.view ? "" : null }, view.name),
      ),
    );
    parent.append(make("div", { class: "controls" }, make("label", {}, "Input ", select)));
  }
  tableHead = make("tr");
  tableBody = make("tbody");
  tableStatus = make("span", { class: "small", role: "status" });
  tableMore = make(
    "button",
    {
      type: "button",
      onclick: () => {
        state.table.rows += PAGE_ROWS;
        drawTable();
      },
    },
    `Show ${PAGE_ROWS} more`,
  );
  parent.append(
    scrolling("Samples", make("table", {}, make("thead", {}, tableHead), tableBody)),
    make("div", { class: "controls", style: "margin-top: .6rem" }, tableMore, tableStatus),
  );
  drawTable();
}

function tableColumns() {
  const view = views[state.table.view];
  const { set } = view;
  const columns = [
    { key: "id", title: "id", value: (place) => set.ids[place] },
    { key: "class", title: "class", value: (place) => CLASSES[set.labels[place]] },
  ];
  if (set.split) columns.push({ key: "split", title: "split", value: (place) => set.split.names[set.split.codes[place]] });
  if (view.nearest)
    columns.push({ key: "nearest", title: "nearest other class", value: (place) => CLASSES[view.nearest[place]] });
  if (view.silhouette)
    columns.push({ key: "silhouette", title: "silhouette", number: true, value: (place) => view.silhouette[place] });
  const before = views[view.index ? 0 : views.length - 1];
  if (view.silhouette && before !== view && before.silhouette) {
    const there = (place) => placeIn(before, view, place);
    columns.push({
      key: "other",
      title: `in ${before.name}`,
      number: true,
      value: (place) => before.silhouette[there(place)] ?? null,
    });
    columns.push({
      key: "change",
      title: view.index ? "gained" : "gains",
      number: true,
      value: (place) =>
        there(place) < 0 ? null : (view.silhouette[place] - before.silhouette[there(place)]) * (view.index ? 1 : -1),
    });
  }
  return columns;
}

function drawTable() {
  const { table } = state;
  const view = views[table.view];
  const columns = tableColumns();
  const sorting = columns.find((column) => column.key === table.key) ?? columns[0];
  tableHead.replaceChildren(
    ...(view.set.thumbnails ? [make("td", {}, make("span", { class: "hidden" }, "image"))] : []),
    ...columns.map((column) => {
      const sorted = column === sorting ? (table.descending ? "descending" : "ascending") : "none";
      const button = make(
        "button",
        {
          type: "button",
          "data-key": column.key,
          onclick: () => {
            table.descending = table.key === column.key && !table.descending;
            table.key = column.key;
            drawTable();
            tableHead.querySelector(`[data-key="${column.key}"]`).focus();
          },
        },
        column.title,
      );
      return make("th", { scope: "col", "aria-sort": sorted, class: column.number ? "number" : "" }, button);
    }),
  );
  let places = Array.from(view.set.labels.keys());
  if (state.picked.size) places = places.filter((place) => state.picked.has(view.set.labels[place]));
  const keys = new Map(places.map((place) => [place, sorting.value(place)]));
  const sign = table.descending ? -1 : 1;
  places.sort((a, b) => {
    const [left, right] = [keys.get(a), keys.get(b)];
    if (left === null || right === null) return (left === null) - (right === null); // unknown ones last, either way
    return left < right ? -sign : left > right ? sign : a - b;
  });
  tableBody.replaceChildren(
    ...places.slice(0, table.rows).map((place) => {
      const pinned = state.sample && placeIn(view, state.sample.view, state.sample.place) === place;
      return make(
        "tr",
        pinned ? { class: "pinned" } : {},
        ...(view.set.thumbnails ? [make("td", {}, picture(view.set, place, "row"))] : []),
        ...columns.map((column) => {
          const value = column.value(place);
          if (column.key === "id")
            return make(
              "td",
              {},
              make(
                "button",
                { type: "button", "aria-label": `Show ${value} in the maps`, onclick: () => pin({ view, place }, true) },
                value,
              ),
            );
          return make("td", { class: column.number ? "number" : "" }, column.number ? decimal(value) : value);
        }),
      );
    }),
  );
  tableMore.hidden = places.length <= table.rows;
  tableStatus.textContent = `${whole(Math.min(table.rows, places.length))} of ${plural(places.length, "sample")}${state.picked.size ? ` of ${plural(state.picked.size, "selected class", "selected classes")}` : ""}.`;
}

function pin(sample, scroll) {
  state.sample = sample;
  drawRings();
  drawTable();
  const { view, place } = sample;
  const rows = views.map((other) => [other, placeIn(other, view, place)]).filter(([, there]) => there >= 0);
  const table = make(
    "table",
    {},
    make(
      "thead",
      {},
      make(
        "tr",
        {},
        make("td"),
        make("th", { scope: "col", class: "number" }, "silhouette"),
        make("th", { scope: "col" }, "nearest other class"),
      ),
    ),
    make(
      "tbody",
      {},
      ...rows.map(([other, there]) =>
        make(
          "tr",
          {},
          make("th", { scope: "row" }, other.name),
          make("td", { class: "number" }, other.silhouette ? decimal(other.silhouette[there]) : "–"),
          make("td", {}, other.nearest ? CLASSES[other.nearest[there]] : "–"),
        ),
      ),
    ),
  );
  const split = view.set.split ? `, split ${view.set.split.names[view.set.split.codes[place]]}` : "";
  const close = make(
    "button",
    {
      type: "button",
      "aria-label": "Deselect the sample",
      onclick: () => {
        state.sample = null;
        byId("sample").replaceChildren();
        drawRings();
        drawTable();
      },
    },
    "×",
  );
  const text = make(
    "div",
    {},
    make("h3", {}, view.set.ids[place]),
    make("p", { class: "note" }, `class ${CLASSES[view.set.labels[place]]}${split}`),
    make("div", { class: "scroll" }, table),
  );
  const card = make("div", { class: "sample" }, picture(view.set, place, "large"), text, close);
  byId("sample").replaceChildren(card);
  if (scroll) byId("map").scrollIntoView();
}

// Legend: one button per class.

const ORDERS = { given: "As in the data", worst: "Lowest silhouette first", most: "Most samples first" };
let legendButtons = new Map();
function makeLegend() {
  const orders = judged.silhouette ? ["given", "worst", "most"] : ["given", "most"];
  const usual = present.length > FEW && judged.silhouette ? "worst" : "given";
  byId("order").append(
    ...orders.map((key) => make("option", { value: key, selected: key === usual ? "" : null }, ORDERS[key])),
  );
  byId("columns").textContent = judged.silhouette
    ? `samples, silhouette${views.length > 1 ? ` in ${judged.name}` : ""}`
    : "samples";
  byId("order").addEventListener("change", fillLegend);
  byId("find").addEventListener("input", fillLegend);
  byId("clear").addEventListener("click", () => setPicked(new Set()));
  fillLegend();
}

function fillLegend() {
  const sorted = { given: present, worst: worstFirst, most: [...present].sort((a, b) => counts[b] - counts[a]) }[
    byId("order").value
  ];
  const sought = byId("find").value.trim().toLowerCase();
  const found = sorted.filter((code) => CLASSES[code].toLowerCase().includes(sought));
  legendButtons = new Map(
    found.map((code) => {
      const mean = judged.mean[code];
      const about = `${plural(counts[code], "sample")}${mean === null ? "" : `, mean silhouette ${decimal(mean)} in ${judged.name}`}`;
      const button = make(
        "button",
        { type: "button", title: `${CLASSES[code]}: ${about}`, onclick: () => togglePicked(code) },
        make("span", { class: "swatch" }),
        make("span", { class: "name" }, CLASSES[code]),
        make("span", { class: "number" }, whole(counts[code])),
        make("span", { class: "number" }, mean === null ? "" : decimal(mean, 2)),
      );
      return [code, button];
    }),
  );
  byId("legend").replaceChildren(...legendButtons.values());
  if (!found.length) byId("legend").append(make("p", { class: "note" }, "No class matches."));
  markLegend();
}

function markLegend() {
  const lit = litClasses(state.picked);
  const all = CLASSES.length <= FEW ? litClasses(new Set()) : lit;
  for (const [code, button] of legendButtons) {
    button.setAttribute("aria-pressed", state.picked.has(code));
    const style = all.get(code);
    const swatch = button.firstChild;
    swatch.style.background = style?.color ?? theme.rest;
    swatch.classList.toggle("diamond", style?.symbol === "diamond");
  }
  byId("chosen").textContent = state.picked.size
    ? `${whole(state.picked.size)} of ${whole(present.length)} selected`
    : `${plural(present.length, "class", "classes")}; select some`;
  byId("clear").hidden = !state.picked.size;
}

function togglePicked(code) {
  const picked = new Set(state.picked);
  if (!picked.delete(code)) picked.add(code);
  setPicked(picked);
}

function setPicked(picked) {
  state.picked = picked;
  state.table.rows = PAGE_ROWS;
  markLegend();
  drawTable();
  redraw();
}

function showViews() {
  for (const each of perView) {
    dropFigures(each.figures ?? []);
    each.parent.replaceChildren();
    each.figures = state.shown.map((index) => each.add(views[index])).filter(Boolean);
  }
  redraw();
}

// All of it.

function makeEmbeddings() {
  byId("inputs").textContent = views.map((view) => `${view.name} (${plural(view.samples, "sample")})`).join(", ");
  makeFindings();
  makeScores();
  makeLayers();
  makeMap();
  makeIssues();
  makeComparisons();
  makeSilhouettes();
  makeConfusions();
  makeChannels();
  makeSpectrum();
  makeRuns();
  makeSamples();
  makeProvenance();
  makeLegend();
  showViews();
}

if (courses.length) makeCourses();
else makeEmbeddings();

// On paper everything is drawn, and on white.
let darkScreen = false;
addEventListener("beforeprint", () => {
  darkScreen = document.documentElement.dataset.theme === "dark";
  setTheme(false);
  for (const figure of figures) draw(figure);
});
addEventListener("afterprint", () => {
  setTheme(darkScreen);
  redraw();
});
