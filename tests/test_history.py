"What a history keeps is what was mined, of the images it says, and stays small"
import re
from types import SimpleNamespace
import numpy as np, pandas as pd, pytest, torch
from fastai.vision.all import CancelFitException, set_seed
from psm_fastai.all import *
from psm_fastai.history import images_at
from psm_fastai.record import MapRecord
from common import *
from data import Images, by_label, digit_files, loaders

@pytest.mark.parametrize('in_memory', [True,False])
def test_ids_are_those_of_the_images_that_the_batches_held(tmp_path, in_memory):
    "The image of an id, decoded from its file, is the one that the batch held, whose key the bank holds under that id"
    digit_files(tmp_path, 60, by_label)
    held = {}
    def keep(cb):
        if cb.training: held.update({i: x for i,x in zip(cb.yb[0].tolist(), cb.xb[0].clone())})
    history = NeighbourHistory(n_probes=8, n_pos=4)
    learn = train(history, dls=image_dls(tmp_path, size=24, bs=8, in_memory=in_memory),
                  cb=PSMCallback(bank_size=30, n_pos=6, n_neg=9, mine_after=0., views=lambda x: (x,x)), cbs=Spy(order=9, before_batch=keep))
    df = history.to_frame()
    asked = sorted(set(df.id)|set(df['query']))
    asked = [i for i in asked if i in held]
    assert len(asked)>20
    for i,x in zip(asked, images_at(learn.dls, asked)[0]):
        assert torch.allclose(x.as_subclass(torch.Tensor), held[i], atol=1e-6)
        with_file = np.asarray(train_image(learn.dls, i).convert('L').resize((24,24))).astype(float)
        assert np.corrcoef(with_file.ravel(), held[i].mean(0).cpu().numpy().ravel())[0,1]>.98
    name = {i: f.parent.name for i,f in enumerate(learn.dls.train_ds.items)}
    assert all(name[i]==l for i,l in zip(df.id, df.label)) and all(name[i]==l for i,l in zip(df['query'], df.query_label))

@pytest.mark.parametrize('settings', [dict(rule='bank'), dict(trust=.5)], ids=['bank','index'])
def test_what_is_kept_is_what_mining_gives(settings):
    history = NeighbourHistory(n_probes=16, n_pos=6, n_neg=12)
    learn = train(history, cb=PSMCallback(bank_size=128, n_pos=6, n_neg=20, mine_after=0., **settings))
    m,df = learn.model,history.to_frame()
    pool = m.loss.pool(m.bank)
    assert (pool is m.bank)==('rule' in settings)
    before = state(learn)
    (_,_),q,k,ids,labels = history.probes(learn)
    assert same(before, state(learn))
    idx,found,weights,allowed = m.loss.candidates(k, ids, m.bank)
    last = df[df.epoch==2]
    pos,neg = last[last.kind=='positive'],last[last.kind=='negative']
    assert pos.id.tolist()==pool.ids[idx][found].tolist() and np.allclose(pos.weight, weights[found].cpu(), atol=1e-6)
    assert pos.age.tolist()==pool.age[idx][found].tolist()
    similarity = (k @ m.bank.feats.T).gather(1, idx) if pool is m.bank else pool.sims[ids]
    assert np.allclose(pos.similarity, similarity[found].cpu(), atol=1e-6) and len(pos)>.9*16*6
    p = draw_probs(q @ m.bank.feats.T, (q*k).sum(1), allowed, m.loss.a, m.loss.b).cpu()
    place = {i: r for r,i in enumerate(m.bank.ids.tolist())}
    row = {i: r for r,i in enumerate(history.ids)}
    assert np.allclose(neg.prob, [p[row[a],place[b]] for a,b in zip(neg['query'], neg.id)], atol=1e-7) and len(neg)==16*12
    pulled = pos[pos.weight>0]
    assert pool is not m.bank or len(pulled)==len(pos)
    assert len(pulled)>16 and not set(zip(pulled['query'], pulled.id)) & set(zip(neg['query'], neg.id))
    assert not neg.duplicated(['query','id']).any()

def test_sixtyfour_probes_and_two_hundred_epochs_stay_under_fifty_megabytes(tmp_path):
    history = NeighbourHistory()
    learn = train(history, 1, dls=digits_dls(bs=64), cb=PSMCallback(n_pos=10, n_neg=256))
    for _ in range(199): history.look(learn)
    history.save(tmp_path/'h')
    held = sum(t.memory_usage(deep=True).sum() for t in history.tables) + history.thumbs.nbytes + history.recent.nbytes
    assert held<50e6 and sum(f.stat().st_size for f in tmp_path.iterdir())<50e6 and len(history.to_frame())==201*64*30

