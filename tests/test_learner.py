"A Learner's life with PSMCallback, and the traps that others fell into"
import copy, math
import numpy as np, pytest, torch
from fastai.vision.all import (Callback, CancelBatchException, CancelStepException, CrossEntropyLossFlat, DataLoaders, ImageDataLoaders, Learner, Normalize, ProgressCallback,
    Resize, SkipItemException, TensorImage, TfmdDL, accuracy, create_body, imagenet_stats, load_learner, nn, noop, params, resnet18, set_seed, tensor)
from psm_fastai.all import *

def tiny(): return nn.Sequential(nn.Conv2d(1, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 3, 2))
def state(learn): return {n: t.clone() for n,t in learn.model.state_dict().items()}
def same(a, b): return a.keys()==b.keys() and all(torch.equal(a[n], b[n]) for n in a)
def quiet(dls=None, *, cbs=None, model=None, **kwargs):
    learn = Learner(dls or digits_dls(bs=32, limit=200), model or tiny(), cbs=cbs, **kwargs)
    learn.remove_cb(ProgressCallback)
    learn.logger = noop
    return learn

@pytest.fixture
def learn():
    set_seed(0)
    l = quiet(cbs=[PSMCallback(bank_size=128, mine_after=.3)])
    l.fit_one_cycle(2, 1e-3)
    return l

@pytest.mark.parametrize('way', ['Learner', 'add_cb', 'fit', 'fit_one_cycle'])
def test_every_way_in_trains_the_same(way):
    set_seed(0)
    encoder,cb = tiny(),PSMCallback(bank_size=128)
    dls = digits_dls(bs=32, limit=200)
    learn = quiet(dls, model=encoder, cbs=[cb] if way=='Learner' else None)
    if way=='add_cb': learn.add_cb(cb)
    start = copy.deepcopy(encoder.state_dict())
    getattr(learn, way if way.startswith('fit') else 'fit_one_cycle')(1, 1e-3, cbs=[cb] if way.startswith('fit') else None)
    if not way.startswith('fit'):
        assert learn.model.encoder is encoder
        learn.remove_cb(cb)
    assert learn.model is encoder and isinstance(learn.loss_func.loss, CrossEntropyLossFlat) and not learn.metrics and learn.opt is None
    assert not any(torch.equal(start[n], p) for n,p in encoder.named_parameters())
    assert len(cb.net.bank)==128
    assert (cb.net.bank.labels==tensor([dls.train_ds[i][1] for i in cb.net.bank.ids.tolist()])).all()

def test_looking_changes_nothing(learn):
    "self_supervised #56, fastai #2892: `summary` or `lr_find` fills the queue"
    before = state(learn)
    learn.summary()
    learn.validate()
    learn.get_preds()
    learn.predict(learn.dls.valid_ds[0][0])
    assert same(before, state(learn))
    torch_rng = torch.get_rng_state()
    learn.knn_accuracy()
    mined_neighbours(learn)
    assert same(before, state(learn)) and torch.equal(torch_rng, torch.get_rng_state())

def test_predictions_are_features(learn):
    x = learn.dls.valid.one_batch()[0]
    want = learn.model.encoder.eval()(x).mean((2,3))
    feats,targs = learn.get_preds()
    assert torch.allclose(feats[:len(x)], want, atol=1e-5) and len(targs)==450
    assert torch.allclose(learn.predict(learn.dls.valid_ds[3][0])[2], want[3], atol=1e-5)

def test_lr_find_suggests_and_restores():
    set_seed(0)
    learn = quiet(cbs=[PSMCallback(bank_size=128)])
    before = state(learn)
    assert 1e-7 < learn.lr_find(show_plot=False).valley < 10
    assert same(before, state(learn))

def test_own_keys_are_never_negatives(monkeypatch):
    "lightly #564: a batch's own keys become its negatives; moco #146: so do older keys of the same image, where the bank is larger than the data"
    seen,mine = [],PSMLoss.mine
    def spy(self, q, k, ids, bank):
        mined = mine(self, q, k, ids, bank)
        for idx,ok in ((mined.pos_idx,mined.pos_found),(mined.neg_idx,mined.neg_mask)): seen.append((ids, bank.ids[idx], ok, bank.ids.clone()))
        return mined
    monkeypatch.setattr(PSMLoss, 'mine', spy)
    class Batch(Callback):
        order = 9
        def before_batch(self): self.n = len(seen)
        def after_loss(self):
            for ids,rows,ok,bank in seen[self.n:]:
                if not self.training: continue
                assert torch.equal(ids, self.yb[0]) and ok.any()
                assert not ((rows==ids[:,None]) & ok).any()
    quiet(cbs=[PSMCallback(bank_size=500, k=5, n_neg=50, mine_after=0), Batch()]).fit(3)
    assert max(int((bank==ids[:,None]).sum()) for ids,_,_,bank in seen) > 32     # the bank did hold several keys of these images

