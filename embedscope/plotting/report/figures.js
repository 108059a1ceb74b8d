"use strict";
// Every figure as a pure function: what is shown and chosen -> plotly's traces and layout. Nothing here touches the page.

// The palette of Petroff (arXiv:2107.02270), made for readers who see colors differently; without its grays where the rest is gray.
const PALETTE = ["#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6", "#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd"];
const VIVID = PALETTE.filter((color) => color !== "#94a4a2" && color !== "#717581");
const DASHES = ["solid", "dash", "dot", "dashdot"];
const FEW = 20; // classes that colors and two shapes tell apart
const LISTED = 30; // classes that an axis can name
const MOST_CONFUSED = 20; // rows, and columns, of the matrix of more classes than that

// Plotly reads <b>, <a href> and entities in text: a class of that name has to stay a name.
function plain(text, most = 28) {
  return shortened(text, most).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
}

// Which classes have a color: the picked ones; else all of a few, or of many those with the lowest silhouettes. The rest is gray.
// Colors are those of the pictures that embedscope draws: a class has one color in all of them.
function litClasses(picked) {
  if (CLASSES.length <= FEW) {
    const lit = new Map(
      present
        .map((code) => [code, data.slots[code]])
        .map(([code, at]) => [code, { color: PALETTE[at % 10], symbol: at < 10 ? "circle" : "diamond" }]),
    );
    return picked.size ? new Map([...lit].filter(([code]) => picked.has(code))) : lit;
  }
  const lit = new Map(data.lowest.map((code, at) => [code, { color: VIVID[at % 8], symbol: "circle" }]));
  if (!picked.size) return lit;
  const others = [...picked].filter((code) => !lit.has(code));
  const colors = [...VIVID.filter((_, at) => !picked.has(data.lowest[at])), ...VIVID]; // those not in use come first
  const style = (at) => ({ color: colors[at % colors.length], symbol: "diamond" });
  return new Map([...picked].map((code) => [code, lit.get(code) ?? style(others.indexOf(code))]));
}

function viewColor(index, count = views.length) {
  if (count <= VIVID.length) return VIVID[index];
  const share = index / (count - 1); // many are a sequence: from blue to yellow by way of gray, as in cividis
  const stops = [
    [0, 81, 162],
    [124, 132, 140],
    [240, 190, 40],
  ];
  const [low, high, at] = share < 0.5 ? [stops[0], stops[1], share * 2] : [stops[1], stops[2], share * 2 - 1];
  return `rgb(${low.map((value, i) => Math.round(value + (high[i] - value) * at)).join(",")})`;
}

function frame(theme, more = {}) {
  const axis = {
    gridcolor: theme.line,
    zeroline: false,
    zerolinecolor: theme.quiet,
    linecolor: theme.line,
    automargin: true,
    fixedrange: true,
  };
  return {
    autosize: true,
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { color: theme.ink, family: "system-ui, sans-serif", size: 12 },
    margin: { l: 50, r: 12, t: 12, b: 42 },
    hovermode: "closest",
    dragmode: false,
    showlegend: views.length > 1,
    modebar: { bgcolor: "rgba(0,0,0,0)", color: theme.quiet, activecolor: theme.accent },
    legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0 },
    ...more,
    xaxis: { ...axis, ...more.xaxis },
    yaxis: { ...axis, ...more.yaxis },
  };
}

