"use strict";
// Sections that follow from what was measured: silhouettes, nearest other classes, channels, spectrum, runs, provenance.

function makeSilhouettes() {
  const parent = section(
    "silhouettes",
    "Silhouettes",
    "Silhouettes",
    "How much closer samples are to their own class than to the nearest other class, from −1 to 1. One band per class, samples sorted within it; all bands have the same height, whatever the size of the class. Dashed: the mean." +
      (views.length > 1 ? ` Classes are sorted by their mean in ${judged.name}.` : ""),
  );
  const grid = make("div", { class: "grid" });
  parent.append(grid);
  perView.push({
    parent: grid,
    add: (view) => {
      if (!view.silhouette) {
        grid.append(make("p", {}, `${view.name}: the silhouette is undefined: ${view.metrics.silhouette.note}.`));
        return null;
      }
      return addFigure(grid, {
        title: `${view.name} · ${view.layer}`,
        build: () => silhouetteFigure(view, state.picked, theme),
        caption: () =>
          `Mean ${decimal(view.metrics.silhouette.value)}; ${percent(view.below.reduce((sum, count) => sum + count, 0) / view.silhouette.length)} of the samples are below zero: nearer to another class than to their own.`,
        tip: (point, made) => bandLines(view, made.bands[point.curveNumber]),
        click: (point, made) => made.bands[point.curveNumber].code !== null && togglePicked(made.bands[point.curveNumber].code),
      });
    },
  });
}

function bandLines(view, { code, places, label }) {
  const below = places.filter((place) => view.silhouette[place] < 0).length;
  const mean = places.reduce((sum, place) => sum + view.silhouette[place], 0) / places.length;
  return lines(
    code === null ? label : CLASSES[code],
    plural(places.length, "sample"),
    `mean silhouette ${decimal(mean)}`,
    `${whole(below)} below zero`,
  );
}

function makeConfusions() {
  const parent = section(
    "confusions",
    "Neighbors",
    "Nearest other classes",
    "Each row is a class; each cell is the share of its samples whose nearest other class is that column. Click a cell to select both classes.",
  );
  const grid = make("div", { class: "grid" });
  parent.append(grid);
  perView.push({
    parent: grid,
    add: (view) => {
      if (!view.nearest) {
        grid.append(make("p", {}, `${view.name}: there is only one class.`));
        return null;
      }
      const figure = addFigure(grid, {
        title: `${view.name} · ${view.layer}`,
        build: () => confusionFigure(view, state.picked, theme),
        caption: (made) =>
          made.traces[0].z.length < present.length
            ? `${made.traces[0].z.length} of ${whole(present.length)} classes: ${state.picked.size ? "the selected ones, then " : ""}the most confused.`
            : "",
        tip: (point, made) => {
          const pair = made.cells.get(`${point.y} ${point.x}`);
          if (!pair) return null;
          const size = view.members[pair.own].length;
          return lines(
            `${CLASSES[pair.own]} → ${CLASSES[pair.other]}`,
            `nearest other class of ${whole(pair.nearest)} of ${plural(size, "sample")} (${percent(pair.nearest / size)})`,
            `${whole(pair.misplaced)} of them nearer to it than to their own class`,
          );
        },
        click: (point, made) => {
          const pair = made.cells.get(`${point.y} ${point.x}`);
          if (pair) setPicked(new Set([pair.own, pair.other]));
        },
      });
      figure.node.append(confusionTable(view));
      return figure;
    },
  });
}

function confusionTable(view) {
  const worst = confusions(view)
    .filter((pair) => pair.misplaced)
    .slice(0, 8);
  if (!worst.length) return make("p", { class: "note" }, "No sample is nearer to another class than to its own.");
  const rows = worst.map((pair) =>
    make(
      "tr",
      {},
      make(
        "td",
        {},
        make(
          "button",
          { type: "button", onclick: () => setPicked(new Set([pair.own, pair.other])) },
          `${shortened(CLASSES[pair.own], 40)} → ${shortened(CLASSES[pair.other], 40)}`,
        ),
      ),
      make("td", { class: "number" }, `${whole(pair.misplaced)} of ${whole(view.members[pair.own].length)}`),
    ),
  );
  return make(
    "div",
    { class: "scroll", style: "margin-top: .6rem" },
    make(
      "table",
      {},
      make(
        "thead",
        {},
        make(
          "tr",
          {},
          make("th", { scope: "col" }, "Nearer to another class than to its own"),
          make("th", { scope: "col", class: "number" }, "samples"),
        ),
      ),
      make("tbody", {}, ...rows),
    ),
  );
}

