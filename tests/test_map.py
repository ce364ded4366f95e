"A map shows the images, the neighbours and the epochs that it says, for any images, and costs little while training"
import io, json, re, sys, types
import numpy as np, pandas as pd, pytest, torch
from fastai.vision.all import CancelFitException, ImageDataLoaders, Image, TensorCategory, TensorImage
from pathlib import Path
from PIL import ImageOps
from safetensors import safe_open
from safetensors.torch import save_file
from psm_fastai.all import *
from psm_fastai.layout import nowhere
from common import *
from data import Images, loaders, noise_files

def rules(): return pytest.mark.parametrize('rule', [dict(), dict(rule='bank')], ids=['index','bank'])
def callback(rule, bank_size=128): return PSMCallback(bank_size=bank_size, n_pos=6, mine_after=0., **rule)
def same_map(a, b):
    a,b = a.map.state(),b.map.state()
    assert a.keys()==b.keys()
    for n in a: np.testing.assert_array_equal(a[n], b[n], err_msg=n)

@rules()
def test_a_record_holds_what_mining_has(rule):
    "Keys, neighbours, similarities, trust and ages are those of the bank or the index"
    history = NeighbourHistory(n_probes=8, n_pos=4)
    learn = train(history, cb=callback(rule))
    m,part,ids = learn.model,{n: v[-1] for n,v in history.map.parts.items()},history.map.ids
    test_ids = np.arange(200)
    np.testing.assert_array_equal(ids, test_ids)
    row = {i: r for r,i in enumerate(m.bank.ids.tolist())}          # the last row of each
    if rule:
        for i in list(row)[::9]:
            key = m.bank.feats[row[i]]
            np.testing.assert_allclose(history.map.keys.feats[i], key, atol=1e-3)
            sims = (key @ m.bank.feats.T).masked_fill((m.bank.ids==i) | ~m.bank.ready, -9)
            top,at = sims.topk(4)
            assert part['near'][i].tolist()==m.bank.ids[at].tolist() and np.abs(part['sim'][i]/255-top.clamp(min=0).numpy()).max()<.01
            assert part['age'][i]==m.bank.age[row[i]] and (part['weight'][i]==255).all()
    else:
        index = m.loss.index
        found = index.ready[index.near[:,:4].long()].numpy()
        np.testing.assert_array_equal(part['near'], np.where(found, index.near[:,:4], -1))
        np.testing.assert_allclose(part['weight'][found]/255, index.trust[:,:4].numpy()[found], atol=.003)
        np.testing.assert_array_equal(part['age'][index.ready], index.age[index.ready])
        np.testing.assert_allclose(history.map.keys.feats[index.ready], index.feats[index.ready], atol=1e-3)
    assert history.map.labels[:20].tolist()==[int(y) for _,y in learn.dls.train_ds][:20]

class Farthest(PSMLoss):
    "A rule of one's own: the rows least similar to the key, the first more than the others"
    def candidates(self, k, ids, bank):
        allowed = admissible(ids, bank.ids, bank.ready)
        sims,idx = (k @ bank.feats.T).masked_fill(~allowed, 9).topk(self.n_pos, largest=False)
        weights = torch.tensor([1.]+[1/12]*(self.n_pos-1)).expand(len(k), -1)
        return idx,sims<9,weights,allowed

class LastFirst(IndexLoss):
    "Another one: the neighbours of the index, the last one first, and then an image that is none, all alike"
    def candidates(self, k, ids, bank):
        if not self.indexed: return super().candidates(k, ids, bank)
        near,found,_,allowed = super().candidates(k, ids, bank)
        near = torch.cat([near[:,1:].flip(1), (ids[:,None]+100)%len(self.index)], 1)
        return near,torch.ones_like(found),torch.full(near.shape, 1/self.n_pos),allowed