// A view's layout: one trace a color, the rest beneath. `traces[i].places` says which sample each point is.
function mapFigure(view, title, picked, theme, webgl) {
  const { x, y } = view.layouts[title];
  const lit = litClasses(picked);
  const rest = [];
  view.set.labels.forEach((label, place) => {
    if (!lit.has(label)) rest.push(place);
  });
  const size = Math.max(3, Math.min(9, 260 / Math.sqrt(x.length)));
  const trace = (places, marker) => ({
    type: webgl ? "scattergl" : "scatter",
    mode: "markers",
    x: Float32Array.from(places, (place) => x[place]),
    y: Float32Array.from(places, (place) => y[place]),
    places,
    marker: { size, line: { width: 0 }, ...marker },
    hoverinfo: "none",
    showlegend: false,
  });
  const few = CLASSES.length <= FEW;
  const dimmed = picked.size ? 0.15 : 0.55;
  const traces = [
    trace(rest, { color: theme.rest, opacity: dimmed }),
    ...[...lit].map(([code, { color, symbol }]) =>
      trace(view.members[code], { color: color, symbol, opacity: 0.85, size: few && !picked.size ? size : 1.4 * size }),
    ),
  ].filter((each) => each.places.length);
  const room = 2000; // of the 65535 steps that coordinates are written in
  const axis = { showgrid: false, showline: false, showticklabels: false, ticks: "", fixedrange: false };
  return {
    traces,
    layout: frame(theme, {
      xaxis: { ...axis, range: [extent(x)[0] - room, extent(x)[1] + room] },
      yaxis: { ...axis, range: [extent(y)[0] - room, extent(y)[1] + room], scaleanchor: "x" },
      margin: { l: 4, r: 4, t: 4, b: 4 },
      dragmode: "pan",
      uirevision: `${view.index} ${title}`, // a zoom stays when a class is picked
    }),
  };
}

function extent(values) {
  let [low, high] = [Infinity, -Infinity];
  for (const value of values) {
    if (value < low) low = value;
    if (value > high) high = value;
  }
  return [low, high];
}

// A circle of fixed size around a sample: a shape, which plotly moves without drawing the points again.
function ring(layout, place, color, width) {
  const at = { xanchor: layout.x[place], yanchor: layout.y[place], xsizemode: "pixel", ysizemode: "pixel" };
  return { type: "circle", x0: -9, x1: 9, y0: -9, y1: 9, line: { color: color, width }, ...at };
}

// Samples sorted within their class, classes in the order of the view that judges them, so that views can be compared; of many
// classes the ends, and the rest as one.
function silhouetteFigure(view, picked, theme) {
  const lit = litClasses(picked);
  const order = worstFirst.filter((code) => view.members[code].length);
  let named = order;
  if (order.length > 24) {
    const ends = new Set([...order.slice(0, 12), ...order.slice(-6)]);
    const asked = order.filter((code) => picked.has(code) && !ends.has(code)).slice(0, 10);
    named = order.filter((code) => ends.has(code) || asked.includes(code));
  }
  const bands = named.map((code) => ({
    code,
    places: view.members[code],
    label: `${plain(CLASSES[code], 18)} (${whole(view.members[code].length)})`,
  }));
  const others = order.filter((code) => !named.includes(code));
  if (others.length) {
    const places = others.flatMap((code) => view.members[code]);
    bands.splice(12, 0, { code: null, places, label: `${whole(others.length)} others` });
  }
  const traces = bands.map(({ code, places }, at) => {
    const values = Float32Array.from(places, (place) => view.silhouette[place])
      .sort()
      .reverse();
    const steps = Math.min(values.length, 120);
    const x = [0];
    const y = [at - 0.42];
    for (let step = 0; step < steps; step++) {
      const value = values[Math.round((step * (values.length - 1)) / Math.max(steps - 1, 1))];
      x.push(value, value);
      y.push(at - 0.42 + (0.84 * step) / steps, at - 0.42 + (0.84 * (step + 1)) / steps);
    }
    x.push(0);
    y.push(at + 0.42);
    const style = lit.get(code);
    return {
      type: "scatter",
      mode: "lines",
      x,
      y,
      fill: "toself",
      fillcolor: style?.color ?? theme.rest,
      line: { width: 0 },
      opacity: style || !picked.size ? 1 : 0.5,
      hoverinfo: "none",
      hoveron: "points+fills",
      showlegend: false,
      band: bands[at],
    };
  });
  const [low, high] = extent(views.flatMap((each) => (each.silhouette ? extent(each.silhouette) : [])));
  const mean = view.metrics.silhouette.value;
  return {
    traces,
    bands,
    height: 70 + 21 * bands.length,
    layout: frame(theme, {
      xaxis: { range: [Math.min(low, 0) - 0.03, Math.max(high, 0.2) + 0.03], zeroline: true, title: { text: "silhouette" } },
      yaxis: {
        tickvals: bands.map((_, at) => at),
        ticktext: bands.map((band) => band.label),
        range: [bands.length - 0.4, -0.6],
        showgrid: false,
      },
      shapes:
        mean === null
          ? []
          : [
              {
                type: "line",
                x0: mean,
                x1: mean,
                yref: "paper",
                y0: 0,
                y1: 1,
                line: { color: theme.ink, width: 1.5, dash: "dash" },
              },
            ],
    }),
  };
}