def test_the_budget_is_kept_and_the_last_negatives_have_pictures():
    history = NeighbourHistory(n_probes=8, n_pos=4, n_neg=10, budget=.15)
    train(history, 4)
    last = history.tables[-1]
    assert history.thumbs.nbytes < .15e6+32*32*3+20_000
    assert all(history.thumbs.picture(str(i)) or history.recent.picture(str(i)) for i in set(last.id))

def test_a_resumed_training_keeps_its_history(tmp_path):
    whole_one = NeighbourHistory(n_probes=8, n_pos=4, n_neg=5)
    train(whole_one, 4)
    def stop(cb):
        if cb.epoch==1: raise CancelFitException
    train(NeighbourHistory(n_probes=8, n_pos=4, n_neg=5), 4, cbs=[CheckpointCallback(tmp_path/'c.pth'), Spy(order=80, after_epoch=stop)])
    history = NeighbourHistory(n_probes=8, n_pos=4, n_neg=5)
    train(history, 4, resume=tmp_path/'c.pth')
    pd.testing.assert_frame_equal(history.to_frame(), whole_one.to_frame())
    assert history.thumbs.place==whole_one.thumbs.place

@pytest.mark.parametrize('method', list(psm_methods))
def test_every_method_has_a_history(method, tmp_path):
    history = NeighbourHistory(n_probes=6, n_pos=3, n_neg=5)
    learn = train(history, cb=psm_methods[method](bank_size=200))      # so that each image has a key from the beginning
    df = history.to_frame()
    assert len(df[df.kind=='positive'])==3*6*min(3, learn.model.loss.n_pos or 3)
    assert (df.kind=='negative').any()==(learn.model.loss.n_neg!=0)
    assert df[df.kind=='positive'].weight.notna().all()==(learn.model.loss.n_pos>0)
    neighbour_page(history, tmp_path/'p.html', layout='pca')
    NeighbourExplorer(history, layout='pca')

def test_training_is_the_same_with_and_without_a_history():
    a,b = (train(h, 2) for h in (NeighbourHistory(n_probes=8), Spy()))
    assert same(state(a), state(b))

def test_a_second_fit_that_is_resumed_goes_on_counting(tmp_path):
    def build():
        h = NeighbourHistory(n_probes=4, n_pos=3, n_neg=2)
        return quiet(cbs=[PSMCallback(bank_size=128), h]),h,CheckpointCallback(tmp_path/'c.pth')
    def stop(cb):
        if cb.epoch==0: raise KeyboardInterrupt
    learn,h,saved = build()
    learn.fit(2, cbs=saved)
    with pytest.raises(KeyboardInterrupt): learn.fit(3, cbs=[saved, Spy(order=80, after_epoch=stop)])
    learn,h,saved = build()
    learn.fit(3, cbs=saved, start_epoch=saved.resume(learn))
    assert [m['epoch'] for m in h.epochs]==[0,1,2,3,4,5] and all(len(t)==len(h.tables[0]) for t in h.tables)

@pytest.mark.parametrize('method,mine_after,said', [('pnsm',0.,'This method pulls none of them. The trusted ones are left out'),
                                                    ('pnsm',.9,'and the whole bank as negatives\\.'),
                                                    ('moco',None,'This method mines nothing'),
    ('msf',.9,'took the other view alone as positive\\.'), ('psm',.9,'and the whole bank as negatives\\.'),
    ('psm',0.,r'\d of \d+ have its label and (none|\d+) of \d+ (is|are) pulled\.<'), ('from_bank',0.,r'\d of 10 have its label\.<')])
def test_what_the_panel_says_of_mining(method, mine_after, said):
    h = NeighbourHistory(n_probes=2)
    quiet(cbs=[psm_methods[method](bank_size=128, **({} if method=='moco' else dict(mine_after=mine_after))), h]).fit(2)
    assert re.search(said, neighbour_panel(h, h.ids[0], 1))
    assert ('not in use yet' in neighbour_panel(h, h.ids[0], 1))==(mine_after==.9)
    h.epochs,h.tables = h.epochs[:2],h.tables[:2]          # a training that was cut off before mining began
    assert re.search(said, neighbour_panel(h, h.ids[0], 1))

def test_without_labels_and_with_little(tmp_path):
    digit_files(tmp_path, 20)
    history = NeighbourHistory(n_pos=50, n_neg=50)
    set_seed(0)
    learn = silent(psm_learner(image_dls(tmp_path, size=24, bs=4), tiny(), n_pos=5, n_neg=5))
    learn.add_cb(history)
    learn.fit(1)
    df = history.to_frame()
    assert df.right.isna().all() and df.label.isna().all() and len(df)
    explorer = NeighbourExplorer(history, layout='pca')
    assert explorer.view['labelled'] is False and '✓' not in explorer.picture().data
    assert '✗' not in neighbour_panel(history, history.ids[0], 1)
    neighbour_page(history, tmp_path/'p.html', layout='pca')