@pytest.mark.parametrize('rule', [Farthest,LastFirst])
def test_map_and_tables_show_what_a_rule_of_ones_own_mines(rule):
    history = NeighbourHistory(n_probes=8, n_pos=4)
    learn = train(history, cb=callback(dict(rule=rule), 256))
    m,part = learn.model,{n: v[-1] for n,v in history.map.parts.items()}
    pool = m.loss.pool(m.bank)
    assert (pool is m.bank)==(rule is Farthest)
    row = {i: r for r,i in enumerate(pool.ids.tolist())}          # the last row of each
    ids = [i for i in history.ids if i in row and pool.ready[row[i]]]
    table = mined_neighbours(learn, ids, k=3)
    assert len(ids)>4
    for i in ids:
        key = pool.feats[row[i]]
        if rule is Farthest:
            sims = (key @ m.bank.feats.T).masked_fill((m.bank.ids==i) | ~m.bank.ready, 9)
            unlike,at = sims.topk(4, largest=False)
            want,weights = m.bank.ids[at].tolist(),[255,21,21,21]
        else:
            want,unlike = (t[i,1:].flip(0)[:4] for t in (pool.near,pool.sims))
            want,weights = want.tolist(),[255]*4
        assert part['near'][i].tolist()==want and part['weight'][i].tolist()==weights
        mine = table[table['query']==i]
        assert mine.id.tolist()==want[:3]
        np.testing.assert_allclose(mine.similarity, unlike[:3], atol=1e-5)
        assert np.abs(part['sim'][i]/255-unlike.clamp(min=0).numpy()).max()<.01
        if rule is LastFirst:
            other = pool.similarity(key[None], torch.tensor([i]), torch.tensor([[(i+100)%200]]))
            np.testing.assert_allclose(other, [[pool.feats[(i+100)%200]@key]], atol=1e-5)     # the index knows none

def test_a_small_bank_forgets_nothing_within_an_epoch():
    "Each image that was trained on has its newest key, though the bank holds a sixth of them"
    keys,losses,views = {},{},{}
    def keep(cb):
        if not cb.training: return
        views.update(zip(cb.psm_step.ids.tolist(), (cb.psm_step.q*cb.psm_step.k).sum(1).tolist()))
        keys.update({i: k.clone() for i,k in zip(cb.psm_step.ids.tolist(), cb.psm_step.k)})
        losses.update(zip(cb.psm_step.ids.tolist(), cb.psm_step.loss.tolist()))
    history = NeighbourHistory(n_probes=4)
    train(history, 1, cb=callback(dict(rule='bank'), 32), cbs=Spy(order=50, after_batch=keep))
    assert len(keys)==192
    for i,k in keys.items(): np.testing.assert_allclose(history.map.keys.feats[i], k, atol=1e-3)
    np.testing.assert_allclose(history.map.parts['loss'][1], [losses.get(i, np.nan) for i in range(200)], rtol=1e-3)
    np.testing.assert_allclose(history.map.parts['views'][1], [views.get(i, np.nan) for i in range(200)], atol=1e-3)

def test_agreement_of_views_is_a_mean_over_epochs():
    "An epoch has a fifth of the weight, whether the history looks at it or not, and an image left out keeps its mean"
    history,want = NeighbourHistory(n_probes=4, every=3),np.full(200, np.nan)
    now = np.full(200, np.nan)
    def keep(cb):
        if cb.training: now[cb.psm_step.ids.numpy()] = (cb.psm_step.q*cb.psm_step.k).sum(1)
    def end(cb):
        want[:] = np.where(np.isnan(now), want, np.where(np.isnan(want), now, .8*want+.2*now))
        now[:] = np.nan
    train(history, 3, cb=callback({}), cbs=Spy(order=50, after_batch=keep, after_train=end))
    assert len(history.map)==2 and np.isnan(history.map.parts['views'][0]).all()          # before training, and the third epoch
    np.testing.assert_allclose(history.map.parts['views'][1], want, atol=1e-3)

def test_records_without_views_are_read():
    "Histories of before have no similarities of views. They are read, and the map has none"
    history = NeighbourHistory(n_probes=4)
    train(history, 1, cb=callback({}))
    state = history.state_dict()
    state['map'] = {n: v for n,v in state['map'].items() if not n.endswith('views')}
    old = NeighbourHistory()
    old.load_state_dict(state)
    column = next(c for c in map_view(old)['columns'] if c['name']=='views')
    assert np.isnan(column['values']).all() and column['values'].shape==(2,200)

@rules()
def test_a_resumed_training_keeps_its_map(tmp_path, rule):
    "To the bit, in an epoch that was not kept too"
    def build(): return NeighbourHistory(n_probes=6, n_pos=4, n_neg=3, every=2)
    whole_one = build()
    train(whole_one, 4, cb=callback(rule, 48))
    def stop(cb):
        if cb.epoch==2: raise CancelFitException
    train(build(), 4, cb=callback(rule, 48), cbs=[CheckpointCallback(tmp_path/'c.pth'), Spy(order=80, after_epoch=stop)])
    history = build()
    train(history, 4, cb=callback(rule, 48), resume=tmp_path/'c.pth')
    assert history.map.epochs==[0,2,4]
    same_map(history, whole_one)

def test_lr_find_leaves_no_trace():
    history = NeighbourHistory(n_probes=4)
    learn = train(history, 1, cb=callback(dict(rule='bank')))
    before = {n: t.clone() for n,t in history.map.state().items()}
    learn.lr_find(num_it=8, show_plot=False)
    after = history.map.state()
    assert before.keys()==after.keys()
    for n in before: np.testing.assert_array_equal(before[n], after[n])

