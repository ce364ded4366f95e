// What the page's script computes: node --test tests/static.test.mjs
import assert from 'node:assert/strict';
import test from 'node:test';
import { axis, measuresOf } from '../psm_fastai/static/chart.js';
import { flagOf, pickedTable } from '../psm_fastai/static/flags.js';
import { beside } from '../psm_fastai/static/map.js';
import { rgb, SHAPES, scaleOf } from '../psm_fastai/static/palette.js';
import { asAddress, asTraits, take } from '../psm_fastai/static/sync.js';
import {
  cell,
  csv,
  finder,
  firstOrder,
  fitting,
  inPolygon,
  ordered,
  ordersOf,
  parse,
  showsOf,
  spread,
  tally,
  thinned,
  View,
} from '../psm_fastai/static/view.js';
import { aboutMining, countsOf, markOf, wordsOf } from '../psm_fastai/static/words.js';

// Four images in two epochs: 0 and 1 are cats, 2 is a dog, 3 is not labelled; two neighbours each
function small(change = {}) {
  const run = {
    name: 'PSM',
    method: { n_pos: 2, n_neg: null, hard_weight: 0.5, index: true },
    mining: [false, true],
    xy: Uint16Array.from([0, 0, 9, 9, 65534, 0, 0xffff, 0xffff, 0, 0, 0, 65534, 65534, 0, 65534, 65534]),
    near: Int32Array.from([1, 2, 0, 2, 0, 1, -1, -1, 1, 3, 2, 0, 1, -1, 2, 1]),
    sim: Uint8Array.from([255, 204, 255, 51, 204, 51, 0, 0, 255, 102, 204, 102, 51, 0, 51, 0]),
    weight: Uint8Array.from([200, 0, 200, 100, 100, 100, 0, 0, 255, 0, 100, 0, 0, 0, 0, 0]),
    negatives: {
      probe: Int32Array.of(0),
      epoch: Int32Array.of(1),
      place: Int32Array.of(1),
      id: Int32Array.of(20),
      similarity: Float32Array.of(0.9),
      times: Float32Array.of(1.4),
    },
    curves: [
      { name: 'purity_1', label: 'purity of the nearest', values: [0.5, 0.75], epochs: [1, 2] },
      { name: 'chance', label: 'chance', values: [0.5, 0.5], epochs: [1, 2] },
    ],
    start: 2,
  };
  const view = {
    title: 'Pets',
    ids: Int32Array.from([10, 20, 30, 222]),
    files: ['a/cat_10.jpg', 'a/cat_9.jpg', 'b/dog_1.jpg', null],
    paths: null,
    labels: Int32Array.from([0, 0, 1, -1]),
    vocab: ['cat', 'dog 2'],
    labelled: true,
    epochs: [1, 2],
    runs: [run],
    probes: Int32Array.of(0),
    columns: [{ name: 'outlier', label: 'outlier', kind: 'number', values: Float32Array.from([0.1, NaN, 0.9, 0.3]) }],
  };
  return new View({ ...view, ...change });
}

const state = (more = {}) => ({ runs: [0], epoch: 1, order: 'right', show: 'all', find: '', selected: new Set(), flags: [], ...more });
const all = Uint8Array.from([1, 1, 1, 1]);

test('neighbours of an image, right or wrong, trusted or not', () => {
  const near = small().neighbours(0, 1, 0);
  assert.deepEqual(
    near.map((r) => [r.at, r.right, r.trusted, r.rank]),
    [
      [1, true, true, 1],
      [3, null, false, 2],
    ],
  );
  assert.equal(near[1].similarity, 102 / 255);
  assert.deepEqual(small().neighbours(0, 0, 3), []);
  assert.deepEqual(tally(small(), 0, 1, 0), { count: 1, of: 1, word: 'right' });
});

test('since when a neighbour has been one', () => {
  assert.equal(small().since(0, 1, 0, 1), 0);
  assert.equal(small().since(0, 1, 0, 3), 1);
});

