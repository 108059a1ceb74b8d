"use strict";
// What the page knows: the data it carries, unpacked, and the numbers that follow from them.

const data = JSON.parse(document.getElementById("data").textContent);
const CLASSES = data.classes;

function decode(packed) {
  const text = atob(packed.base64);
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < bytes.length; i++) bytes[i] = text.charCodeAt(i);
  return new globalThis[packed.type](bytes.buffer);
}

const rowSets = data.rows.map((rows) => ({
  ids: rows.ids,
  labels: decode(rows.labels),
  split: rows.split && { names: rows.split.names, codes: decode(rows.split.codes) },
  thumbnails: rows.thumbnails,
  images: rows.images,
  places: null, // id -> place, made when two views of different rows are linked
}));

const views = data.views.map((view, index) => ({
  ...view,
  index,
  set: rowSets[view.rows],
  silhouette: view.silhouette && decode(view.silhouette),
  nearest: view.nearest && decode(view.nearest),
  layouts: Object.fromEntries(
    Object.entries(view.layouts).map(([title, points]) => [title, { x: decode(points.x), y: decode(points.y) }]),
  ),
}));
const LAYOUTS = Object.keys(views[0]?.layouts ?? {}); // a page of files of measurements has no views

// Layers of files of measurements, over their steps.
const courses = (data.courses ?? []).map((course) => ({
  ...course,
  steps: decode(course.steps),
  values: Object.fromEntries(
    Object.entries(course.values).map(([name, packed]) => [
      name,
      Array.from(decode(packed), (value) => (Number.isNaN(value) ? null : value)),
    ]),
  ),
}));

// The sample of one view in another: the same place where both show the same rows, else that of the same id, or -1.
function placeIn(view, from, place) {
  if (view.set === from.set) return place;
  view.set.places ??= new Map(view.set.ids.map((id, at) => [id, at]));
  return view.set.places.get(from.set.ids[place]) ?? -1;
}

// Per class of a view: its samples, their mean silhouette, and how many are nearer to another class than to their own.
for (const view of views) {
  const { labels } = view.set;
  const members = CLASSES.map(() => []);
  labels.forEach((label, place) => {
    members[label].push(place);
  });
  view.members = members;
  view.mean = members.map((places) =>
    view.silhouette && places.length ? places.reduce((sum, place) => sum + view.silhouette[place], 0) / places.length : null,
  );
  view.below = members.map((places) => (view.silhouette ? places.filter((place) => view.silhouette[place] < 0).length : 0));
}

// The view that orders classes: the last one with silhouettes, because it is what comes "after".
const judged = views.findLast((view) => view.silhouette) ?? views.at(-1);
const counts = CLASSES.map((_, code) => Math.max(...views.map((view) => view.members[code].length)));
const present = CLASSES.map((_, code) => code).filter((code) => counts[code]);
const worstFirst = [...present].sort((a, b) => (judged.mean[a] ?? 2) - (judged.mean[b] ?? 2));

// Pairs (class, nearest other class) of a view, by how many samples are nearer to the other, then by how many have it nearest.
function confusions(view) {
  const pairs = new Map();
  if (!view.nearest) return [];
  view.nearest.forEach((other, place) => {
    const own = view.set.labels[place];
    const key = own * CLASSES.length + other;
    const pair = pairs.get(key) ?? { own, other, nearest: 0, misplaced: 0 };
    pair.nearest += 1;
    if (view.silhouette[place] < 0) pair.misplaced += 1;
    pairs.set(key, pair);
  });
  return [...pairs.values()].sort((a, b) => b.misplaced - a.misplaced || b.nearest - a.nearest);
}

// Text for readers.
const whole = (number) => number.toLocaleString("en-GB");
const percent = (share) => `${(100 * share).toFixed(share > 0 && share < 0.1 ? 1 : 0)}%`;
function decimal(value, digits = 3) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  if (value !== 0 && (Math.abs(value) >= 1e5 || Math.abs(value) < 1e-4)) return value.toExponential(2).replace("-", "−");
  return value
    .toFixed(digits)
    .replace(/^-(?=[0.]*$)/, "")
    .replace("-", "−"); // no minus before a zero
}
const plural = (count, one, many = `${one}s`) => `${whole(count)} ${count === 1 ? one : many}`;
function shortened(text, most) {
  const flat = text.replace(/\s+/g, " ");
  return flat.length > most ? `${flat.slice(0, most - 1)}…` : flat;
}