def test_a_map_is_kept_with_its_history(tmp_path):
    history = NeighbourHistory(n_probes=6, title='a')
    train(history)
    places = history.map_layout()
    history.save(tmp_path/'h')
    again = NeighbourHistory.load(tmp_path/'h')
    same_map(history, again)
    np.testing.assert_array_equal(again.map.layouts['tsne'], places)
    a,b = map_view(history),map_view(again)
    assert np.array_equal(a['thumbs']['place'], b['thumbs']['place'])
    assert a['runs'][0]['curves']==b['runs'][0]['curves']
    pd.testing.assert_frame_equal(*(pd.DataFrame(v['runs'][0]['negatives']) for v in (a,b)))
    for c,d in zip(a['columns'], b['columns']):
        if c['name']=='near_duplicate_of': assert (c['values']==d['values']).mean()>.9    # by thumbnails, which were compressed once more
        else: np.testing.assert_array_equal(c['values'], d['values'], err_msg=c['name'])
    history.look(train(Spy()), 9)
    assert not history.map.layouts                    # of other epochs

def test_a_history_of_an_older_version_has_no_map(tmp_path):
    history = NeighbourHistory(n_probes=6, n_pos=4)
    train(history)
    history.save(tmp_path/'h')
    with safe_open(tmp_path/'h.safetensors', 'pt') as f: said,tensors = f.metadata(),{n: f.get_tensor(n) for n in f.keys()}
    meta = {n: v for n,v in json.loads(said['psm_history']).items() if n not in ('n_map','files','pixels')}
    for m in meta['epochs']: m.pop('agreement')
    save_file({n: t for n,t in tensors.items() if not n.startswith('map.')}, tmp_path/'h.safetensors', dict(psm_history=json.dumps(meta)))
    old = NeighbourHistory.load(tmp_path/'h')
    view = map_view(old)
    assert len(old.map)==0 and (view['runs'][0]['xy']==nowhere).all() and view['epochs']==[0,1,2]
    at = {i: p for p,i in enumerate(view['ids'].tolist())}
    for r in old.tables[1][lambda t: ~t.negative].itertuples(): assert view['runs'][0]['near'][1][at[r.query],r.rank-1]==at[r.id]
    assert {c['name'] for c in view['columns']}=={'class','right','trust','stability','similarity','age','loss','views'}
    with pytest.raises(ValueError, match='has no map'): old.to_parquet(tmp_path/'t.parquet')

@pytest.mark.parametrize('change', [dict(near=lambda t: t.fill_(999)), dict(near=lambda t: t[:,:5]), dict(feats=lambda t: t.float()),
                                    dict(key_ids=lambda t: t.flip(0)), dict(age=None), dict(epochs=lambda t: t[:1])],
    ids=['outside','short','type','order','missing','epochs'])
def test_maps_that_were_crafted_are_refused(change):
    history = NeighbourHistory(n_probes=4)
    train(history, 2)
    state = history.state_dict()
    for n,f in change.items():
        if f is None: del state['map'][n]
        else: state['map'][n] = f(state['map'][n].clone())
    with pytest.raises((ValueError,KeyError), match="the map's"): NeighbourHistory().load_state_dict(state)

def test_negatives_are_told_against_a_uniform_draw():
    "Times uniform is the probability times the rows that could be drawn"
    history = NeighbourHistory(n_probes=8, n_pos=4, n_neg=12)
    learn = train(history, cb=PSMCallback.from_bank(bank_size=128, n_pos=6, n_neg=20, mine_after=0., a=8.))
    m = learn.model
    _,q,k,ids,_ = history.probes(learn)
    _,_,_,allowed = m.loss.candidates(k, ids, m.bank)
    p = draw_probs(q @ m.bank.feats.T, (q*k).sum(1), allowed, m.loss.a, m.loss.b)
    times = p*allowed.sum(1, keepdim=True)
    row = {i: r for r,i in enumerate(m.bank.ids.tolist())}
    view = map_view(history)
    negatives = pd.DataFrame(view['runs'][0]['negatives']).query(f"epoch=={len(view['epochs'])-1}")
    found = 0
    for j,i in enumerate(history.ids):
        for r in negatives[negatives.probe==np.flatnonzero(view['ids']==i)[0]].itertuples():
            assert view['ids'][r.place]==r.id and abs(r.times-times[j,row[r.id]])<2e-3
            found += 1
    assert found==8*12 and times[allowed].std()>.1