def test_what_was_mined_is_known_after_loading(tmp_path):
    learn = quiet(cbs=[PSMCallback(bank_size=128, mine_after=1.)])
    learn.fit(1)
    assert not learn.model.loss.mining
    set_seed(0)
    want = learn.validate()
    learn.save(tmp_path/'m')
    again = quiet(cbs=[PSMCallback(bank_size=128)])
    again.load(tmp_path/'m')
    set_seed(0)
    assert not again.model.loss.mining and again.validate()[0]==want[0]

def test_a_last_batch_of_one_image_is_refused():
    def dls(n, **kwargs): return DataLoaders(TfmdDL(Marked(n), bs=8, num_workers=0, **kwargs), TfmdDL(Marked(8), bs=8, num_workers=0))
    with pytest.raises(ValueError, match='33 images in batches of 8 leave one for the last batch'): quiet(dls(33), cbs=[PSMCallback()], loss_func=no_loss)
    for d in (dls(33, drop_last=True), dls(34)): quiet(d, cbs=[PSMCallback()], loss_func=no_loss).fit(1)

def test_features_refuse_skipped_items():
    d = DataLoaders(*(TfmdDL(Marked(40, skip=s), bs=8, num_workers=0) for s in (3,None)))
    l = quiet(d, loss_func=no_loss)
    with pytest.raises(RuntimeError, match='Leave the item out of the data set'): l.features()
    assert len(l.features(1))==40

class Marked:
    "Images whose pixels tell their ids; one may be skipped"
    def __init__(self, n, skip=None): self.n,self.skip = n,skip
    def __len__(self): return self.n
    def __getitem__(self, i):
        if i==self.skip: raise SkipItemException
        return TensorImage(torch.full((1,16,16), i/self.n) + .01*torch.rand(1,16,16)),tensor(i%3)

@pytest.mark.parametrize('workers', [0,2])
def test_ids_are_those_of_the_pixels(workers):
    class Spy(Callback):
        order = 7
        def before_batch(self): self.truth = ((self.x.amin((1,2,3)))*70).round().long().as_subclass(torch.Tensor)
        def after_pred(self):
            if self.training: assert torch.equal(self.yb[0], self.truth)
    dls = DataLoaders(TfmdDL(Marked(70), bs=16, shuffle=True, num_workers=workers), TfmdDL(Marked(20), bs=16, num_workers=0))
    learn = quiet(dls, model=tiny(), loss_func=noop, cbs=[PSMCallback(bank_size=32, views=lambda x: (x,x)), Spy()])
    learn.fit(2)
    with pytest.raises(RuntimeError, match='The loader skips an item'):
        quiet(DataLoaders(TfmdDL(Marked(70, skip=5), bs=16, shuffle=True, drop_last=True, num_workers=workers), TfmdDL(Marked(20), bs=16)),
              loss_func=noop, cbs=[PSMCallback(bank_size=70, views=lambda x: (x,x))]).fit(1)

def test_a_guest_that_is_turned_away_changes_nothing():
    learn = quiet(metrics=accuracy)
    model,loss,cb = learn.model,learn.loss_func,PSMCallback(bank_size=64)
    for bad in (cb, PSMLossCallback()):
        with pytest.raises((ValueError,TypeError)): learn.add_cb(bad)
        assert learn.model is model and learn.loss_func is loss and bad not in learn.cbs and bad.learn is None
    learn.metrics = None
    learn.add_cb(cb)
    assert isinstance(learn.model, PSMModel)
    with pytest.raises(ValueError, match='has a PSMModel already'): learn.add_cb(PSMCallback())
    with pytest.raises(ValueError, match='bank_size would be lost'): psm_learner(learn.dls, bank_size=7, cbs=PSMCallback())

def test_other_data_empties_the_bank_and_has_its_own_normalisation():
    views = digit_views()
    learn = quiet(cbs=[PSMCallback(bank_size=100, views=views)])
    learn.fit(1)
    assert int(learn.model.bank.ids.max()) > 40
    learn.dls = digits_dls(moved=False, bs=8, limit=40)
    learn.fit(1)
    bank = learn.model.bank
    assert int(bank.ids.max()) < 40 and views.norm is None
    assert all(int(bank.labels[r])==learn.dls.train_ds[int(bank.ids[r])][1] for r in range(len(bank)))

def test_export_and_copy(learn, tmp_path):
    learn.path = tmp_path
    im = learn.dls.valid_ds[0][0]
    learn.export('e.pkl')
    assert (tmp_path/'e.pkl').stat().st_size < 2_000_000      # no images in it
    assert torch.allclose(load_learner(tmp_path/'e.pkl').predict(im)[2], learn.predict(im)[2], atol=1e-5)
    copied = copy.deepcopy(learn)
    copied.fit(1)
    assert not same(state(learn), state(copied))

