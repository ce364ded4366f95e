"A view as `map_view` gives it, made up: clusters that come apart from epoch to epoch"
import base64, gzip, io, json, re, struct
import numpy as np
from PIL import Image

def _sprite(labels, px, side):
    "Tiles of a colour a class, numbered by a bright column"
    im = np.zeros((side*px,side*px,3), np.uint8)
    for i,l in enumerate(labels):
        y,x = divmod(i, side)
        im[y*px:(y+1)*px,x*px:(x+1)*px] = [40+20*(l%10), 200-15*(l%12), 60+(i*37)%150]
        im[y*px:(y+1)*px,x*px+i%px] = 255
    buf = io.BytesIO()
    Image.fromarray(im).save(buf, 'WEBP', quality=60)
    return buf.getvalue()

def checkered(side, px):
    "A sprite of black and white tiles"
    buf = io.BytesIO()
    tiles = np.indices((side,side)).sum(0)%2*255
    Image.fromarray(tiles.astype(np.uint8).repeat(px, 0).repeat(px, 1)).save(buf, 'WEBP', lossless=True)
    return buf.getvalue()

def _thumbs(labels, px, probes):
    side = int(np.ceil(np.sqrt(len(labels))))
    views = {int(p): [int(p),int(p)] for p in probes}
    return dict(px=px, cols=side, per_sprite=side*side, sprites=[_sprite(labels, px, side)], place=np.arange(len(labels), dtype=np.int32),
                views=views)

def _nearest(xy, k):
    "Positions of the nearest on the map, and how near, 0 to 255; of many images any others"
    n = len(xy)
    near,sim = np.full((n,k), -1, np.int32),np.zeros((n,k), np.uint8)
    if n>1000:
        rng = np.random.default_rng(0)
        return rng.integers(0, n, (n,k), dtype=np.int32),np.sort(rng.integers(0, 256, (n,k), dtype=np.uint8))[:,::-1]
    d = np.linalg.norm(xy[:,None]-xy, axis=2)
    np.fill_diagonal(d, np.inf)
    m = min(k, n-1)
    near[:,:m] = np.argsort(d, 1)[:,:m]
    sim[:,:m] = 255*np.exp(-3*np.take_along_axis(d, near[:,:m], 1))
    return near,sim

def _curve(name, label, values):
    return dict(name=name, label=label, values=[float(v) for v in values], epochs=list(range(1, len(values)+1)))

def _negatives(rng, n, epochs, each=6):
    "As many for each of the first four images and each epoch"
    probes = min(n, 4)
    drawn = rng.integers(0, n, probes*epochs*each).astype(np.int32)
    return dict(probe=np.repeat(np.arange(probes, dtype=np.int32), epochs*each),
        epoch=np.tile(np.repeat(np.arange(epochs, dtype=np.int32), each), probes), place=drawn, id=drawn,
        similarity=rng.random(len(drawn)).astype(np.float32), times=np.full(len(drawn), 1.4, np.float32))

def _run(name, labels, known, epochs, k, seed):
    n,rng = len(labels),np.random.default_rng(seed)
    own,noise = rng.uniform(.15, .85, (max(12, labels.max()+1),2))[labels],rng.normal(0, 1, (n,2))
    xy = np.stack([(.5+(own-.5)*(.2+.8*(e+1)/epochs)+noise*.16*(1-.7*(e+1)/epochs)).clip(.001, .999) for e in range(epochs)])
    near,sim = (np.stack(a) for a in zip(*(_nearest(p, k) for p in xy)))
    weight = np.where((rng.random(near.shape)<.7) & (near>=0), sim, 0).astype(np.uint8)
    negatives = _negatives(rng, n, epochs)
    up = np.linspace(.2, .8, epochs)
    curves = [_curve('purity_5','purity of 5',up), _curve('chance','chance',up*0+.1)] if known else [_curve('agreement',
        'agreement of query and key',up)]
    return dict(name=name, method=dict(n_pos=k, n_neg=None, hard_weight=.5, index=True), mining=[e>0 for e in range(epochs)],
                xy=(xy*65534).astype(np.uint16),
        near=near, sim=sim, weight=weight, negatives=negatives, curves=curves, start=2 if epochs>1 else None)

def fake_view(n=60, first=1, epochs=4, k=5, runs=('',), labelled=True, names=None, vocab=None, px=32, title='Made up', seed=0):
    vocab = vocab or [f'class {i}' for i in range(5)]
    kinds = np.random.default_rng(seed).integers(0, len(vocab), n)
    labels = kinds.astype(np.int32) if labelled else np.full(n, -1, np.int32)
    paths = names or [f'/photos/album/img_{i:05}.jpg' for i in range(n)]
    copies = np.full(n, -1, np.int32)
    copies[n//2:n//2+2] = 0
    alike = np.full(n, -1, np.int32)
    if n>8: alike[[3,7]] = 7,3
    columns = [] if labelled else [dict(name='cluster', label='cluster', kind='category', values=kinds.astype(np.int32),
                                        names=[f'cluster {i+1}' for i in range(len(vocab))], help='')]
    columns += [dict(name='duplicate_of', label='copy of', kind='number', values=copies, names=None, help=''),
                dict(name='near_duplicate_of', label='looks like', kind='number', values=alike, names=None, help=''),
                dict(name='outlier', label='outlier', kind='number', values=np.linspace(0, 1, n).astype(np.float32), names=None, help='')]
    return dict(title=title, ids=np.arange(n, dtype=np.int32)*3, files=['/'.join(p.split('/')[-2:]) for p in paths], paths=list(paths),
                labels=labels, vocab=vocab if labelled else [], labelled=labelled,
        thumbs=_thumbs(kinds, px, range(min(n, 4))), epochs=list(range(first, first+epochs)), probes=np.arange(min(n, 4), dtype=np.int32),
        runs=[_run(r, kinds, labelled, epochs, k, seed+j) for j,r in enumerate(runs)], columns=columns)

# Names that would be acted on, read from the right, or are long
hostile = ['<script>document.title="hacked"</script>', '"><img src=x onerror="document.title=\'hacked\'">', 'שלום עולם', '=cmd()', 'x'*400,
           '</script><script>document.title="hacked"</script>', '\udcff']

def unpacked(page):
    "What the file of a page holds; arrays are only named"
    raw = gzip.decompress(base64.b64decode(re.search(r'id=packed>([^<]*)<', page.read_text())[1]))
    size, = struct.unpack('<I', raw[:4])
    return json.loads(raw[4:4+size])