@pytest.mark.parametrize('maker', ['folder','table','csv','df'])
def test_files_have_names_however_they_were_loaded(tmp_path, maker):
    folder = noise_files(tmp_path, [(20,20)]*24, [f'{"ab"[i%2]}/{i:02}.png' for i in range(24)])
    df = pd.DataFrame(dict(fn=[f'{"ab"[i%2]}/{i:02}' for i in range(24)], label=['a','b']*12))
    df.assign(fn=df.fn+'.png').to_csv(tmp_path/'t.csv', index=False)
    kind = dict(valid_pct=.2, item_tfms=[], bs=8, num_workers=0)
    dls = dict(folder=lambda: image_dls(folder, size=16, bs=8), table=lambda: image_dls(tmp_path/'t.csv', size=16, bs=8),
        csv=lambda: ImageDataLoaders.from_csv(tmp_path, 't.csv', **kind),
        df=lambda: ImageDataLoaders.from_df(df, tmp_path, suff='.png', **kind))[maker]()
    history = NeighbourHistory(n_probes=4, n_pos=3)
    learn = quiet(dls, model=tiny(3), cbs=[PSMCallback(bank_size=16), history], loss_func=no_loss)
    learn.fit(1)
    view = map_view(history)
    for i,short,path in zip(view['ids'].tolist(), view['files'], view['paths']):
        seen = train_image(dls, i)
        assert np.array_equal(np.asarray(ImageOps.fit(Image.open(path).convert('RGB'), seen.size, Image.Resampling.BILINEAR)),
                              np.asarray(seen))
        assert re.fullmatch(r'[ab]/\d\d\.png', short) and path.endswith(short) and Path(path).exists()
    assert learn.features().file.map(lambda f: Path(f).exists()).all()

@pytest.mark.parametrize('valid_pct', [0,.25])
def test_clusters_copies_and_outliers_can_be_those_of_the_features(tmp_path, valid_pct):
    "So that the page and the tables of a run say the same"
    folder = noise_files(tmp_path, [(20,20)]*40, [f'{i:02}.png' for i in range(40)])
    history = NeighbourHistory(n_probes=4, n_pos=3)
    learn = quiet(image_dls(folder, size=16, bs=8, valid_pct=valid_pct), model=tiny(3), cbs=[PSMCallback(bank_size=16), history],
                  loss_func=no_loss)
    learn.fit(1)
    before = {c['name']: c for c in map_view(history)['columns']}
    photos = history.collection = learn.collection()
    view = map_view(history)
    columns = {c['name']: c for c in view['columns']}
    assert 'keys of the last epoch' in before['cluster']['help'] and "encoder's features" in columns['cluster']['help']
    path = dict(zip(view['paths'], range(40)))
    far,kinds = photos.outliers(40).set_index('file').distance,photos.clusters().set_index('file').cluster
    for f,i in path.items(): assert columns['outlier']['values'][i]==pytest.approx(far[f]) and columns['cluster']['values'][i]==kinds[f]

def test_rows_that_are_read_in_a_way_of_their_own(tmp_path):
    "A function that gives a path is asked for each row, one that opens the image for one alone"
    from fastai.vision.all import DataBlock, ImageBlock, PILImage
    noise_files(tmp_path, [(16,16)]*12)
    df,asked = pd.DataFrame(dict(n=range(12))),[]
    def opened(r):
        asked.append(r.n)
        return PILImage.create(tmp_path/f'{r.n}.png')
    def path(r):
        asked.append(r.n)
        return tmp_path/f'{r.n}.png'
    def files(get_x, *ids):
        return item_files(DataBlock((ImageBlock,), get_x=get_x, splitter=lambda o: (list(range(10)),[10,11])).datasets(df).train, *ids)
    assert files(path)==[str(tmp_path/f'{i}.png') for i in range(10)]
    asked.clear()
    assert files(path, [3])==[str(tmp_path/'3.png')] and len(asked)<4, asked
    asked.clear()
    assert files(opened)==[None]*10 and len(asked)<4

def test_names_that_would_be_acted_on(tmp_path):
    names = ['<script>alert(1)</script>.png'.replace('/','_'), 'تصویر ۱.png', 'a\u202egnp.exe.png',
             'zwei\nZeilen.png'] + [f'{i}.png' for i in range(8)]
    noise_files(tmp_path, [(16+i,20) for i in range(12)], names)
    history = NeighbourHistory(n_probes=3, n_pos=2)
    learn = quiet(image_dls(tmp_path, size=16, bs=4, valid_pct=0), model=tiny(3), cbs=[PSMCallback(bank_size=8), history],
                  loss_func=no_loss)
    learn.fit(1)
    history.save(tmp_path/'h')
    view = map_view(NeighbourHistory.load(tmp_path/'h'))
    assert {*view['paths']}=={str(tmp_path/n) for n in names}                  # as they are, to be copied
    assert 'zwei\\nZeilen.png' in view['files'] and 'a\\u202egnp.exe.png' in view['files'] and 'تصویر ۱.png' in view['files']
    history.to_parquet(tmp_path/'t.parquet')
    assert {*pd.read_parquet(tmp_path/'t.parquet').filepath}=={*view['paths']}