// From the mean silhouette of each class in the first view to that in another; of many classes those that changed most.
function changesFigure(found, picked, theme) {
  const gap = ([, before, after]) => after - before;
  const kept = [...found.classes]
    .sort((a, b) => picked.has(b[0]) - picked.has(a[0]) || Math.abs(gap(b)) - Math.abs(gap(a)))
    .slice(0, LISTED);
  const classes = kept.sort((a, b) => gap(b) - gap(a));
  const groups = { gained: PALETTE[0], lost: PALETTE[2], "no significant change": theme.quiet };
  const outcome = (each) => (!each[4] ? "no significant change" : gap(each) > 0 ? "gained" : "lost");
  const traces = Object.entries(groups).flatMap(([name, color]) => {
    const rows = classes.map((each, row) => [each, row]).filter(([each]) => outcome(each) === name);
    if (!rows.length) return [];
    const faded = (each) => (picked.size && !picked.has(each[0]) ? 0.3 : 1);
    const points = rows.flatMap(([each, row]) => [
      [each[1], row, "circle", 5, each],
      [each[2], row, gap(each) < 0 ? "triangle-left" : "triangle-right", 11, each],
    ]);
    return [
      {
        type: "scatter",
        mode: "lines",
        x: rows.flatMap(([each]) => [each[1], each[2], null]),
        y: rows.flatMap(([, row]) => [row, row, null]),
        line: { color: color, width: 2 },
        opacity: picked.size ? 0.5 : 1,
        hoverinfo: "skip",
        showlegend: false,
      },
      {
        type: "scatter",
        mode: "markers",
        name,
        x: points.map(([x]) => x),
        y: points.map(([, y]) => y),
        hoverinfo: "none",
        marker: {
          color: color,
          opacity: points.map(([, , , , each]) => faded(each)),
          symbol: points.map(([, , symbol]) => symbol),
          size: points.map(([, , , size]) => size),
        },
      },
    ];
  });
  return {
    traces,
    classes,
    height: 110 + 22 * classes.length,
    layout: frame(theme, {
      xaxis: { zeroline: true, title: { text: "mean silhouette" } },
      yaxis: {
        tickvals: classes.map((_, row) => row),
        ticktext: classes.map(([code]) => plain(CLASSES[code], 18)),
        range: [classes.length - 0.4, -0.6],
        showgrid: true,
      },
      showlegend: true,
    }),
  };
}

