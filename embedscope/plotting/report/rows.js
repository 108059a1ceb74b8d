"use strict";
// Sections about rows and changes: issues, comparisons with the first input, rankings of layers.

const ISSUES = { label: "Label errors", leakage: "Copies in another split", duplicate: "Copies", outlier: "Outliers" };
const MOST_CARDS = 24;

// A table of records that sorts by its columns. A column: { title, value(row), number, cell(row) }; `images(row)` gives a cell.
function sortableTable(label, columns, rows, first, images) {
  const shown = { by: first, descending: true, count: PAGE_ROWS };
  const head = make("tr");
  const body = make("tbody");
  const status = make("span", { class: "small", role: "status" });
  const more = make(
    "button",
    {
      type: "button",
      onclick: () => {
        shown.count += PAGE_ROWS;
        fill();
      },
    },
    `Show ${PAGE_ROWS} more`,
  );
  const sortBy = (at) => {
    shown.descending = shown.by === at ? !shown.descending : Boolean(columns[at].number);
    shown.by = at;
    fill();
    head.querySelectorAll("button")[at].focus();
  };
  function fill() {
    const { value } = columns[shown.by];
    const sign = shown.descending ? -1 : 1;
    const sorted = [...rows].sort((a, b) => (value(a) < value(b) ? -sign : value(a) > value(b) ? sign : 0));
    head.replaceChildren(
      ...(images ? [make("td", {}, make("span", { class: "hidden" }, "image"))] : []),
      ...columns.map((column, at) => {
        const order = at !== shown.by ? "none" : shown.descending ? "descending" : "ascending";
        return make(
          "th",
          { scope: "col", "aria-sort": order, class: column.number ? "number" : "" },
          make("button", { type: "button", onclick: () => sortBy(at) }, column.title),
        );
      }),
    );
    body.replaceChildren(
      ...sorted
        .slice(0, shown.count)
        .map((row) =>
          make(
            "tr",
            {},
            ...(images ? [make("td", {}, images(row))] : []),
            ...columns.map((column) =>
              make(
                "td",
                { class: column.number ? "number" : "" },
                column.cell ? column.cell(row) : column.number ? decimal(column.value(row)) : column.value(row),
              ),
            ),
          ),
        ),
    );
    more.hidden = rows.length <= shown.count;
    status.textContent = `${whole(Math.min(shown.count, rows.length))} of ${plural(rows.length, "row")}.`;
  }
  fill();
  return [
    scrolling(label, make("table", {}, make("thead", {}, head), body)),
    make("div", { class: "controls", style: "margin-top: .6rem" }, more, status),
  ];
}

// An id that shows its sample on the maps, or plain text for a row that no map shows.
function sampleButton(view, place, id) {
  if (place === null || place === undefined) return id;
  return make(
    "button",
    { type: "button", "aria-label": `Show ${id} in the maps`, onclick: () => pin({ view, place }, true) },
    id,
  );
}

// What to type for what the page leaves out.
const command = (options) => make("code", {}, `embedscope score ${data.sources} ${options}`);

function makeIssues() {
  if (!data.issues) {
    const parent = section("issues", "Issues", "Issues");
    parent.append(
      make(
        "p",
        { class: "note" },
        `Issues are looked for in up to ${whole(data.most_rows)} rows. For more, run `,
        command("--issues issues.csv"),
      ),
    );
    return;
  }
  const parent = section(
    "issues",
    "Issues",
    "Issues",
    "Rows that need attention: labels that are probably wrong, copies, and outliers. Select an image or id to show the sample on the maps.",
  );
  const chosen = { view: views.length - 1, kind: null };
  const filters = make("div", { class: "controls", role: "group", "aria-label": "Kind of issue" });
  const content = make("div");
  const show = () => {
    filters.replaceChildren(...issueFilters(chosen, show));
    content.replaceChildren(...issueContent(views[chosen.view], chosen.kind));
  };
  if (views.length > 1) {
    const options = views.map((view) =>
      make("option", { value: view.index, selected: view.index === chosen.view ? "" : null }, view.name),
    );
    const select = make(
      "select",
      {
        onchange: () => {
          chosen.view = Number(select.value);
          chosen.kind = null;
          show();
        },
      },
      ...options,
    );
    parent.append(make("div", { class: "controls" }, make("label", {}, "Input ", select)));
  }
  parent.append(filters, content);
  show();
}