def test_an_encoder_of_the_users_may_have_an_encoder():
    class Auto(nn.Module):
        def __init__(self): super().__init__(); self.encoder,self.rest = nn.Conv2d(1, 4, 3),nn.Conv2d(4, 8, 3)
        def forward(self, x): return self.rest(self.encoder(x))
    learn = quiet(model=Auto(), cbs=[PSMCallback(bank_size=64)])
    assert encoder_features(learn, 1)[0].shape==(450,8)
    learn.remove_cb(PSMCallback)
    assert encoder_features(learn, 1)[0].shape==(450,8)

def test_a_batch_enters_once_and_in_order():
    class Spy(Callback):
        order = 40
        def after_pred(self): self.k = self.pred[1].clone() if self.training else None
        def before_batch(self): self.step = int(self.model.bank.step)
        def after_batch(self):
            if not self.training: return
            bank,n = self.model.bank,len(self.k)
            assert int(bank.step)==self.step+1
            rows = (int(bank.ptr)-n+torch.arange(n)) % len(bank.ids)
            assert torch.equal(bank.feats[rows], self.k) and torch.equal(bank.ids[rows], self.yb[0])
    dls = digits_dls(bs=48, limit=200)
    dls.train.drop_last = False      # mmselfsup #106, moco PR 100: the last, shorter batch breaks the queue
    quiet(dls, cbs=[PSMCallback(bank_size=100), Spy()]).fit(2)

def test_cancelled_batches_and_steps():
    class Cancel(Callback):
        order = 9
        def before_batch(self):
            if self.training and self.iter==1: raise CancelBatchException
        def before_step(self):
            if self.iter==2: self.was = [p.clone() for p in self.model.momentum_encoder.parameters()]; raise CancelStepException
        def after_batch(self):
            if self.training and self.iter==2: assert all(map(torch.equal, self.was, self.model.momentum_encoder.parameters()))
    learn = quiet(cbs=[PSMCallback(bank_size=1000), Cancel()])
    learn.fit(1)
    assert len(learn.model.bank)==200 + 5*32      # primed with all 200, then six batches less the cancelled one

def test_bank_stays_normalised_and_loss_leaves_its_start(learn):
    "lightly #1009: rows lose their normalisation, and the loss sticks at ln(K+1)"
    assert torch.allclose(learn.model.bank.feats.norm(dim=1), torch.ones(128), atol=1e-5)
    learn.fit_one_cycle(6, 3e-3)
    assert learn.recorder.losses[-1] < math.log(129)-.3

def test_the_bank_travels_with_the_model(learn, tmp_path):
    "lightly: the bank is lost on resume"
    learn.path = tmp_path
    learn.save('m')
    other = quiet(cbs=[PSMCallback(bank_size=128)])
    other.path = tmp_path
    other.load('m')
    assert same(state(learn), state(other))

def test_momentum_network_follows_by_formula():
    set_seed(0)
    learn = quiet(cbs=[PSMCallback(bank_size=64, momentum=.9)])
    want = []
    class Spy(Callback):
        order = 4     # before PSMCallback
        def after_step(self):
            m = self.model
            want[:] = [.9*s+.1*p for s,p in zip(m.momentum_encoder.parameters(), m.encoder.parameters())]
        def after_batch(self):
            if self.training: assert all(torch.allclose(w, s, atol=1e-6) for w,s in zip(want, self.model.momentum_encoder.parameters()))
    learn.fit(1, cbs=[Spy()])
    assert want

def test_priming_leaves_statistics_and_random_numbers():
    learn = quiet(cbs=[PSMCallback(bank_size=64)])
    m,cb = learn.model,learn.psm.parts[2]
    before,rng,dl_rng,np_rng = state(learn),torch.get_rng_state(),learn.dls.train.rng.getstate(),np.random.get_state()[1].copy()
    m.train()
    cb.prime()
    assert len(m.bank)==64 and m.bank.ids.unique().numel()==64
    after = state(learn)
    assert all(torch.equal(before[n], after[n]) for n in before if not n.startswith('bank'))
    assert torch.equal(rng, torch.get_rng_state()) and dl_rng==learn.dls.train.rng.getstate() and (np_rng==np.random.get_state()[1]).all()

def test_warm_up_is_moco_bit_for_bit():
    losses = []
    for cb in (PSMCallback(bank_size=128, mine_after=1., n_neg=20), PSMCallback.moco(bank_size=128)):
        set_seed(0)
        learn = quiet(cbs=[cb])
        set_seed(1)
        learn.fit(2, 1e-3)
        losses.append(torch.stack(list(learn.recorder.losses)))
    assert torch.equal(*losses)