// Which classes have which as their nearest other: share of the row's samples. Of many classes those in the largest confusions.
function confusionFigure(view, picked, theme) {
  const pairs = confusions(view);
  let rows = present.filter((code) => view.members[code].length);
  let columns = rows;
  if (present.length > LISTED) {
    const chosen = [...pairs.filter((pair) => picked.has(pair.own)), ...pairs.filter((pair) => !picked.has(pair.own))];
    rows = [...new Set(chosen.map((pair) => pair.own))].slice(0, MOST_CONFUSED).sort((a, b) => a - b);
    const asked = new Set(rows);
    columns = [...new Set(chosen.filter((pair) => asked.has(pair.own)).map((pair) => pair.other))]
      .slice(0, MOST_CONFUSED)
      .sort((a, b) => a - b);
  }
  const rowOf = new Map(rows.map((code, index) => [code, index]));
  const columnOf = new Map(columns.map((code, index) => [code, index]));
  const z = rows.map(() => columns.map(() => 0));
  const cells = new Map();
  for (const pair of pairs) {
    if (!rowOf.has(pair.own) || !columnOf.has(pair.other)) continue;
    z[rowOf.get(pair.own)][columnOf.get(pair.other)] = pair.nearest / view.members[pair.own].length;
    cells.set(`${rowOf.get(pair.own)} ${columnOf.get(pair.other)}`, pair);
  }
  const ticks = (codes) => ({
    tickvals: codes.map((_, index) => index),
    ticktext: codes.map((code) => plain(CLASSES[code], 14)),
    showgrid: false,
  });
  const outline = {
    type: "rect",
    line: { color: theme.ink, width: 2 },
    fillcolor: "rgba(0,0,0,0)",
    x0: -0.5,
    x1: columns.length - 0.5,
  };
  const marked = rows.flatMap((code, index) => (picked.has(code) ? [{ ...outline, y0: index - 0.5, y1: index + 0.5 }] : []));
  const short = columns.every((code) => CLASSES[code].length < 4);
  return {
    traces: [
      {
        type: "heatmap",
        z,
        zmin: 0,
        zmax: Math.max(0.1, ...z.flat()),
        colorscale: [
          [0, theme.raised],
          [1, theme.accent],
        ],
        hoverinfo: "none",
        xgap: 1,
        ygap: 1,
        colorbar: { thickness: 10, tickformat: ".0%", outlinewidth: 0, len: 0.8 },
      },
    ],
    cells,
    height: 110 + (short ? 0 : 70) + 21 * rows.length,
    layout: frame(theme, {
      xaxis: { ...ticks(columns), tickangle: short ? 0 : -90, title: { text: "nearest other class" } },
      yaxis: { ...ticks(rows), range: [rows.length - 0.5, -0.5], title: { text: "class", standoff: 8 } },
      shapes: marked,
      showlegend: false,
    }),
  };
}

// Bars by class, one color a view; `values[view]` is a Map from class to number. `reference` marks what each should be.
function classBars(values, order, unit, picked, theme, reference) {
  const codes = [...order].sort((a, b) => a - b);
  const fade = codes.map((code) => (!picked.size || picked.has(code) ? 1 : 0.25));
  const x = codes.map((_, index) => index);
  const traces = views.flatMap((view, index) =>
    values[index]
      ? [
          {
            type: "bar",
            name: plain(view.name),
            x,
            y: codes.map((code) => values[index].get(code) ?? 0),
            hoverinfo: "none",
            marker: { color: viewColor(index), opacity: fade },
            view,
            codes,
          },
        ]
      : [],
  );
  if (reference) {
    traces.push({
      type: "scatter",
      mode: "markers",
      name: "share of the samples",
      x,
      y: codes.map((code) => reference.get(code) ?? 0),
      codes,
      hoverinfo: "none",
      marker: {
        symbol: "line-ew-open",
        size: Math.max(6, Math.min(26, 500 / codes.length)),
        line: { width: 2 },
        color: theme.ink,
      },
    });
  }
  return {
    traces,
    layout: frame(theme, {
      xaxis: {
        tickvals: x,
        ticktext: codes.map((code) => plain(CLASSES[code], 16)),
        tickangle: codes.length > 12 ? -60 : "auto",
        showgrid: false,
      },
      yaxis: { ...unit, rangemode: "tozero" },
      barmode: "group",
      showlegend: views.length > 1 || Boolean(reference),
    }),
  };
}

function histogramFigure(picked, theme) {
  const values = views.map((view) =>
    view.metrics.class_kl.value === null ? null : new Map(view.metrics.class_kl.feature_histogram),
  );
  const labels = new Map(views.findLast((_, index) => values[index])?.metrics.class_kl.label_histogram);
  const last = values.findLast(Boolean) ?? new Map();
  const gap = (code) => Math.abs((last.get(code) ?? 0) - (labels.get(code) ?? 0));
  return classBars(values, chosenClasses(picked, gap), { title: { text: "share" }, tickformat: ".2~%" }, picked, theme, labels);
}