function issueFilters(chosen, show) {
  const { counts } = data.issues[chosen.view];
  const total = Object.values(counts).reduce((sum, count) => sum + (count ?? 0), 0);
  const button = (kind, text) =>
    make(
      "button",
      {
        type: "button",
        "aria-pressed": chosen.kind === kind,
        onclick: () => {
          chosen.kind = kind;
          show();
          document.querySelector("#issues [aria-pressed=true]").focus();
        },
      },
      text,
    );
  return [
    button(null, `All (${whole(total)})`),
    ...Object.entries(ISSUES)
      .filter(([kind]) => counts[kind])
      .map(([kind, title]) => button(kind, `${title} (${whole(counts[kind])})`)),
  ];
}

function issueContent(view, kind) {
  const found = data.issues[view.index];
  const rows = found.rows.filter((row) => !kind || row.kind === kind);
  const notes = found.notes.map((note) => make("p", { class: "note" }, `${note}.`));
  if (!rows.length) return [make("p", {}, "No issues found."), ...notes];
  const total = Object.entries(found.counts).reduce(
    (sum, [name, count]) => sum + (!kind || name === kind ? (count ?? 0) : 0),
    0,
  );
  if (rows.length < total)
    notes.push(
      make(
        "p",
        { class: "note" },
        `The ${whole(rows.length)} most severe of ${whole(total)} rows are listed; embedscope score with --issues writes all of them.`,
      ),
    );
  const images = (row) => picture(view.set, row.place, "row");
  const columns = [
    { title: "id", value: (row) => row.id, cell: (row) => sampleButton(view, row.place, row.id) },
    { title: "issue", value: (row) => ISSUES[row.kind] },
    { title: "label", value: (row) => row.label },
    { title: "suggested", value: (row) => row.suggested },
    { title: "score", value: (row) => row.score, number: true },
    { title: "why", value: (row) => row.why },
  ];
  return [...issueCards(view, rows), ...sortableTable("Issues", columns, rows, 4, view.set.thumbnails && images), ...notes];
}

function issueCards(view, rows) {
  const copies = (row) => row.kind === "duplicate" || row.kind === "leakage";
  const seen = new Set(); // of a group of copies, one card
  const cards = [];
  for (const row of rows) {
    if (cards.length === MOST_CARDS) break;
    if (!view.set.thumbnails?.[row.place] || seen.has(row.id)) continue;
    const beside = copies(row) ? row.near.filter(([, place]) => view.set.thumbnails[place]).slice(0, 2) : [];
    if (copies(row)) for (const id of [row.id, ...row.near.map(([near]) => near)]) seen.add(id);
    const images = [row.place, ...beside.map(([, place]) => place)].map((place) => picture(view.set, place, "card"));
    const label = row.suggested ? `${row.label || "unlabeled"} → ${row.suggested}` : row.label || "unlabeled";
    const sure = row.kind === "label" ? `${row.score > 0.99 ? ">99%" : percent(row.score)} likely wrong` : row.why;
    cards.push(
      make(
        "button",
        { type: "button", class: "card", title: `${row.id}: ${row.why}`, onclick: () => pin({ view, place: row.place }, true) },
        make("span", { class: "images" }, ...images),
        make("b", {}, label),
        make("span", { class: "small" }, sure),
        make("span", { class: "hidden" }, ` Show ${row.id} in the maps`),
      ),
    );
  }
  return cards.length ? [make("div", { class: "cards" }, ...cards)] : [];
}

// What changed from the first input.

function makeComparisons() {
  if (views.length < 2) return;
  const parent = section(
    "comparison",
    "Comparison",
    `Changes from ${views[0].name}`,
    ...(data.comparisons.length
      ? [
          "Mean silhouette of each class, from the dot to the triangle. Colored where the 95% interval of the difference excludes 0, for all classes at once.",
        ]
      : []),
  );
  parent.append(...notCompared());
  const grid = make("div", { class: "grid" });
  parent.append(grid);
  for (const found of data.comparisons) {
    const view = views[found.view];
    if (found.classes.length) {
      const count = (sign) =>
        found.classes.filter(([, before, after, , significant]) => significant && sign * (after - before) > 0).length;
      addFigure(grid, {
        title: `${views[0].name} → ${view.name}`,
        build: () => changesFigure(found, state.picked, theme),
        caption: (made) =>
          `${plural(count(1), "class", "classes")} gained, ${whole(count(-1))} lost.${made.classes.length < found.classes.length ? ` The ${made.classes.length} that changed most are shown.` : ""}${similarity(found)}`,
        tip: (point, made) => changeLines(view, made.classes[point.y]),
        click: (point, made) => togglePicked(made.classes[point.y][0]),
      });
    }
    if (found.gained !== null) parent.append(...changedSamples(found, view));
    parent.append(...found.notes.map((note) => make("p", { class: "note" }, `${view.name}: ${note}.`)));
  }
}