def test_photographs_without_labels(tmp_path):
    "Files of different sizes, with copies: nothing that needs a label, pictures of 96 pixels, and the copies are found"
    noise_files(tmp_path, [(200,100),(100,220),(130,130)]*8)
    for i in (3,7): (tmp_path/f'copy{i}.png').write_bytes((tmp_path/f'{i}.png').read_bytes())
    history = NeighbourHistory(n_probes=4, n_pos=3)
    learn = quiet(image_dls(tmp_path, size=32, bs=8, valid_pct=0), model=tiny(3),
                  cbs=[PSMCallback(bank_size=16, mine_after=0., refresh=1, n_pos=5), history], loss_func=no_loss)
    learn.fit(2)
    view = map_view(history)
    assert not view['labelled'] and view['vocab']==[] and view['thumbs']['px']==96
    columns = {c['name']: c['values'] for c in view['columns']}
    assert {*columns}=={'trust','stability','similarity','age','loss','views','cluster','duplicate_of','near_duplicate_of','outlier'}
    assert {c['name'] for c in view['runs'][0]['curves']} >= {'agreement','stability','similarity','estimated','trusted'}
    assert not any(c['labelled'] for c in view['runs'][0]['curves'])
    copies = {(view['files'][i],view['files'][j]) for i,j in enumerate(columns['duplicate_of']) if j>=0}
    near = columns['near_duplicate_of']
    assert (near>=0).any() and all(near[i]!=columns['duplicate_of'][i] for i in np.flatnonzero(near>=0))
    assert {frozenset(c) for c in copies}=={frozenset(('3.png','copy3.png')), frozenset(('7.png','copy7.png'))}
    sprites = [np.asarray(Image.open(io.BytesIO(b))) for b in view['thumbs']['sprites']]
    for i,place in enumerate(view['thumbs']['place'].tolist()):
        s,t = divmod(place, 256)
        tile = sprites[s][t//16*96:t//16*96+96,t%16*96:t%16*96+96]
        # as training cuts it, but larger
        im = ImageOps.fit(Image.open(view['paths'][i]).convert('RGB'), (96,96), Image.Resampling.BILINEAR)
        assert np.corrcoef(tile.mean(2).ravel(), np.asarray(im).mean(2).ravel())[0,1]>.8

def test_a_file_that_is_gone_does_not_fail_the_training(tmp_path, capsys):
    "It has no picture, and one is told"
    noise_files(tmp_path, [(40,40)]*30)
    def delete(cb):
        h = cb.learn.neighbour_history
        cb.lost = next(i for i in h.map.ids.tolist() if str(i) not in h.thumbs.place)
        Path(h.files[cb.lost]).unlink()
    spy,history = Spy(after_epoch=delete),NeighbourHistory(n_probes=2, n_pos=2, n_neg=2)
    quiet(image_dls(tmp_path, size=16, bs=8, valid_pct=0), model=tiny(3), cbs=[PSMCallback(bank_size=16), history],
          loss_func=no_loss).fit(1, cbs=spy)
    assert '1 of 30 images could not be read again' in capsys.readouterr().out
    view = map_view(history)
    assert np.flatnonzero(view['thumbs']['place']<0).tolist()==[spy.lost]

def test_pixels_in_memory_outlive_their_files(tmp_path, capsys):
    "A training goes on without the files, from its first look at them on, and tells once that there are no pictures"
    noise_files(tmp_path, [(40,40)]*30)
    dls = image_dls(tmp_path, size=16, bs=8, valid_pct=0)
    for f in tmp_path.glob('*.png'): f.unlink()
    history = NeighbourHistory(n_probes=2, n_pos=2, n_neg=2)
    learn = quiet(dls, model=tiny(3), cbs=[PSMCallback(bank_size=16), history], loss_func=no_loss)
    capsys.readouterr()
    learn.fit(3)
    said = re.findall(r'([0-9]+) of 30 images could not be read again', capsys.readouterr().out)
    assert len(said)==2 and said[1]=='30' and len(history.epochs)==4         # when it began, and all at the end
    view = map_view(history)
    assert (view['thumbs']['place']==-1).all() and {*history.thumbs.place}=={f'{v}{i}' for v in 'qk' for i in history.ids}

def test_twelve_bands():
    dls = loaders(Images(32, (12,16,16), label=lambda i: TensorCategory(-1)), bs=8)
    history = NeighbourHistory(n_probes=4, n_pos=3)
    learn = quiet(dls, model=tiny(12), cbs=[PSMCallback(bank_size=16), history], loss_func=no_loss)
    learn.fit(1)
    view = map_view(history)
    assert (view['thumbs']['place']>=0).all() and view['files']==[None]*32 and not view['labelled']

def test_copies_lie_together():
    "Their keys are of other views, but their features are the same"
    dls = digits_dls(limit=48)
    twice = [dls.train_ds[i] for _ in range(2) for i in range(48)]
    history = NeighbourHistory(n_pos=4)
    train(history, 3, dls=loaders([(TensorImage(np.asarray(x)[None]/255).float(),y) for x,y in twice]))
    xy = map_view(history)['runs'][0]['xy'].astype(float)
    apart = np.abs(xy[:,:48]-xy[:,48:]).max(2)/65534
    assert np.median(apart)<.01 and (apart<.05).all()

def test_features_for_the_map_take_a_twentieth_of_the_training():
    "Epochs in between have places between"
    history = NeighbourHistory(n_pos=4)
    train(history, 10)
    known = [bool(np.isfinite(f).any()) for f in history.map.parts['feats']]
    assert np.flatnonzero(known).tolist()==[0,5,10]
    xy = map_view(history)['runs'][0]['xy'].astype(float)
    inside = ((xy>0) & (xy<nowhere-1)).all((0,2))          # a few images far outside are moved to the edge
    assert (xy<nowhere).all() and inside.mean()>.95
    assert np.abs(xy[3]-(.4*xy[0]+.6*xy[5]))[inside].max()<2
    restored = NeighbourHistory()
    restored.load_state_dict(history.state_dict())
    assert [np.isfinite(f).any() for f in restored.map.parts['feats']]==known

@pytest.mark.parametrize('n', [2,3,5])
@rules()
def test_few_images(n, rule):
    dls = digits_dls(bs=n, limit=n)
    history = NeighbourHistory(n_pos=4, n_neg=3)
    train(history, 3, dls=dls, cb=callback(rule, 8))
    view = map_view(history)
    xy = view['runs'][0]['xy']
    assert xy.shape==(4,n,2) and (xy<nowhere).all() and len(np.unique(xy[-1], axis=0))==n
    none = [c['name'] for c in view['columns'] if not np.isfinite(c['values']).any()]
    assert {*none} <= {'trust','outlier','stability'}       # an index that was made once has no neighbours from before
    history.map_table()

def test_a_map_of_one_image():
    history = NeighbourHistory(n_probes=1, ids=[0], n_map=1)
    train(history, 2, dls=digits_dls(bs=4, limit=8))
    view = map_view(history)
    assert view['ids'].tolist()==[0] and (view['runs'][0]['near']==-1).all()
    assert (view['runs'][0]['xy']<nowhere).all() and {c['name']: c['values'] for c in view['columns']}['cluster'].tolist()==[0]

def test_the_sample_of_a_large_set_is_fixed():
    history = NeighbourHistory(n_probes=5, n_map=50)
    learn = train(history, 2)
    assert {*range(0, 200, 4)} | {*history.ids}=={*history.map.ids.tolist()}
    view = map_view(history)
    near,index = view['runs'][0]['near'][-1],learn.model.loss.index
    for p,i in enumerate(view['ids'].tolist()): assert all(j==-1 or view['ids'][j]==index.near[i,r] for r,j in enumerate(near[p].tolist()))

def test_fifty_thousand_images():
    "Laid out by some of them, in a time that does not grow with their number"
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(10,16))
    of = rng.integers(0, 10, 50_000)
    feats = [(c := centres[of]*s + rng.normal(size=(50_000,16))*.3)/np.linalg.norm(c, axis=1, keepdims=True) for s in (.5,1)]
    xy = lay_out(feats)
    np.testing.assert_array_equal(xy, lay_out(feats))
    middle = np.stack([xy[1][of==i].mean(0) for i in range(10)])
    nearest = ((xy[1][:2000,None].astype(float)-middle)**2).sum(2).argmin(1)
    assert (nearest==of[:2000]).mean()>.9