const barLines = (unit) => (point, made) => {
  const trace = made.traces[point.curveNumber];
  return lines(CLASSES[trace.codes[point.pointNumber]], `${trace.view?.name ?? "share of the samples"}: ${unit(point.y)}`);
};
const pickBar = (point, made) => togglePicked(made.traces[point.curveNumber].codes[point.pointNumber]);
const someClasses = (made) =>
  made.traces[0] && made.traces[0].codes.length < present.length
    ? ` ${made.traces[0].codes.length} of ${whole(present.length)} classes are shown.`
    : "";

function makeChannels() {
  const parent = section(
    "channels",
    "Channels",
    "Channels",
    "Whether each channel responds to one class or to all alike, and whether classes take up as much of the channels as of the samples.",
  );
  const grid = make("div", { class: "grid" });
  parent.append(grid);
  const gini = (view) => view.metrics.gini;
  if (views.some((view) => gini(view).value !== null)) {
    addFigure(grid, {
      title: "Gini impurity of the channels",
      build: () => impurityFigure(theme),
      caption: () =>
        `0: the channel responds to one class only. ${views
          .filter((view) => gini(view).value !== null)
          .map((view) => `${view.name}: mean ${decimal(gini(view).value)}, ${plural(gini(view).dead_channels, "dead channel")}`)
          .join("; ")}.`,
      tip: (point, made) =>
        lines(
          made.traces[point.curveNumber].view.name,
          `${percent(point.y)} of the channels have an impurity of about ${decimal(point.x, 2)}`,
        ),
    });
    addFigure(grid, {
      title: "Channels per class",
      build: () => ownedFigure(state.picked, theme),
      caption: (made) =>
        `${views
          .filter((view) => gini(view).value !== null)
          .map(
            (view) =>
              `${view.name}: ${whole(gini(view).owned_channels.filter(([, count]) => !count).length)} of ${plural(view.classes, "class", "classes")} own none`,
          )
          .join("; ")}.${someClasses(made)}`,
      tip: barLines((count) => plural(count, "channel")),
      click: pickBar,
    });
  }
  if (views.some((view) => view.metrics.class_kl.value !== null)) {
    addFigure(grid, {
      title: "Share of the channels and of the samples",
      build: () => histogramFigure(state.picked, theme),
      caption: (made) =>
        `Bars: a class's share of the channels' mass; lines: its share of the samples${made.traces[0]?.codes.length < present.length ? ", for the classes where they differ most" : ""}. ${views
          .filter((view) => view.metrics.class_kl.value !== null)
          .map((view) => `${view.name}: KL ${decimal(view.metrics.class_kl.value, 4)}`)
          .join("; ")}.${someClasses(made)}`,
      tip: barLines(percent),
      click: pickBar,
    });
  }
  if (!grid.children.length) parent.append(make("p", {}, `Undefined: ${gini(views[0]).note}.`));
}

function makeSpectrum() {
  const parent = section(
    "spectrum",
    "Spectrum",
    "Spectrum",
    "How many dimensions the embedding uses. Dotted: 90, 95 and 99% of the variance.",
  );
  if (curves.every((curve) => curve === null)) {
    parent.append(make("p", {}, `Undefined: ${views[0].metrics.explained_variance.note}.`));
    return;
  }
  const grid = make("div", { class: "grid" });
  parent.append(grid);
  const needed = (view) =>
    Object.entries(view.metrics.explained_variance.components)
      .map(([share, count]) => `${whole(count)} for ${percent(share)}`)
      .join(", ");
  addFigure(grid, {
    title: "Cumulative explained variance",
    build: () => varianceFigure(theme),
    caption: () =>
      `${views
        .filter((view, index) => curves[index])
        .map((view) => `${view.name}: ${needed(view)}`)
        .join("; ")}.`,
    tip: (point, made) =>
      lines(
        made.traces[point.curveNumber].view.name,
        `${plural(point.x, "component")}: ${(100 * point.y).toFixed(1)}% of the variance`,
      ),
  });
  addFigure(grid, {
    title: "Eigenvalues",
    build: () => eigenvalueFigure(theme),
    tip: (point, made) =>
      lines(
        made.traces[point.curveNumber].view.name,
        `component ${whole(point.x)}: ${decimal(100 * point.y)}% of the variance`,
      ),
  });
}