// Which inputs are not compared here, why, and what to type for it.
function notCompared() {
  const note = (...parts) => make("p", { class: "note" }, ...parts);
  if (!data.issues)
    return [
      note(`Inputs of up to ${whole(data.most_rows)} rows are compared here. For larger ones, run `, command("--compare")),
    ];
  const more = views.length - 1 - data.most_compared;
  return [
    ...data.apart.map(([place, reason]) => note(`${views[place].name}: the samples are not compared one by one: ${reason}.`)),
    ...(more > 0
      ? [note(`The last ${plural(more, "input")} of ${whole(views.length)}: not compared here. Run `, command("--compare"))]
      : []),
  ];
}

function similarity(found) {
  const cka = found.cka === null ? "" : ` Linear CKA ${decimal(found.cka)}.`;
  return (
    cka + (found.mutual === null ? "" : ` ${percent(found.mutual)} of the ${found.neighbors} nearest neighbors are the same.`)
  );
}

function changeLines(view, [code, before, after, ci95]) {
  const gap = after - before;
  return lines(
    CLASSES[code],
    `${views[0].name}: ${decimal(before)}`,
    `${view.name}: ${decimal(after)}`,
    `difference ${gap > 0 ? "+" : ""}${decimal(gap)}${ci95 ? ` [${decimal(ci95[0])}, ${decimal(ci95[1])}]` : ""}`,
  );
}

function changedSamples(found, view) {
  const p = found.p < 0.001 ? "p < 0.001" : `p = ${decimal(found.p)}`;
  const heading = make("h3", { style: "margin-top: 1rem" }, `Samples that changed sides in ${view.name}`);
  const text = make(
    "p",
    { class: "note" },
    `${plural(found.gained, "sample")} became nearer to their own class than to any other; ${whole(found.lost)} no longer are (McNemar's test: ${p}).`,
  );
  if (!found.changed.length || !view.silhouette || !views[0].silhouette) return [heading, text];
  const before = (place) => views[0].silhouette[placeIn(views[0], view, place)] ?? NaN;
  const columns = [
    { title: "id", value: (place) => view.set.ids[place], cell: (place) => sampleButton(view, place, view.set.ids[place]) },
    { title: "class", value: (place) => CLASSES[view.set.labels[place]] },
    { title: `in ${views[0].name}`, value: before, number: true },
    { title: `in ${view.name}`, value: (place) => view.silhouette[place], number: true },
    { title: "change", value: (place) => view.silhouette[place] - before(place), number: true },
  ];
  return [
    heading,
    text,
    ...sortableTable(
      `Samples that changed sides in ${view.name}`,
      columns,
      found.changed,
      4,
      view.set.thumbnails && ((place) => picture(view.set, place, "row")),
    ),
  ];
}

// Layers of one source, the best first.

function makeLayers() {
  if (!data.rankings.length) return;
  const parent = section("layers", "Layers", "Layers");
  for (const ranking of data.rankings) {
    const rows = ranking.order.map((layer) => {
      const interval = (ends) => ends && make("span", { class: "small" }, `${decimal(ends[0])} to ${decimal(ends[1])}`);
      return make(
        "tr",
        {},
        make("th", { scope: "row" }, layer.name, layer.name === ranking.take ? " ✓" : ""),
        make("td", { class: "number" }, whole(layer.dimensions)),
        make(
          "td",
          { class: layer.name === ranking.take ? "number best" : "number" },
          decimal(layer.value, 4),
          interval(layer.ci95),
        ),
        make(
          "td",
          { class: "number" },
          layer.difference_ci95 ? `${decimal(layer.difference_ci95[0])} to ${decimal(layer.difference_ci95[1])}` : "–",
        ),
      );
    });
    const head = make(
      "tr",
      {},
      make("th", { scope: "col" }, "layer"),
      make("th", { scope: "col", class: "number" }, "dimensions"),
      make("th", { scope: "col", class: "number" }, `${ranking.metric} ${ranking.better === "higher" ? "↑" : "↓"}`),
      make("th", { scope: "col", class: "number" }, "difference to the best, 95%"),
    );
    parent.append(
      make("p", {}, `${ranking.reason[0].toUpperCase()}${ranking.reason.slice(1)}.`),
      scrolling("Layers", make("table", {}, make("thead", {}, head), make("tbody", {}, ...rows))),
    );
  }
}