def test_runs_side_by_side():
    a,b,other = (NeighbourHistory(ids=[1,2,3], **o) for o in (dict(title='PSM'), dict(title='MoCo'), dict(n_map=20)))
    train(a, 3)
    train(b, 2, cb=PSMCallback.moco(bank_size=128))
    train(other, 2)
    view = map_view([a,b])
    assert view['epochs']==[0,1,2] and [r['name'] for r in view['runs']]==['PSM','MoCo']
    assert [r['method']['n_pos'] for r in view['runs']]==[6,0]
    assert [r['method']['index'] for r in view['runs']]==[True,False] and [r['start'] for r in view['runs']]==[1,None]
    assert {c['name'] for c in view['columns'] if c.get('run')==1}=={'right','trust','stability','similarity','age','loss','views'}
    with pytest.raises(ValueError, match='same n_map='): map_view([a,other])
    with pytest.raises(ValueError, match='same ids='): map_view([a,NeighbourHistory(ids=[4]).look(train(Spy()))])

def test_a_learner_has_a_map_too():
    "Without a history: its bank and index as they are now, with pictures of all images"
    view = map_view(train(Spy(), 1))
    assert view['epochs']==[1] and len(view['ids'])==200 and (view['thumbs']['place']>=0).all()
    assert (view['runs'][0]['xy']<nowhere).mean()>.9