test('measures of each image', () => {
  const view = small();
  assert.deepEqual(Array.from(view.values('right', 0, 1)), [1, 0.5, 0, NaN]);
  assert.deepEqual(Array.from(view.values('trust', 0, 1)), [0.5, Math.fround(50 / 255), 0, 0]);
  assert.deepEqual(Array.from(view.values('stability', 0, 1)), [0.5, 1, 1, 0]);
  assert.ok(view.values('stability', 0, 0).every(Number.isNaN));
  const edge = view.values('edge', 0, 1);
  assert.ok(Math.abs(edge[1] - Math.SQRT2) < 1e-3 && Number.isNaN(edge[3])); // only what is pulled counts
});

test('orders: what has no value comes last, ties by id', () => {
  const view = small();
  assert.deepEqual(ordered(view, state(), all), [2, 1, 0, 3]);
  assert.deepEqual(ordered(view, state({ order: 'outlier' }), all), [2, 3, 0, 1]);
  assert.deepEqual(ordered(view, state({ order: 'file' }), all), [1, 0, 2, 3]); // 9 before 10
  assert.deepEqual(ordered(view, state({ order: 'id' }), all), [0, 1, 2, 3]);
  assert.deepEqual(ordered(view, state({ order: 'class' }), all), [0, 1, 2, 3]);
});

test('of two runs both have a say in order and filter', () => {
  const one = small().runs[0];
  const near = one.near.slice();
  near.set([2, 2], 8); // in the second run image 0 has a dog twice
  const view = small({ runs: [one, { ...one, near }] });
  assert.deepEqual(ordered(view, state({ runs: [0] }), all), [2, 1, 0, 3]);
  assert.deepEqual(ordered(view, state({ runs: [0, 1] }), all), [0, 2, 1, 3]);
  const wrong = (runs) => Array.from(fitting(view, state({ runs, show: 'wrong' }), [0, 0, 0, 0], new Set()));
  assert.deepEqual(wrong([0]), [0, 1, 1, 0]);
  assert.deepEqual(wrong([0, 1]), [1, 1, 1, 0]);
  assert.ok(ordersOf(view).some((o) => o.name === 'differ') && !ordersOf(small()).some((o) => o.name === 'differ'));
});

test('a number finds a name or an id, not some of its digits', () => {
  const view = small();
  const found = (text) => [0, 1, 2, 3].filter(finder(view, text));
  assert.deepEqual(found('2'), [2]); // the class "dog 2", not id 20 or 222
  assert.deepEqual(found('20'), [1]);
  assert.deepEqual(found('9'), [1]);
  assert.deepEqual(found('CAT'), [0, 1]);
  assert.deepEqual(found(' '), [0, 1, 2, 3]);
  assert.deepEqual(found('nothing'), []);
});

test('filters', () => {
  const view = small();
  const fit = (more, hidden = []) => Array.from(fitting(view, state(more), [0, 0, 1, 2], new Set(hidden)));
  assert.deepEqual(fit({}, [1]), [1, 1, 0, 1]);
  assert.deepEqual(fit({ show: 'untrusted' }), [0, 0, 1, 1]);
  assert.deepEqual(fit({ show: 'selected', selected: new Set([3]) }), [0, 0, 0, 1]);
  assert.deepEqual(fit({ show: 'flagged', flags: [{ query: 30, id: 10 }] }), [1, 0, 1, 0]);
  assert.deepEqual(fit({ show: 'probes' }), [1, 0, 0, 0]);
});

test('without labels nothing is called right or wrong', () => {
  const view = small({ labels: Int32Array.from([-1, -1, -1, -1]), vocab: [], labelled: false });
  const said = [...ordersOf(view), ...showsOf(view), ...view.columns].map((o) => `${o.name} ${o.label} ${o.help ?? ''}`).join('\n');
  assert.doesNotMatch(said, /right|wrong|class|purity/);
  assert.deepEqual(
    ordersOf(view)
      .slice(0, 2)
      .map((o) => o.name),
    ['trust', 'stability'],
  );
  const near = view.neighbours(0, 1, 0);
  assert.equal(countsOf(near, view.verb(0)), '1 of 2 pulled');
  assert.deepEqual(
    near.map((r) => markOf(r, true)),
    [
      { kind: 'plain', dotted: false, faint: false, sign: '' },
      { kind: 'plain', dotted: true, faint: true, sign: '○' },
    ],
  );
  assert.deepEqual(markOf(near[0], false), { kind: 'plain', dotted: true, faint: false, sign: '' }); // nothing is mined: all are only near
  assert.equal(tally(view, 0, 1, 0).word, 'pulled');
  assert.equal(view.negatives(0, 1, 0)[0].false, false);
});