def test_shares_of_an_index_add_up_to_the_loss(learn):
    "A row for each trusted neighbour that has a key"
    index = learn.model.loss.index
    index.trust.zero_()
    index.trust[7,:3] = torch.tensor([.5,.2,.3])
    near = index.near[7,:3].tolist()
    index.steps[near] = 0
    index.feats[near] = torch.nn.functional.normalize(torch.randn(3, 128), dim=1).to(index.feats)
    df = learn.explain_loss(7)
    for kind in ('positive','negative'): assert abs(df[df.kind==kind].share.sum()-df.attrs['loss'])<1e-5
    pos = df[df.kind=='positive']
    assert pos.id.tolist()==[7,*near] and np.allclose(pos.weight, [.5,.25,.1,.15], atol=1e-6)
    assert not {7,*near} & {*df.id[df.kind=='negative']}

def test_live_grid_is_silent_outside_a_notebook(capsys):
    learn = train(NeighbourGrid())
    assert capsys.readouterr().out=='' and not learn.neighbour_grid.history.tables

def test_live_grid(monkeypatch):
    shown = []
    class Out:
        def update(self, o): shown.append(o.data)
    monkeypatch.setattr('psm_fastai.explorer.in_notebook', lambda: True)
    monkeypatch.setattr('psm_fastai.explorer.display', lambda o, display_id: Out())
    train(NeighbourGrid(n=3, k=4), 3)
    assert len(shown)==3 and 'After epoch 3' in shown[2] and shown[2].count('<img')==3*5

def test_a_data_set_that_draws_is_not_disturbed():
    states = []
    for h in (NeighbourHistory(n_probes=8), Spy()):
        set_seed(0)
        learn = quiet(loaders(Images(64, label=lambda i: i%4, change=torch.rand_like)), cbs=[PSMCallback(), h], loss_func=no_loss)
        learn.fit(2)
        states.append(state(learn))
    assert same(*states)

def test_images_that_are_not_there_and_labels_that_are_not_known(learn):
    for bad in (-1, 10**6):
        with pytest.raises(ValueError, match='place in the training set, 0 to 199'): learn.explain_loss(bad)
        with pytest.raises(ValueError, match='place in the training set, 0 to 199'): NeighbourHistory(ids=[bad]).look(learn)
    with pytest.raises(ValueError, match='at least one image'): NeighbourHistory(ids=[])
    learn.model.bank.labels[::2] = -1
    texts = [ax.get_title() for show in (lambda: learn.show_loss(3), learn.show_neighbours) for ax in drawn(show).axes]
    assert not any('nan' in t for t in texts)

def test_the_lab_moves_the_trust_of_an_index():
    "As training would with this setting, and nothing of the learner's own"
    set_seed(0)
    learn = quiet(cbs=[PSMCallback(bank_size=200, n_pos=6, trust=.3, mine_after=0.)])
    learn.fit(1)
    before,lab = state(learn),MiningLab(learn, ids=range(8))
    assert {n: c.value for n,c in lab.controls.items()}==dict(n_pos=6, n_neg=200, a=5., b=-.4, hard_weight=.5, trust=.3)
    index,shown = learn.model.loss.index,[]
    for share in (.05, 1., 'auto', .3):
        lab.controls['trust'].value = share
        want = trust_pairs(index.right, index.sims, share)[:8]*index.ready[index.near[:8].long()]
        rows = [lab.history.rows(i, 1)[0] for i in range(8)]
        assert np.allclose([sum(r['weight'] for r in o) for o in rows], (want.sum(1)>0).float(), atol=1e-5)
        assert [sum(r['weight']>0 for r in o) for o in rows]==(want>0).sum(1).tolist()
        shown.append(lab.view.value)
        assert (lab.view.value.count('weight 0<'))==sum(r['weight']==0 for r in lab.history.rows(lab.query.value, 1)[0])
    assert shown[0]!=shown[1]!=shown[3] and same(before, state(learn))

def test_fewer_images_keep_their_own_keys():
    "The key of an image that leaves the map goes to no other one"
    record,m = MapRecord(),SimpleNamespace(bank=SimpleNamespace(feats=torch.zeros(1, 2)))
    record.begin(m, np.arange(4))
    record.keys.steps[:] = [5,6,7,8]
    record.begin(m, np.array([0,2]))
    assert record.keys.steps.tolist()==[5,7]