function ownedFigure(picked, theme) {
  const values = views.map((view) => (view.metrics.gini.value === null ? null : new Map(view.metrics.gini.owned_channels)));
  const last = values.findLast(Boolean) ?? new Map();
  const most = Math.max(0, ...values.flatMap((each) => [...(each?.values() ?? [])]));
  const unit = { title: { text: "channels" }, dtick: most < 10 ? 1 : undefined };
  return classBars(
    values,
    chosenClasses(picked, (code) => last.get(code) ?? 0),
    unit,
    picked,
    theme,
  );
}

// All classes if an axis can name them; else the picked ones and those with the largest value.
function chosenClasses(picked, value) {
  if (present.length <= LISTED) return present;
  const rest = present.filter((code) => !picked.has(code)).sort((a, b) => value(b) - value(a));
  return [...[...picked].slice(0, LISTED), ...rest].slice(0, LISTED);
}

function line(view, x, y, more = {}) {
  const style = { color: viewColor(view.index), width: 2, dash: DASHES[Math.floor(view.index / VIVID.length) % 4] };
  return { type: "scatter", mode: "lines", name: plain(view.name), x, y, view, hoverinfo: "none", line: { ...style, ...more } };
}

function impurityFigure(theme) {
  const bins = 40;
  const channels = views.map((view) => (view.metrics.gini.value === null ? null : decode(view.metrics.gini.per_channel)));
  const lowest = extent(channels.flatMap((values) => (values ? [...values] : [])))[0];
  const start = Math.max(0, Math.min(0.9, Math.floor(lowest * 20) / 20)); // of many classes all channels are close to 1
  const edges = Array.from({ length: bins + 1 }, (_, edge) => start + ((1 - start) * edge) / bins);
  const traces = views.flatMap((view, index) => {
    if (!channels[index]) return [];
    const shares = new Array(bins).fill(0);
    for (const value of channels[index])
      shares[Math.min(bins - 1, Math.floor(((value - start) / (1 - start)) * bins))] += 1 / channels[index].length;
    return [line(view, edges, [...shares, shares.at(-1)], { shape: "hv" })];
  });
  return {
    traces,
    layout: frame(theme, {
      xaxis: { range: [start, 1], title: { text: "Gini impurity of a channel" } },
      yaxis: { rangemode: "tozero", tickformat: ".0%", title: { text: "channels" } },
    }),
  };
}

const curves = views.map((view) =>
  view.metrics.explained_variance.value === null ? null : Array.from(decode(view.metrics.explained_variance.curve)),
);

function varianceFigure(theme) {
  const traces = views.flatMap((view, index) =>
    curves[index]
      ? [
          {
            ...line(
              view,
              curves[index].map((_, at) => at + 1),
              curves[index],
            ),
            mode: curves[index].length < 80 ? "lines+markers" : "lines",
            marker: { size: 4 },
          },
        ]
      : [],
  );
  const thresholds = [0.9, 0.95, 0.99];
  return {
    traces,
    layout: frame(theme, {
      xaxis: {
        title: { text: "principal components" },
        type: Math.max(...curves.map((curve) => curve?.length ?? 1)) > 100 ? "log" : "linear",
      },
      yaxis: { range: [0, 1.02], tickformat: ".0%", title: { text: "variance" } },
      shapes: thresholds.map((share) => ({
        type: "line",
        xref: "paper",
        x0: 0,
        x1: 1,
        y0: share,
        y1: share,
        line: { color: theme.quiet, width: 1, dash: "dot" },
      })),
    }),
  };
}

function eigenvalueFigure(theme) {
  const traces = views.flatMap((view, index) => {
    if (!curves[index]) return [];
    const shares = curves[index].map((value, at) => value - (at ? curves[index][at - 1] : 0));
    const kept = shares.map((_, at) => at).filter((at) => shares[at] > 1e-12); // what is smaller is rounding of the curve
    return [
      {
        ...line(
          view,
          kept.map((at) => at + 1),
          kept.map((at) => shares[at]),
        ),
        mode: kept.length < 80 ? "lines+markers" : "lines",
        marker: { size: 4 },
      },
    ];
  });
  return {
    traces,
    layout: frame(theme, {
      xaxis: { type: "log", title: { text: "principal component" } },
      yaxis: { type: "log", title: { text: "share of the variance" }, exponentformat: "power" },
    }),
  };
}

