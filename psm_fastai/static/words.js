// What is said of an image and its neighbours

// What is special about mining in this epoch, in a sentence
export function aboutMining(run, e) {
  const { n_pos: mined, n_neg: drawn, hard_weight: hard } = run.method ?? {};
  if (mined === 0) return 'This method mines nothing. These are its nearest images.';
  if (run.mining && !run.mining[e]) {
    return `Mining has not begun. These are the nearest images. Training pulls only the other view${drawn === 0 ? '' : ', and pushes away the whole bank'}.`;
  }
  if (hard === 1) return 'This method pulls none of them. The trusted ones are left out of the negatives.';
  return '';
}

// `verb`: what happens to trusted neighbours, null while nothing is mined
export function countsOf(near, verb) {
  const known = near.filter((r) => r.right !== null);
  const right = known.length ? `${known.filter((r) => r.right).length} of ${known.length} right` : '';
  const trusted = verb && near.length ? `${near.filter((r) => r.trusted).length} of ${near.length} ${verb}` : '';
  return [right, trusted].filter(Boolean).join(', ');
}

export function wordsOf(view, run, e, query, r) {
  const verb = view.verb(run);
  const pull = (weight) => (verb === 'pulled' ? `gets ${Math.round((100 * weight) / weights)} % of the pull` : verb);
  const weights = view.neighbours(run, e, query).reduce((sum, o) => sum + o.weight, 0);
  const since = view.since(run, e, query, r.at);
  return [
    view.words(r.at),
    r.right === null ? '' : r.right ? 'right' : 'wrong',
    `similarity ${r.similarity.toFixed(2)}`,
    `shares ${view.shared(run, e, query, r.at)} of ${view.k(run)} neighbours`,
    view.mines(run, e) && (r.trusted ? pull(r.weight) : `not ${verb}`),
    since === e ? (e ? 'new in this epoch' : '') : `a neighbour since ${view.when(since).replace('before', 'before the')}`,
  ]
    .filter(Boolean)
    .join(', ');
}

// How a neighbour is drawn: right or wrong if that is known, dotted if it is only near, and faint among others that are pulled
export function markOf(r, mines) {
  const dotted = !mines || !r.trusted;
  const faint = mines && dotted;
  if (r.right === null) return { kind: 'plain', dotted, faint, sign: faint ? '○' : '' };
  return { kind: r.right ? 'right' : 'wrong', dotted, faint, sign: r.right ? '✓' : '✗' };
}
