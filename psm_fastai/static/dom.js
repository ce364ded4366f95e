// Elements in short: h('button', { class: 'x', onclick: f }, 'text', child)

function fill(el, props, children) {
  for (const [name, value] of Object.entries(props)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith('on')) el.addEventListener(name.slice(2), value);
    else if (name === 'value' || name === 'checked') el[name] = value;
    else el.setAttribute(name, value === true ? '' : value);
  }
  el.append(...children.flat().filter((c) => c !== null && c !== undefined && c !== false));
  return el;
}

export function h(tag, props = {}, ...children) {
  return fill(document.createElement(tag), props, children);
}

export function svg(tag, props = {}, ...children) {
  return fill(document.createElementNS('http://www.w3.org/2000/svg', tag), props, children);
}

const ICONS = {
  copy: 'M5 5V2h9v9h-3M2 5h9v9H2z',
  flag: 'M4 15V2m0 0h8l-2 3 2 3H4',
  larger: 'M9 2h5v5M7 14H2V9M14 2 9 7M2 14l5-5',
  lasso:
    'M8 2.5c3.6 0 6 1.6 6 3.8S11.6 10 8 10 2 8.500 2 6.300 4.400 2.500 8 2.500M5 9.700c-2 .6-1.500 2.800.2 2.500 1.500-.3 1-2 .3-2.400M5 12.200c.3 1 .8 1.500 2 1.800',
  fit: 'M2 6V2h4M10 2h4v4M14 10v4h-4M6 14H2v-4',
  plus: 'M8 3v10M3 8h10',
  minus: 'M3 8h10',
  back: 'M6 2.500 2.500 6 6 9.500M2.500 6H10a3.750 3.750 0 0 1 0 7.500H6',
  forward: 'M10 2.500 13.500 6 10 9.500M13.500 6H6a3.750 3.750 0 0 0 0 7.500h4',
  play: 'M5 3v10l8-5z',
  pause: 'M5.500 3v10M10.500 3v10',
};

export function icon(name) {
  return svg('svg', { class: `icon ${name}`, viewBox: '0 0 16 16', 'aria-hidden': 'true' }, svg('path', { d: ICONS[name] }));
}

// A button with an icon or a text, and what it does in words
export function button(face, label, click, more = {}) {
  const name = typeof face === 'string' && label !== face ? { title: label, 'aria-label': label.replace(/ \(.+\)$/, '') } : {};
  return h('button', { type: 'button', ...name, onclick: click, ...more }, ICONS[face] ? icon(face) : face);
}

// A name as nodes, to be broken after / _ - or a space rather than inside a word
export function breakable(name) {
  return name.split(/(?<=[/\\_ -])/).flatMap((part) => [part, h('wbr')]);
}

export function select(label, options, value, change, help) {
  const el = h(
    'select',
    { onchange: () => change(el.value) },
    options.map((o) => h('option', { value: o.name }, o.label)),
  );
  el.value = value;
  return { el, box: h('label', { class: 'field', title: help }, h('span', {}, label), el) };
}

export async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const area = h('textarea', { value: text, style: 'position:fixed;opacity:0' });
    document.body.append(area);
    area.select();
    document.execCommand('copy');
    area.remove();
  }
}

export function download(name, text) {
  const url = URL.createObjectURL(new Blob([text], { type: 'text/csv' }));
  h('a', { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}

// Whether the page around an element is dark: JupyterLab, VS Code, Colab, Quarto and marimo say so, others leave it to the system
export function isDark() {
  const { body, documentElement: html } = document;
  if (body.dataset.jpThemeLight) return body.dataset.jpThemeLight === 'false';
  if (body.matches('.vscode-dark, .vscode-high-contrast:not(.vscode-high-contrast-light), .quarto-dark, .dark-theme')) return true;
  if (body.matches('.vscode-light, .vscode-high-contrast-light, .quarto-light, .light-theme')) return false;
  if (html.hasAttribute('theme')) return html.getAttribute('theme') === 'dark';
  return matchMedia('(prefers-color-scheme: dark)').matches;
}

export function watchTheme(change) {
  const seen = new MutationObserver(change);
  for (const el of [document.body, document.documentElement])
    seen.observe(el, { attributes: true, attributeFilter: ['class', 'theme', 'data-jp-theme-light'] });
  const media = matchMedia('(prefers-color-scheme: dark)');
  media.addEventListener('change', change);
  return () => {
    seen.disconnect();
    media.removeEventListener('change', change);
  };
}