def test_mining_starts_when_it_does():
    history = NeighbourHistory(n_probes=4)
    train(history, 4, cb=PSMCallback(bank_size=128, mine_after=.5))
    run = map_view(history)['runs'][0]
    assert run['mining']==[False,False,False,True,True] and run['start']==3
    assert next(c for c in run['curves'] if c['name']=='purity_5')['epochs']==[0,1,2,3,4]           # 0 is before training

def test_curves_without_labels(tmp_path, monkeypatch):
    "In curves.png too: agreement and stability take the place of what needs labels, and losses of two methods have an axis each"
    import matplotlib.pyplot as plt
    from psm_fastai import pretrain
    axes,make = [],plt.subplots
    monkeypatch.setattr(plt, 'subplots', lambda *args, **kwargs: axes.append(r := make(*args, **kwargs)) or r)
    class Log: chance = untrained = float('nan')
    log = Log()
    log.frame = pd.DataFrame(dict(epoch=range(3), train_loss=[3.,2.,1.]))
    history = NeighbourHistory(n_probes=4, n_pos=3)
    train(history, 3)
    pretrain.plot_curves({'PSM': log, 'MoCo': log}, tmp_path/'c.png', {'raw pixels': .3}, {'PSM': history})
    fig,axs = axes[-1]
    curves = {c['name']: c for c in map_curves(history)}
    for ax,name in zip(axs[1:], ('agreement','stability')):
        line,c = ax.lines[0],curves[name]
        assert line.get_xydata().tolist()==[list(p) for p in zip(c['epochs'], c['values'])]
    assert [a.get_title() for a in axs]==['training loss','agreement of query and key','stability']
    assert len(fig.axes)==4 and [len(o.lines) for o in (axs[0],fig.axes[3])]==[2,1]

def test_an_index_that_was_not_made_again_tells_nothing_new():
    "Its neighbours are the same ones, which is no sign of stability"
    history = NeighbourHistory(n_probes=4, n_pos=4)
    train(history, 5, cb=PSMCallback(bank_size=128, n_pos=6, mine_after=0., refresh=2))
    stable = {c['name']: c['values'] for c in map_view(history)['columns']}['stability']
    assert all(np.array_equal(stable[e], stable[e-1], equal_nan=True) for e in (2,4))       # made in epochs 1, 3 and 5
    for e in (3,5): assert np.nanmean(stable[e])<.95 and not np.array_equal(stable[e], stable[e-1], equal_nan=True)

def test_columns_count_neighbours():
    history = NeighbourHistory(n_probes=4, n_pos=4)
    train(history, 3)
    view = map_view(history)
    columns,near,labels = {c['name']: c['values'] for c in view['columns']},view['runs'][0]['near'],view['labels']
    for p in range(0, 200, 17):
        n,before = [j for j in near[2][p] if j>=0],{j for j in near[1][p] if j>=0}
        assert abs(columns['right'][2][p]-np.mean([labels[j]==labels[p] for j in n]))<1e-6
        assert abs(columns['stability'][2][p]-np.mean([j in before for j in n]))<1e-6
    feats = torch.nn.functional.normalize(torch.tensor(history.map.parts['feats'][-1]).float(), dim=1)
    far = 1-(feats@feats.T).fill_diagonal_(-9).topk(10).values.mean(1)
    np.testing.assert_allclose(columns['outlier'], far, atol=1e-3)

# ---- other tools

def lesson_code(language):
    cells = json.loads((Path(__file__).parent.parent/'nbs/08d_export.ipynb').read_text())['cells']
    return [c for o in cells if o['cell_type']=='markdown' for c in re.findall(rf'```{language}\n(.*?)```', ''.join(o['source']), re.S)]

