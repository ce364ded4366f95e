"Files that a training leaves: what was flipped, exchanged, crafted or cut is told in one line, and never loads"
import json, os, random, stat, subprocess, sys, time
from pathlib import Path
import pandas as pd, pytest, torch
from PIL import Image
from fastai.vision.all import set_seed
from safetensors import safe_open
from safetensors.torch import save_file
from psm_fastai.all import *
from psm_fastai.encoder import write_encoder
from psm_fastai.files import read_saved, atomic_write
from common import quiet, same, state, tiny_learner

def flips(raw, n, seed=0):
    "`n` copies with one bit changed"
    rng = random.Random(seed)
    for _ in range(n):
        b = bytearray(raw)
        b[rng.randrange(len(b))] ^= 1<<rng.randrange(8)
        yield bytes(b)

def only_value_errors(read, f, raws, is_same):
    "`read` gives what was written, or raises `ValueError`; how often it raised"
    refused = 0
    for raw in raws:
        f.write_bytes(raw)
        try: assert is_same(read())
        except ValueError: refused += 1
    return refused

def cuts(raw, n=10): return [raw[:len(raw)*i//n] for i in range(n)]

# files

@pytest.mark.posix
@pytest.mark.parametrize('mask,mode', [(0o022,0o644), (0o077,0o600), (0o002,0o664)])
def test_files_have_the_rights_that_others_have(tmp_path, mask, mode):
    "safetensors gives 0600 whatever the umask"
    before = os.umask(mask)
    try:
        write_encoder(small_resnet(1), tmp_path/'e.safetensors', n_in=1)
        with atomic_write(tmp_path/'t') as tmp: tmp.write_text('x')
    finally: os.umask(before)
    assert {stat.S_IMODE(f.stat().st_mode) for f in tmp_path.iterdir()}=={mode}

@pytest.mark.posix
def test_what_a_killed_writer_left_is_removed_and_a_living_ones_is_not(tmp_path):
    code = """import sys, time
from psm_fastai.files import atomic_write
with atomic_write(sys.argv[1]) as t:
    t.write_text('half')
    print(t, flush=True)
    time.sleep(60)"""
    p = [subprocess.Popen([sys.executable, '-c', code, tmp_path/'f'], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    left = [Path(q.stdout.readline().strip()) for q in p]
    p[0].kill(); p[0].wait()
    try:
        with atomic_write(tmp_path/'f') as tmp: tmp.write_text('all')
        assert [f.exists() for f in left]==[False,True] and (tmp_path/'f').read_text()=='all'
    finally: p[1].kill(); p[1].wait(); p[1].stdout.close(); p[0].stdout.close()

def test_what_torch_saved_with_a_flipped_bit(tmp_path):
    f = tmp_path/'s.pth'
    torch.save(dict(w=torch.randn(500), n='name', k=[1,2.5]), f)
    was = read_saved(f)
    def equal(s): return s.keys()==was.keys() and torch.equal(s['w'], was['w']) and s['n']==was['n'] and s['k']==was['k']
    raw = f.read_bytes()
    assert only_value_errors(lambda: read_saved(f), f, [*flips(raw, 300), *cuts(raw)], equal) > 200

# encoders

@pytest.fixture
def encoder_file(tmp_path):
    set_seed(0)
    write_encoder(small_resnet(2), tmp_path/'e.safetensors', n_in=2, size=[8,10], mean=[.1,.2], std=[1.,2.])
    return tmp_path/'e.safetensors'

def test_encoders_with_a_flipped_bit(encoder_file):
    was = load_encoder(encoder_file)
    def equal(m): return m.images==was.images and m.arch==was.arch and same(m.state_dict(), was.state_dict())
    raw = encoder_file.read_bytes()
    head = 8+int.from_bytes(raw[:8], 'little')
    raws = [*flips(raw, 40), *(b+raw[head:] for b in flips(raw[:head], 100)), *cuts(raw)]
    assert only_value_errors(lambda: load_encoder(encoder_file), encoder_file, raws, equal) >= 140

def encoder_parts(f):
    with safe_open(f, 'pt') as s: return s.metadata(),{k: s.get_tensor(k) for k in s.keys()}

deep = '['*100_000+']'*100_000
@pytest.mark.parametrize('change', [dict(n_in=json.dumps(v)) for v in (10**7, 10**30, 0, -1, True, 2.5, None, '2', [2], {})]
    + [dict(arch=json.dumps(v)) for v in ('vit_h_14','resnet19','',None,7,[1],{},'timm/x','timm/vit_giant_patch14_224','os.system')]
    + [dict(size=json.dumps(v)) for v in ('x',[1],[0,1],[8,'a'],{},None)]
    + [dict(mean=json.dumps(v)) for v in ([.1],[.1,.2,.3],['a','b'],'x',[float('nan'),1.],5) if v!=[.1]]
    + [dict(arch=json.dumps(a), n_in='3', mean='[0]', std='[1]') for a in ('vit_h_14','regnet_y_128gf')]
    + [dict(std='[0, 1]'), dict(std='[Infinity, 1]'), dict(n_in='nonsense'), dict(n_in=deep), dict(arch=deep), dict(digest='0'*64),
       dict(digest=''), dict(eigest='x')], ids=lambda c: str(c)[:40])
def test_encoders_that_were_crafted(encoder_file, change):
    "Each is refused at once, with one `ValueError`"
    meta,weights = encoder_parts(encoder_file)
    if 'digest' not in change: meta.pop('digest')
    save_file(weights, encoder_file, {**meta, **change})
    start = time.process_time()         # not by the clock: other programs may use the machine too
    with pytest.raises(ValueError, match='e.safetensors') as e: load_encoder(encoder_file)
    assert time.process_time()-start < 5 and len(str(e.value)) < 700 and '\n' not in str(e.value)

@pytest.mark.parametrize('odd,says', [(lambda t: t.fill_(float('nan')), r'are not all finite: 0.weight'),
                                      (lambda t: t.fill_(float('inf')), 'are not all finite: 0.weight'),
                                      (lambda t: t.int(), '0.weight is whole numbers in the file and floats here'),
    (lambda t: t[:1].clone(), r'0.weight is \[1, 2, 3, 3\] in the file and \[32, 2, 3, 3\] here'),
    (lambda t: t.to(torch.complex64), 'complex in the file')])
def test_weights_that_can_not_be(encoder_file, odd, says):
    meta,weights = encoder_parts(encoder_file)
    meta.pop('digest')
    save_file({**weights, '0.weight': odd(weights['0.weight'])}, encoder_file, meta)
    for arch in (None, small_resnet(2)):
        with pytest.raises(ValueError, match=says): load_encoder(encoder_file, arch=arch)

def test_weights_of_half_precision_and_masks_load(encoder_file):
    class Masked(torch.nn.Sequential):
        def __init__(self):
            super().__init__(torch.nn.Conv2d(2, 4, 3))
            self.register_buffer('mask', torch.tensor([0., -float('inf')]))
    write_encoder(Masked().half(), encoder_file, n_in=2)
    assert load_encoder(encoder_file, arch=Masked())[0].weight.dtype==torch.float32

def test_a_folder_of_a_run_is_an_encoder(encoder_file, tmp_path):
    encoder_file.rename(tmp_path/'encoder.safetensors')
    assert same(load_encoder(tmp_path).state_dict(), load_encoder(tmp_path/'encoder.safetensors').state_dict())

@pytest.mark.posix
@pytest.mark.parametrize('read', [load_encoder, read_saved, lambda f: CheckpointCallback(f).resume(quiet(cbs=[PSMCallback(bank_size=32)]))],
                         ids=['encoder','saved','checkpoint'])
def test_pipes_do_not_hang(tmp_path, read):
    os.mkfifo(tmp_path/'f')
    with pytest.raises(ValueError, match='a pipe, a socket or a device, not a file'): read(tmp_path/'f')

def test_loading_draws_no_more_random_numbers_than_building(encoder_file):
    torch.manual_seed(0)
    small_resnet(2)
    after = torch.get_rng_state()
    torch.manual_seed(0)
    load_encoder(encoder_file)
    assert torch.equal(torch.get_rng_state(), after)

# checkpoints

@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory):
    f = tmp_path_factory.mktemp('c')/'c.pth'
    tiny_learner().fit(1, cbs=CheckpointCallback(f))
    return f.read_bytes()

def test_checkpoints_with_a_flipped_bit(checkpoint, tmp_path):
    "Before, nine of ten loaded"
    f,cb = tmp_path/'c.pth',CheckpointCallback(tmp_path/'c.pth')
    f.write_bytes(checkpoint)
    was = cb.read('cpu')
    def equal(s): return same(s['model'], was['model']) and all(repr(s[n])==repr(was[n]) for n in was)
    assert only_value_errors(lambda: cb.read('cpu'), f, [*flips(checkpoint, 60), *cuts(checkpoint)], equal) >= 60

@pytest.mark.parametrize('name,value', [('epoch','3'), ('epoch',5), ('epoch',0), ('n_epoch',None), ('model',[1]), ('model',dict(a=1)),
                                        ('opt',dict()), ('opt',dict(state=3)), ('hypers',{}), ('hypers',[]), ('hypers',[1]),
                                        ('callbacks',[]), ('trackers',None),
    ('random',{}), ('settings',[]), ('settings',{}), ('files',{}), ('files',dict(names=1)), ('files',7), ('threads','2'), ('layout',[7])])
def test_checkpoints_that_were_crafted(checkpoint, tmp_path, name, value):
    f = tmp_path/'c.pth'
    f.write_bytes(checkpoint)
    torch.save(dict(torch.load(f, weights_only=True), **{name: value}), f)
    learn = tiny_learner()
    before = state(learn)
    with pytest.raises(ValueError, match='c.pth'): CheckpointCallback(f).resume(learn)
    assert same(before, state(learn))

# histories

@pytest.fixture(scope='module')
def history():
    h = NeighbourHistory(ids=[1,2,3], n_pos=2, n_neg=2)
    h.vocab = ['a','b']
    learn = quiet(digits_dls(bs=16, limit=32), cbs=[PSMCallback(bank_size=32)])
    learn.fit(1)
    for e in (1,2): h.look(learn, e)
    return h

def equal_history(h, was):
    return h.to_frame().equals(was.to_frame()) and h.metrics().equals(was.metrics()) and h.thumbs.place==was.thumbs.place

def test_histories_with_a_flipped_bit(history, tmp_path):
    history.save(tmp_path/'h')
    was = NeighbourHistory.load(tmp_path/'h')
    for e in ('parquet','safetensors'):
        f = tmp_path/f'h.{e}'
        raw = f.read_bytes()
        assert only_value_errors(lambda: NeighbourHistory.load(tmp_path/'h'), f, [*flips(raw, 100), *cuts(raw)],
                                 lambda h: equal_history(h, was))==110
        f.write_bytes(raw)

def test_table_and_pictures_of_different_histories(history, tmp_path):
    history.save(tmp_path/'a')
    other = NeighbourHistory.load(tmp_path/'a')
    other.title = 'other'
    other.save(tmp_path/'b')
    other.tables[0].loc[0,'similarity'] += 1
    other.save(tmp_path/'c')
    os.replace(tmp_path/'c.parquet', tmp_path/'a.parquet')
    with pytest.raises(ValueError, match='a.parquet was changed, or it is of another history'): NeighbourHistory.load(tmp_path/'a')
    assert NeighbourHistory.load(tmp_path/'b').title=='other'

def without_digest(f, **change):
    "As version 0.1.0 wrote it, with changes to its metadata"
    with safe_open(f, 'pt') as s: meta,sprites = json.loads(s.metadata()['psm_history']),{k: s.get_tensor(k) for k in s.keys()}
    for n,v in change.items(): meta.pop(n) if v is ... else meta.update({n: v})
    save_file(sprites, f, dict(psm_history=json.dumps(meta)))

def test_histories_of_older_versions_load(history, tmp_path):
    "Their epochs were of 16 bits, and counted from 0"
    history.audits = [dict(epoch=2, judged=4, same=3)]
    history.map.epochs = [0,1]
    history.save(tmp_path/'h')
    history.map.epochs = [1,2]
    table = pd.read_parquet(tmp_path/'h.parquet').astype(dict(epoch='int16'))
    table.assign(epoch=table.epoch-1).to_parquet(tmp_path/'h.parquet')
    epochs,audits = ([dict(o, epoch=o['epoch']-1) for o in rows] for rows in (history.epochs,history.audits))
    without_digest(tmp_path/'h.safetensors', first_epoch=..., epochs=epochs, audits=audits)
    old = NeighbourHistory.load(tmp_path/'h')
    assert equal_history(old, history) and old.audits==history.audits
    assert old.to_frame().epoch.unique().tolist()==old.map.epochs==map_view(old)['epochs']==[1,2]

def test_histories_from_before_n_pos_had_its_name_load(history, tmp_path):
    history.save(tmp_path/'h')
    epochs = [{'k' if n=='n_pos' else n: v for n,v in e.items()} for e in history.epochs]
    without_digest(tmp_path/'h.safetensors', k=2, n_pos=..., epochs=epochs)
    h = NeighbourHistory.load(tmp_path/'h')
    assert equal_history(h, history) and h.n_pos==2 and not hasattr(h, 'k')

odd = [None, 7, -1, 'x', [], {}, [1], ['x'], [[1]], [{}], [{'epoch': 'x'}], 2.5, True, [None], deep]
@pytest.mark.parametrize('name', ['n_probes','every','n_pos','n_neg','seed','budget','ids','epochs','vocab','title','audits','source',
                                  'offset','labels','names','recent'])
def test_histories_that_were_crafted(history, tmp_path, name):
    "What loads can be shown"
    history.save(tmp_path/'h')
    whole = (tmp_path/'h.safetensors').read_bytes()
    for v in [*odd, ...]:
        (tmp_path/'h.safetensors').write_bytes(whole)
        without_digest(tmp_path/'h.safetensors', **{name: v})
        try: h = NeighbourHistory.load(tmp_path/'h')
        except ValueError as e:
            assert len(str(e)) < 600 and (v is not ... or f'it lacks {name}' in str(e))
            continue
        assert v is not ... and isinstance(h.to_frame(), pd.DataFrame) and isinstance(h.metrics(), pd.DataFrame)
        if h.tables and h.ids: neighbour_page(h, tmp_path/'p.html', layout='pca')

@pytest.mark.parametrize('change,says', [(lambda t: t.drop(columns='query'), 'has the columns'), (lambda t: t.assign(query='x'), 'damaged'),
                                         (lambda t: t.assign(query=99), 'of different histories'),
                                         (lambda t: t.assign(epoch=5), 'of different histories'),
    (lambda t: t.assign(more=1), 'has the columns'), (lambda t: t.assign(id=float('nan')), 'damaged')])
def test_tables_that_were_crafted(history, tmp_path, change, says):
    history.save(tmp_path/'h')
    without_digest(tmp_path/'h.safetensors')
    change(pd.read_parquet(tmp_path/'h.parquet')).to_parquet(tmp_path/'h.parquet')
    with pytest.raises(ValueError, match=says): NeighbourHistory.load(tmp_path/'h')

def test_sprites_that_are_none(history, tmp_path):
    import io
    for blob in (b'', b'RIFF', *[(lambda b: (Image.new('RGB', size).save(b, kind), b.getvalue())[1])(io.BytesIO())
                                 for size,kind in (((8,8),'WEBP'),((512,512),'PNG'))]):
        history.save(tmp_path/'h')
        with safe_open(tmp_path/'h.safetensors', 'pt') as s: meta = s.metadata()['psm_history']
        save_file({'thumbs0000': torch.tensor(list(blob), dtype=torch.uint8)}, tmp_path/'h.safetensors', dict(psm_history=meta))
        with pytest.raises(ValueError, match='A sprite is no picture'): NeighbourHistory.load(tmp_path/'h')

@pytest.mark.posix
@pytest.mark.parametrize('end', ['parquet','safetensors'])
def test_histories_that_are_pipes(history, tmp_path, end):
    history.save(tmp_path/'h')
    (tmp_path/f'h.{end}').unlink()
    os.mkfifo(tmp_path/f'h.{end}')
    with pytest.raises(ValueError, match='a pipe'): NeighbourHistory.load(tmp_path/'h')

def test_epochs_above_32767_do_not_wrap(history):
    h = NeighbourHistory()
    h.load_state_dict(history.state_dict())
    h.epochs[1] = dict(h.epochs[1], epoch=40_000)
    h.tables[1] = h.tables[1].assign(epoch=torch.full((len(h.tables[1]),), 40_000).numpy().astype(h.tables[1].epoch.dtype))
    assert h.to_frame().epoch.max()==40_000