test('words', () => {
  const view = small();
  assert.equal(
    wordsOf(view, 0, 1, 0, view.neighbours(0, 1, 0)[0]),
    'a/cat_9.jpg, class cat, right, similarity 1.00, shares 0 of 2 neighbours, gets 100 % of the pull, a neighbour since epoch 1',
  );
  assert.equal(
    wordsOf(view, 0, 1, 0, view.neighbours(0, 1, 0)[1]),
    'image 222, similarity 0.40, shares 1 of 2 neighbours, not pulled, new in this epoch',
  );
  assert.match(aboutMining(view.runs[0], 0), /has not begun.*whole bank/);
  assert.equal(aboutMining(view.runs[0], 1), '');
  assert.match(aboutMining({ method: { n_pos: 0 } }, 0), /mines nothing/);
  assert.equal(view.negatives(0, 1, 0)[0].false, true);
});

test('a pull from one crowd into another is doubted first', () => {
  const near = Int32Array.from([1, 2, 3, 0, 2, 3, 0, 1, 3, 0, 2, 4, 5, 6, 7, 4, 6, 7, 4, 5, 7, 4, 5, 6]); // 3 is pulled to 4
  const run = { ...small().runs[0], near, xy: new Uint16Array(16), sim: near, weight: new Uint8Array(24).fill(9), mining: [true] };
  const ids = Int32Array.from({ length: 8 }, (_, i) => i);
  const labels = ids.map(() => -1);
  const view = small({ ids, labels, labelled: false, vocab: [], files: null, epochs: [1], runs: [run], columns: [] });
  const first = ordered(view, state({ epoch: 0, order: 'doubt' }), new Uint8Array(8).fill(1));
  assert.equal(first[0], 3);
  assert.ok(view.values('doubt', 0, 0)[3] > 0.99 && view.values('doubt', 0, 0)[7] < 0.4);
  assert.deepEqual([view.doubted(0, 0, 3), firstOrder(view, [0], 0)], [4, 'doubt']);
  run.mining = [false]; // then nothing is pulled, and nothing can be doubted
  const before = small({ ids, labels, labelled: false, vocab: [], files: null, epochs: [1], runs: [run], columns: [] });
  assert.ok(before.values('doubt', 0, 0).every(Number.isNaN));
  assert.deepEqual([before.doubted(0, 0, 3), firstOrder(before, [0], 0)], [-1, 'trust']);
  assert.equal(firstOrder(small(), [0], 1), 'right');
});

test('nothing is called pulled before mining starts, nor by a method that pulls none', () => {
  const hidden = { labels: Int32Array.from([-1, -1, -1, -1]), vocab: [], labelled: false };
  const view = small(hidden);
  assert.deepEqual(tally(view, 0, 0, 0), { count: 0, of: 0, word: '' });
  assert.ok(view.values('trust', 0, 0).every(Number.isNaN) && view.values('trusted', 0, 0).every(Number.isNaN));
  assert.doesNotMatch(wordsOf(view, 0, 0, 0, view.neighbours(0, 0, 0)[0]), /pull/);
  const run = { ...view.runs[0], method: { ...view.runs[0].method, hard_weight: 1 } };
  const leaves = small({ ...hidden, runs: [run] });
  assert.match(wordsOf(leaves, 0, 1, 0, leaves.neighbours(0, 1, 0)[0]), /, trusted/);
  assert.equal(ordersOf(leaves)[0].label, 'fewest trusted first');
});