@pytest.fixture(scope='module')
def exported(tmp_path_factory):
    path = noise_files(tmp_path_factory.mktemp('map'), [(20,20)]*24)
    history = NeighbourHistory(n_probes=4, n_pos=3)
    quiet(image_dls(path, size=16, bs=8, valid_pct=0), model=tiny(3), cbs=[PSMCallback(bank_size=16, mine_after=0.), history],
          loss_func=no_loss).fit(2)
    history.to_parquet(path/'map.parquet')
    return path,history

def test_embedding_atlas_finds_its_columns(exported):
    "As the lesson calls it; neighbours are rows of the table, as its manual asks"
    path,history = exported
    command = next(c for c in lesson_code('sh') if 'embedding-atlas' in c).split()
    table = pd.read_parquet(path/command[1])
    options = dict(zip(command[2::2], command[3::2]))
    assert {*options}=={'--x','--y','--neighbors','--image'} and {*options.values()} <= {*table}
    assert table[options['--x']].dtype.kind==table[options['--y']].dtype.kind=='f' and table[options['--x']].between(0, 1).all()
    for i,n in enumerate(table[options['--neighbors']]):
        assert {*n}=={'ids','distances'} and len(n['ids'])==len(n['distances']) and all(0<=j<len(table) and j!=i for j in n['ids'])
    at = {id: i for i,id in enumerate(table.id)}
    p = history.map.parts['near'][-1]
    assert [history.map.ids[j] for j in p[5] if j>=0]==[table.id[j] for j in table[options['--neighbors']][at[history.map.ids[5]]]['ids']]
    assert table[options['--image']][0]['bytes'][:4]==b'\x89PNG'

def run_lesson(name, path, monkeypatch, **modules):
    for n,m in modules.items(): monkeypatch.setitem(sys.modules, n.replace('_','.',1) if n.startswith('renumics_') else n, m)
    monkeypatch.chdir(path)
    exec(next(c for c in lesson_code('python') if name in c), {})

def test_spotlight_gets_a_table_that_it_can_show(exported, monkeypatch):
    shown = []
    spotlight = types.ModuleType('renumics.spotlight')
    spotlight.Image,spotlight.Embedding,spotlight.show = 'image','embedding',lambda df, dtype: shown.append((df, dtype))
    package = types.ModuleType('renumics')
    package.spotlight = spotlight
    run_lesson('spotlight', exported[0], monkeypatch, renumics=package, renumics_spotlight=spotlight)
    (df,dtype), = shown
    assert {*dtype} <= {*df} and all(isinstance(b, bytes) for b in df.image) and all(len(p)==2 for p in df.place)
    assert {len(e) for e in df.embedding}=={128}

def test_fiftyone_gets_files_and_places(exported, monkeypatch):
    fo,brain,asked = types.ModuleType('fiftyone'),types.ModuleType('fiftyone.brain'),[]
    class Dataset:
        def __init__(self, name): self.samples = []
        def add_samples(self, samples): self.samples += samples
    class Sample:
        def __init__(self, filepath, **fields): self.filepath,self.fields = filepath,fields
    fo.Dataset,fo.Sample,fo.launch_app,fo.brain = Dataset,Sample,lambda d: asked.append(d),brain
    brain.compute_visualization = lambda samples, points, brain_key: asked.append((samples, points))
    monkeypatch.setitem(sys.modules, 'fiftyone.brain', brain)
    run_lesson('fiftyone', exported[0], monkeypatch, fiftyone=fo)
    (samples,points),launched = asked
    assert launched is samples and points.shape==(24,2) and all(Path(s.filepath).is_file() for s in samples.samples)
    assert all(type(s.fields['trust']) is float and type(s.fields['cluster']) is str for s in samples.samples)

def test_monitors_are_drawn_from_epoch_one():
    "Their tables count from 0, as fastai's do"
    import matplotlib.pyplot as plt
    learn = quiet(cbs=[PSMCallback(bank_size=64, mine_after=.5), PurityCallback(), CollapseCallback()])
    learn.fit(3)
    assert learn.purity.frame.epoch.tolist()==learn.collapse.frame.epoch.tolist()==[0,1,2]
    for cb,title in ((learn.purity,'purity'), (learn.collapse,'std')):
        ax = next(a for a in drawn(cb.plot).axes if a.get_title()==title)
        assert ax.lines[0].get_xdata().tolist()==[1,2,3]
        if title=='purity': assert [p.get_x() for p in ax.patches]==[.5]
    plt.close('all')