// A run: a metric after training, a row an objective; every trial a dot, their mean a bar, the value before a dashed line.
function objectiveFigure(run, metric, theme) {
  const rows = run.objectives.map((objective) => objective.trials.map((trial) => trial.after[metric]));
  const before = run.objectives[0].trials[0].before[metric] ?? null;
  const dots = rows.flatMap((values, row) => values.filter((value) => value !== null).map((value) => [value, row]));
  const means = run.objectives
    .map((objective, row) => [objective.summary[metric]?.mean ?? null, row])
    .filter(([mean]) => mean !== null);
  return {
    traces: [
      {
        type: "scatter",
        mode: "markers",
        x: dots.map(([x]) => x),
        y: dots.map(([, y]) => y),
        marker: { color: VIVID[0], size: 8, opacity: 0.6 },
        hoverinfo: "none",
      },
      {
        type: "scatter",
        mode: "markers",
        x: means.map(([x]) => x),
        y: means.map(([, y]) => y),
        marker: { symbol: "line-ns-open", size: 20, line: { width: 3 }, color: theme.ink },
        hoverinfo: "none",
      },
    ],
    height: 70 + 30 * rows.length,
    layout: frame(theme, {
      xaxis: { nticks: 5 },
      yaxis: {
        tickvals: rows.map((_, row) => row),
        ticktext: run.objectives.map((each) => plain(each.expression, 26)),
        range: [rows.length - 0.5, -0.5],
        showgrid: false,
      },
      shapes:
        before === null
          ? []
          : [
              {
                type: "line",
                x0: before,
                x1: before,
                yref: "paper",
                y0: 0,
                y1: 1,
                line: { color: theme.quiet, width: 1.5, dash: "dash" },
              },
            ],
      showlegend: false,
    }),
  };
}

// What an objective's log has: the objective and its terms as they are trained, and what was measured on validation rows.
function loggedColumns(objective) {
  const columns = Object.keys(objective.logs[0]).filter((column) => column !== "epoch" && column !== "learning_rate");
  const validated = columns.filter((column) => column.startsWith("val_"));
  return { trained: columns.filter((column) => !validated.includes(column)), validated };
}

// Columns of the log over the epochs: the mean over trials, and from the lowest to the highest of them.
function trainingFigure(objective, columns, theme) {
  const traces = columns.flatMap((column, index) => {
    const color = VIVID[index % VIVID.length];
    const epochs = objective.logs.map((log) => log.epoch).sort((a, b) => b.length - a.length)[0]; // trials may stop early
    const series = epochs.map((_, at) =>
      objective.logs.map((log) => log[column]?.[at] ?? null).filter((value) => value !== null),
    );
    const known = epochs.map((_, at) => at).filter((at) => series[at].length);
    const x = known.map((at) => epochs[at]);
    const band =
      objective.logs.length > 1
        ? [
            {
              type: "scatter",
              mode: "lines",
              x: [...x, ...x.toReversed()],
              hoverinfo: "skip",
              showlegend: false,
              line: { width: 0 },
              fill: "toself",
              opacity: 0.25,
              fillcolor: color,
              y: [...known.map((at) => Math.max(...series[at])), ...known.toReversed().map((at) => Math.min(...series[at]))],
            },
          ]
        : [];
    const mean = known.map((at) => series[at].reduce((sum, value) => sum + value, 0) / series[at].length);
    return [
      ...band,
      {
        type: "scatter",
        mode: "lines",
        name: plain(column),
        column,
        x,
        y: mean,
        hoverinfo: "none",
        line: { color: color, width: 2 },
      },
    ];
  });
  return { traces, layout: frame(theme, { xaxis: { title: { text: "epoch" } }, showlegend: true }) };
}