test('exact copies and look-alikes are told apart, each next to its own', () => {
  const of = (name, values) => ({ name, label: name, kind: 'number', values: Int32Array.from(values) });
  const view = small({ columns: [of('duplicate_of', [-1, -1, -1, 0]), of('near_duplicate_of', [2, 3, 0, 1])] });
  const shown = (show) => {
    const s = state({ show, order: 'id' });
    return ordered(view, s, fitting(view, s, [0, 0, 0, 0], new Set()));
  };
  assert.deepEqual(shown('duplicates'), [0, 3]);
  assert.deepEqual(shown('alike'), [0, 2, 1, 3]);
  assert.deepEqual(
    showsOf(view)
      .map((o) => o.label)
      .filter((l) => l.startsWith('duplicates')),
    ['duplicates: same pixels', 'duplicates: most alike'],
  );
  assert.ok(!showsOf(small()).some((o) => o.name === 'alike'));
});

test('flags, tables and address count epochs from 1', () => {
  const view = small();
  const [near] = view.neighbours(0, 1, 0);
  assert.equal(flagOf(view, 0, 1, 0, near).epoch, 2);
  assert.match(pickedTable(view, { selected: new Set([0]), runs: [0], epoch: 1 }), /^id.*\n10,,cat,2,/);
  const traits = asTraits(view, { ...state(), query: 0, hidden: new Set(), colour: 'none' });
  assert.equal(traits.epoch, 2);
  assert.equal(asAddress(traits), '#image=10&epoch=2');
  assert.deepEqual(take({ get: (name) => (name === 'epoch' ? 2 : undefined) }, view), { epoch: 1 });
});

test('colours: a class keeps its own, the ninth has another shape', () => {
  const labels = Int32Array.from({ length: 20 }, (_, i) => i - 1);
  const view = new View({
    ...small(),
    ids: Int32Array.from(labels.keys()),
    labels,
    vocab: Array.from({ length: 19 }, (_, i) => `c${i}`),
    columns: [],
  });
  const { bins, of } = scaleOf(view, 'class', 0, 0, false);
  assert.equal(new Set(bins.map((b) => `${b.color} ${b.shape}`)).size, 20);
  assert.equal(bins[8].color, bins[0].color);
  assert.deepEqual([bins[0].shape, bins[8].shape, bins[16].shape], SHAPES.slice(0, 3));
  assert.deepEqual([of[0], bins[19].key, bins[19].count], [19, 'unknown', 1]);
});

test('numbers have steps over all epochs, and what is missing a mark of its own', () => {
  const { bins, of } = scaleOf(small(), 'right', 0, 1, false);
  assert.deepEqual(Array.from(of), [5, 3, 0, 6]);
  assert.deepEqual([bins[0].key, bins[6].key], ['0 to 0.17', 'none']);
});

test('no two items of a legend have one name', () => {
  const named = (column) => {
    const { bins } = scaleOf(new View({ ...small(), columns: [{ label: 'a', help: '', ...column }] }), column.name, 0, 0, false);
    return bins.map((b) => b.key);
  };
  const ages = named({ name: 'age', kind: 'number', names: null, values: [1000, 1050, 1010, 1020] });
  assert.deepEqual([ages[0], new Set(ages).size], ['1000 to 1008.3', 6]);
  const same = named({ name: 'age', kind: 'number', names: null, values: [3, 3, 3, 3] });
  assert.equal(new Set(same).size, 6);
  const kinds = named({ name: 'kind', kind: 'category', names: ['unknown', 'b'], values: [0, 1, -1, -1] });
  assert.deepEqual(kinds, ['unknown', 'b', 'no label']);
});

function channel(v) {
  const c = v / 255;
  return c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
}

function luminance(color) {
  const [r, g, b] = rgb(color).map(channel);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}

// Ratio of WCAG, from 1 to 21
function contrast(a, b) {
  const [x, y] = [luminance(a), luminance(b)];
  return (Math.max(x, y) + 0.05) / (Math.min(x, y) + 0.05);
}