def test_purity_column_is_the_share_of_right_neighbours():
    "self_supervised: a metric reads the wrong neighbour column"
    shares = []
    class Spy(Callback):
        def after_loss(self):
            if not self.training: return
            (q,k),(ids,labels),m = [t.detach() for t in self.pred],self.yb,self.model
            for i in range(len(q)):
                s = (m.bank.feats @ k[i]).masked_fill((m.bank.ids==ids[i]) | ~m.bank.ready, -9)
                shares.append((m.bank.labels[s.topk(7).indices]==labels[i]).float().mean().item())
    learn = quiet(cbs=[PSMCallback(bank_size=128, k=7), Spy()])
    learn.fit(1)
    assert abs(learn.recorder.values[-1][2]-np.mean(shares)) < 1e-5

@pytest.mark.parametrize('fn,labelled', [('flat',False), ('classes',True)])
def test_folders_and_a_resnet(tmp_path, fn, labelled):
    for i,(im,y) in enumerate(digits_dls(limit=40).train_ds):
        p = tmp_path/(str(int(y)) if labelled else '.')
        p.mkdir(exist_ok=True)
        im.save(p/f'{i}.png')
    dls = image_dls(tmp_path, size=32, bs=8)
    learn = psm_learner(dls, 'resnet18', views=digit_views(), bank_size=32)
    learn.remove_cb(ProgressCallback); learn.logger = noop
    learn.fit(1)
    assert ('purity' in learn.recorder.metric_names)==labelled
    assert len(mined_neighbours(learn, n=3, k=2))==6
    assert learn.get_preds(ds_idx=1)[0].shape==(8,512)
    if not labelled:
        with pytest.raises(ValueError, match='needs a label'): learn.knn_accuracy()

def test_three_lines_with_plain_fastai(tmp_path):
    for i,(im,y) in enumerate(digits_dls(limit=80).train_ds):
        (tmp_path/str(int(y))).mkdir(exist_ok=True)
        im.save(tmp_path/str(int(y))/f'{i}.png')
    dls = ImageDataLoaders.from_folder(tmp_path, valid_pct=.2, item_tfms=Resize(32), batch_tfms=Normalize.from_stats(*imagenet_stats, cuda=False), bs=16)
    learn = quiet(dls, model=create_body(resnet18(), pretrained=False), cbs=[PSMCallback(views=digit_views())], splitter=lambda m: [params(m[:5]),params(m[5:])])
    learn.fit_one_cycle(1, 1e-3)
    assert len(learn.opt.param_groups)==2 and sum(len(g['params']) for g in learn.opt.param_groups)==len([p for p in learn.model.parameters() if p.requires_grad])
    plain = quiet(dls, model=create_body(resnet18(), pretrained=False), splitter=lambda m: [params(m[:5]),params(m[5:])])
    plain.fit_one_cycle(1, slice(1e-4,1e-3), cbs=PSMCallback(views=digit_views()))

def test_bad_input_is_refused_with_a_reason():
    with pytest.raises(ValueError, match='accuracy'): quiet(cbs=[PSMCallback()], metrics=accuracy)
    with pytest.raises(ValueError, match='gives no batch: 20 images, batch size 32'): quiet(digits_dls(bs=32, limit=20), cbs=[PSMCallback()]).fit(1)
    with pytest.raises(TypeError, match=r'it returned a tensor of shape \[2, 1, 576\]'): quiet(model=nn.Sequential(nn.Flatten(2)), cbs=[PSMCallback()])
    with pytest.raises(TypeError, match='Use PSMCallback'): quiet(cbs=[MomentumCallback()]).fit(1)
    with pytest.raises(ValueError, match='The batch size is 1|the batch size is 1, and there are 20 images'): quiet(digits_dls(bs=1, limit=20), cbs=[PSMCallback()])
    class Two(nn.Module):
        def __init__(self): super().__init__(); self.net = tiny()
        def forward(self, x): return (self.net(x),)*2 if self.training else self.net(x)
    with pytest.raises(TypeError, match='it returned a tuple'): quiet(model=Two(), cbs=[PSMCallback()]).fit(1)
    with pytest.raises(ValueError, match='need 3 channels'): quiet(cbs=[PSMCallback(views=photo_views())]).fit(1)
    with pytest.raises(ValueError, match='n_neg must be a whole number or None'): PSMCallback(n_neg=-1)

def test_images_that_break_are_named():
    class Poison(Callback):
        order = 9
        def before_batch(self):
            if self.training and self.iter==2: self.xb[1][3] = torch.nan
    learn = quiet(cbs=[PSMCallback(bank_size=128), Poison()])
    with pytest.raises(ValueError, match=r'32 keys .* the first from the images with ids \[\d+, '): learn.fit(1)   # batch-norm spreads the nan over the batch
    assert learn.model.bank.feats.isfinite().all()