function makeRuns() {
  for (const [index, run] of data.runs.entries()) {
    const title = data.runs.length > 1 ? `Training: ${run.name}` : "Training";
    const parent = section(`run-${index}`, title, title, "Held-out samples before and after training with each objective.");
    const [first] = run.objectives;
    const measured = [...new Set(run.objectives.flatMap((each) => Object.keys(each.summary)))];
    const metrics = measured.filter((name) => run.objectives.some((each) => (each.summary[name]?.mean ?? null) !== null));
    const better = (name) =>
      ({ higher: " ↑", lower: " ↓" })[views[0].metrics[name]?.better ?? (/accuracy|f1/.test(name) ? "higher" : null)] ?? "";
    const digits = (name) => (views[0].metrics[name]?.better === null ? 1 : 4); // components are counted
    const head = make(
      "thead",
      {},
      make(
        "tr",
        {},
        make("td"),
        make("th", { scope: "col", class: "number" }, "before"),
        ...run.objectives.map((each) =>
          make(
            "th",
            { scope: "col", class: "number" },
            each.expression,
            make("span", { class: "small" }, plural(each.trials.length, "trial")),
          ),
        ),
      ),
    );
    const body = metrics.map((name) =>
      make(
        "tr",
        {},
        make("th", { scope: "row" }, name, better(name)),
        make("td", { class: "number" }, decimal(first.trials[0]?.before[name] ?? null, digits(name))),
        ...run.objectives.map((each) => {
          const {
            mean = null,
            std = null,
            difference = null,
            ci95: own = null,
            simultaneous = null,
            p_corrected: p = null,
          } = each.summary[name] ?? {};
          const ci95 = simultaneous ?? own;
          const spread = std === null || mean === null ? "" : ` ± ${decimal(std, digits(name))}`;
          const sign = difference > 0 ? "+" : "";
          const against =
            difference === null
              ? null
              : `${sign}${decimal(difference, digits(name))}${ci95 ? ` [${decimal(ci95[0], digits(name))}, ${decimal(ci95[1], digits(name))}]` : ""}${p === null || p === undefined ? "" : `, p ${p < 0.001 ? "< 0.001" : decimal(p)}`}`;
          return make(
            "td",
            { class: "number" },
            `${decimal(mean, digits(name))}${spread}`,
            against && make("span", { class: "small" }, against),
          );
        }),
      ),
    );
    parent.append(scrolling("Objectives", make("table", {}, head, make("tbody", {}, ...body))));
    parent.append(
      make(
        "p",
        { class: "note", style: "margin-top: .5rem" },
        "Mean ± standard deviation over trials. Below: the paired difference from the first objective with its 95% interval. The primary metric also has p-values, and intervals that hold for all objectives at once.",
      ),
    );
    const grid = make("div", { class: "grid" });
    parent.append(grid);
    for (const name of metrics) {
      addFigure(grid, {
        title: `${name}${better(name)}`,
        build: () => objectiveFigure(run, name, theme),
        caption: () => "Dots: trials; bar: their mean; dashed: before.",
        tip: (point) => lines(run.objectives[point.y].expression, decimal(point.x, 4)),
      });
    }
    const training = make("div", { class: "grid", style: "margin-top: 1rem" });
    parent.append(training);
    for (const objective of run.objectives) {
      const spread = objective.logs.length > 1 ? "Mean over trials; shaded: range over trials." : "";
      const { trained, validated } = loggedColumns(objective);
      for (const [title, columns] of [
        ["Training", trained],
        ["Validation", validated],
      ]) {
        if (!columns.length) continue;
        addFigure(training, {
          title: `${title} with ${objective.expression}`,
          build: () => trainingFigure(objective, columns, theme),
          caption: () => spread,
          tip: (point, made) => lines(made.traces[point.curveNumber].column, `epoch ${point.x}: ${decimal(point.y, 4)}`),
        });
      }
    }
  }
}

function makeProvenance() {
  const parent = section("provenance", "Provenance", "Provenance");
  const inputs = courses.length ? courses : views;
  const described = inputs.map((each) => new Map([["source", each.source], ["layer", each.layer], ...each.provenance]));
  const names = [...new Set(described.flatMap((record) => [...record.keys()]))];
  const rows = names.map((name) => {
    const values = described.map((record) => record.get(name) ?? "–");
    const same = new Set(values).size === 1;
    const cell = make(
      "td",
      {},
      ...(same ? [values[0]] : values.map((value, index) => make("div", {}, `${inputs[index].name}: ${value}`))),
    );
    return make("tr", {}, make("th", { scope: "row" }, name), cell);
  });
  const page = [
    ["page made by", `embedscope ${data.embedscope}, plotly.js ${Plotly.version} (MIT license)`],
    ["page command", data.command || "–"],
    ...[...new Set(rowSets.map((set) => set.images))].map((text) => ["images", text]),
  ];
  for (const run of data.runs)
    page.push(
      ...run.options.map(([name, value]) => [`${run.name} ${name}`, value]),
      ...run.data.map(([name, value]) => [`${run.name} data ${name}`, value]),
    );
  parent.append(
    make(
      "div",
      { class: "scroll" },
      make(
        "table",
        {},
        make(
          "tbody",
          {},
          ...rows,
          ...page.map(([name, value]) => make("tr", {}, make("th", { scope: "row" }, name), make("td", {}, value))),
        ),
      ),
    ),
  );
}