test('marks stand out from the ground in both themes', () => {
  const view = small();
  for (const [dark, ground] of [
    [false, '#f7f8fa'],
    [true, '#0d0f13'],
  ]) {
    const labels = Int32Array.from({ length: 9 }, (_, i) => i - 1);
    const many = new View({ ...view, ids: labels, labels, vocab: [...'abcdefgh'], columns: [] });
    for (const b of scaleOf(many, 'class', 0, 0, dark).bins)
      assert.ok(contrast(b.color, ground) >= 3, `${b.color} on ${ground}: ${contrast(b.color, ground)}`);
  }
});

test('tables keep formulas and commas as text', () => {
  assert.equal(cell('=1+1'), "'=1+1");
  assert.equal(cell('a,"b"'), '"a,""b"""');
  assert.equal(cell(-1), '-1');
  assert.equal(
    csv(
      ['id', 'file'],
      [
        [1, null],
        [2, 'x\ny'],
      ],
    ),
    'id,file\n1,\n2,"x\ny"\n',
  );
});

test('an axis fits what it shows', () => {
  assert.deepEqual(axis([0.61, 0.68]).ticks, [0.6, 0.625, 0.65, 0.675, 0.7]);
  assert.deepEqual(axis([0, 1]).ticks, [0, 0.5, 1]);
  assert.ok(axis([3]).lo < 3 && axis([3]).hi > 3);
  assert.deepEqual(axis([null, NaN]).ticks, [0, 1]);
  assert.deepEqual(
    measuresOf(small()).map((m) => [m.name, m.lines.length]),
    [['purity_1', 1]],
  );
});

test('a lasso, pictures that keep apart, and squares that make way', () => {
  const square = [
    [0, 0],
    [10, 0],
    [10, 10],
    [0, 10],
  ];
  assert.ok(inPolygon(5, 5, square) && !inPolygon(15, 5, square));
  assert.deepEqual(Array.from(thinned([0, 5, 30, NaN], [0, 5, 0, 0], [0, 1, 2, 3], 20)), [1, 0, 1, 0]);
  const boxes = spread(
    [
      { x: 50, y: 50, size: 40, fixed: true },
      { x: 52, y: 50, size: 20 },
      { x: 53, y: 51, size: 20 },
    ],
    300,
    300,
  );
  assert.deepEqual([boxes[0].x, boxes[0].y], [50, 50]);
  for (const [a, b] of [
    [0, 1],
    [0, 2],
    [1, 2],
  ]) {
    const apart = Math.max(Math.abs(boxes[a].x - boxes[b].x), Math.abs(boxes[a].y - boxes[b].y));
    assert.ok(apart >= (boxes[a].size + boxes[b].size) / 2, `${a} and ${b}`);
  }
});

test('a packed view', () => {
  const head = new TextEncoder().encode('{"n":1,"a":{"$type":"u2","$at":[8,4,2]},"b":{"$type":"bytes","$at":[0,3]}}');
  const start = Math.ceil((4 + head.length) / 8) * 8;
  const bytes = new Uint8Array(start + 16); // two epochs of two numbers
  new DataView(bytes.buffer).setUint32(0, head.length, true);
  bytes.set(head, 4);
  bytes.set([7, 8, 9], start);
  bytes.set([1, 0, 2, 1, 1, 0, 255, 255], start + 8);
  const view = parse(bytes.buffer);
  assert.deepEqual([view.n, Array.from(view.a), Array.from(view.b)], [1, [1, 258, 2, 257], [7, 8, 9]]);
});

test('a name lies beside its dots, over as few dots and names as it can', () => {
  const [xs, ys] = [
    [100, 110, NaN],
    [100, 100, NaN],
  ];
  const place = (taken, more = []) =>
    beside([94, 94, 116, 106], [40, 20], [...xs, ...more.map((p) => p[0])], [...ys, ...more.map((p) => p[1])], taken);
  assert.deepEqual(place([]), [105, 84]); // above
  assert.deepEqual(place([], [[105, 84]]), [105, 116]); // a dot is there, so below
  assert.deepEqual(place([[105, 122, 40, 20]], [[105, 84]]), [136, 100]); // a name is there, so to the right
});
