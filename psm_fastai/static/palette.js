// Colours that the colour-blind can tell apart: Okabe and Ito's for classes, viridis for numbers.
// A class beyond the eighth gets another shape.

const CLASSES = {
  light: ['#0072b2', '#c47700', '#00916a', '#c75b97', '#2f93cf', '#d55e00', '#978700', '#5c5c66'],
  dark: ['#3d9ce0', '#f0a92e', '#1fc796', '#e391be', '#7ccbf5', '#f5824a', '#e5d847', '#b9b9c4'],
};
const VIRIDIS = {
  light: ['#440154', '#443983', '#31688e', '#21918c', '#35b779', '#90cb2b'],
  dark: ['#6a4fb0', '#4f73b8', '#2f94a6', '#2fb08a', '#86d549', '#fde725'],
};
const UNKNOWN = { light: '#8b8f98', dark: '#7d828c' };
export const SHAPES = ['circle', 'square', 'triangle', 'diamond', 'cross', 'down'];

function categories(column, values, theme) {
  const counts = new Map();
  for (const v of values) counts.set(v, (counts.get(v) ?? 0) + 1);
  const known = [...counts.keys()].filter((v) => v >= 0).sort((a, b) => a - b);
  const bins = known.map((v) => ({
    key: column.names?.[v] ?? String(v),
    value: v,
    count: counts.get(v),
    color: CLASSES[theme][v % 8],
    shape: SHAPES[Math.floor(v / 8) % SHAPES.length],
  }));
  if (counts.has(-1)) {
    const key = bins.some((b) => b.key === 'unknown') ? 'no label' : 'unknown';
    bins.push({ key, value: -1, count: counts.get(-1), color: UNKNOWN[theme], shape: 'ring' });
  }
  const place = new Map(bins.map((b, at) => [b.value, at]));
  return { bins, of: Int16Array.from(values, (v) => place.get(v)) };
}

function steps(values, [lo, hi], theme) {
  const width = (hi - lo) / 6 || 1;
  const digits = Math.min(9, Math.max(0, 1 - Math.floor(Math.log10(width)))); // so that no two steps have one name
  const short = (v) => String(Number(v.toFixed(digits)));
  const bins = VIRIDIS[theme].map((color, b) => ({
    key: `${short(lo + b * width)} to ${short(lo + (b + 1) * width)}`,
    count: 0,
    color,
    shape: 'circle',
  }));
  const none = { key: 'none', count: 0, color: UNKNOWN[theme], shape: 'ring' };
  const of = Int16Array.from(values, (v) => {
    const b = Number.isNaN(v) ? 6 : Math.max(0, Math.min(5, Math.floor((v - lo) / width)));
    (bins[b] ?? none).count++;
    return b;
  });
  return { bins: none.count ? [...bins, none] : bins, of };
}

// How a column colours the dots: bins with a colour, a shape and a count, and the bin of each image
export function scaleOf(view, name, run, e, dark) {
  const theme = dark ? 'dark' : 'light';
  const column = view.column(name);
  if (!column) {
    const bins = [{ key: 'image', count: view.n, color: CLASSES[theme][0], shape: 'circle' }];
    return { bins, of: new Int16Array(view.n) };
  }
  const values = view.values(name, run, e);
  if (column.kind === 'category') return categories(column, values, theme);
  return steps(values, view.range(name), theme);
}

export function rgb(color) {
  const n = Number.parseInt(color.slice(1), 16);
  return [n >> 16, (n >> 8) & 255, n & 255];
}
