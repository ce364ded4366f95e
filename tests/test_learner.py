"A learner with PSMCallback: the ways in and out, ids, settings, and what is refused"
import copy, warnings
import pytest, torch
from fastai.vision.all import (Callback, CategoryBlock, CrossEntropyLossFlat, DataBlock, DataLoaders, EarlyStoppingCallback, ImageBlock,
    ImageDataLoaders, ItemGetter, Normalize, PILImageBW, RandomSplitter, ReduceLROnPlateau, Resize, SGD, TfmdDL, accuracy,
    create_body, imagenet_stats, load_learner, nn, noop, params, resnet18, set_seed, tensor)
from psm_fastai.all import *
from common import *
from data import Images, Told, by_label, digit_files, places

def test_modules_of_users_may_have_any_attribute():
    class Module(nn.Module):
        def __init__(self): super().__init__(); self.net = self.encoder = self.bank = tiny()
        def forward(self, x): return self.net(x)
    with warnings.catch_warnings():
        warnings.filterwarnings('error', message='You are shadowing')
        cb,learn = PSMCallback(bank_size=64),quiet(model=Module())
        learn.fit(1, cbs=[cb])
    assert len(cb.psm_net.bank)==64

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
    assert not any(torch.equal(start[n].cpu(), p.cpu()) for n,p in encoder.named_parameters())
    assert len(cb.psm_net.bank)==128
    assert (cb.psm_net.bank.labels.cpu()==tensor([dls.train_ds[i][1] for i in cb.psm_net.bank.ids.tolist()])).all()

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

@pytest.mark.guarantee('sizes')
def test_a_last_batch_of_one_image_is_refused():
    def dls(n, **kwargs): return DataLoaders(TfmdDL(Told(n), bs=8, num_workers=0, **kwargs), TfmdDL(Told(8), bs=8, num_workers=0))
    with pytest.raises(ValueError, match='33 images in batches of 8 leave one for the last batch'):
        quiet(dls(33), cbs=[PSMCallback()], loss_func=no_loss)
    for d in (dls(33, drop_last=True), dls(34)): quiet(d, cbs=[PSMCallback()], loss_func=no_loss).fit(1)

@pytest.mark.guarantee('loaders')
def test_features_refuse_skipped_items():
    d = DataLoaders(*(TfmdDL(Told(40, skip=s), bs=8, num_workers=0) for s in (3,None)))
    l = quiet(d, loss_func=no_loss)
    with pytest.raises(RuntimeError, match='Leave the item out of the data set'): l.features()
    assert len(l.features(1))==40

@pytest.mark.guarantee('loaders')
@pytest.mark.parametrize('workers', [0,2])
def test_ids_are_those_of_the_pixels(workers):
    def look(cb): cb.truth = places(cb.x, 70)
    def compare(cb):
        if cb.training: assert torch.equal(cb.yb[0].cpu(), cb.truth)
    dls = DataLoaders(TfmdDL(Told(70), bs=16, shuffle=True, num_workers=workers), TfmdDL(Told(20), bs=16, num_workers=0))
    learn = quiet(dls, model=tiny(), loss_func=noop, cbs=[PSMCallback(bank_size=32, views=lambda x: (x,x)),
                                                          Spy(order=7, before_batch=look, after_pred=compare)])
    learn.fit(2)
    with pytest.raises(RuntimeError, match='The loader skips an item'):
        quiet(DataLoaders(TfmdDL(Told(70, skip=5), bs=16, shuffle=True, drop_last=True, num_workers=workers), TfmdDL(Told(20), bs=16)),
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
    with pytest.raises(TypeError, match='PSMCallback, which has no opt_func. .*rguments of the Learner'):
        psm_learner(learn.dls, opt_func=SGD)

def test_a_guest_that_is_interrupted_can_be_given_again(monkeypatch):
    learn,cb = quiet(),PSMCallback(bank_size=64)
    model = learn.model
    def stop(self): raise KeyboardInterrupt
    with monkeypatch.context() as m:
        m.setattr(PSMLossCallback, 'attach', stop)
        with pytest.raises(KeyboardInterrupt): learn.add_cb(cb)
    assert learn.model is model and cb.learn is None
    if cb in learn.cbs: learn.cbs.remove(cb)
    learn.add_cb(cb)
    learn.fit(1)
    assert len(learn.model.bank)==64

def test_an_encoder_of_the_users_may_have_an_encoder():
    class Auto(nn.Module):
        def __init__(self): super().__init__(); self.encoder,self.rest = nn.Conv2d(1, 4, 3),nn.Conv2d(4, 8, 3)
        def forward(self, x): return self.rest(self.encoder(x))
    learn = quiet(model=Auto(), cbs=[PSMCallback(bank_size=64)])
    assert encoder_features(learn, 1)[0].shape==(450,8)
    learn.remove_cb(PSMCallback)
    assert encoder_features(learn, 1)[0].shape==(450,8)

@pytest.mark.parametrize('fn,labelled', [('flat',False), ('classes',True)])
def test_folders_and_a_resnet(tmp_path, fn, labelled):
    digit_files(tmp_path, 40, *[by_label]*labelled)
    dls = image_dls(tmp_path, size=32, bs=8)
    learn = silent(psm_learner(dls, 'resnet18', views=digit_views(), bank_size=32, pretrained=False))
    learn.fit(1)
    assert ('purity' in learn.recorder.metric_names)==labelled
    assert len(mined_neighbours(learn, n=3, k=2))==6
    assert learn.get_preds(ds_idx=1)[0].shape==(8,512)
    if not labelled:
        with pytest.raises(ValueError, match='needs a label'): learn.knn_accuracy()

def test_three_lines_with_plain_fastai(tmp_path):
    digit_files(tmp_path, 80, by_label)
    dls = ImageDataLoaders.from_folder(tmp_path, valid_pct=.2, item_tfms=Resize(32),
                                       batch_tfms=Normalize.from_stats(*imagenet_stats, cuda=False), bs=16)
    learn = quiet(dls, model=create_body(resnet18(), pretrained=False), cbs=[PSMCallback(views=digit_views())],
                  splitter=lambda m: [params(m[:5]),params(m[5:])])
    learn.fit_one_cycle(1, 1e-3)
    assert len(learn.opt.param_groups)==2
    assert sum(len(g['params']) for g in learn.opt.param_groups)==len([p for p in learn.model.parameters() if p.requires_grad])
    plain = quiet(dls, model=create_body(resnet18(), pretrained=False), splitter=lambda m: [params(m[:5]),params(m[5:])])
    plain.fit_one_cycle(1, slice(1e-4,1e-3), cbs=PSMCallback(views=digit_views()))

def test_an_encoder_that_returns_something_else_in_training_is_refused():
    class Two(nn.Module):
        def __init__(self): super().__init__(); self.net = tiny()
        def forward(self, x): return (self.net(x),)*2 if self.training else self.net(x)
    with pytest.raises(TypeError, match='it returned a tuple'): quiet(model=Two(), cbs=[PSMCallback()]).fit(1)

def test_images_that_break_are_named():
    class Poison(Callback):
        order = 9
        def before_batch(self):
            if self.training and self.iter==2: self.xb[1][3] = torch.nan
    learn = quiet(cbs=[PSMCallback(bank_size=128), Poison()])
    said = 'The loss is not finite for' if learn.dls.device.type=='cpu' else 'did not enter the memory bank, the first from'
    with pytest.raises(ValueError, match=said+r' the images with ids \[\d+, '): learn.fit(1)   # batch-norm spreads the nan over the batch
    assert learn.model.bank.feats.isfinite().all()

@pytest.mark.guarantee('export')
def test_export_and_copy(learn, tmp_path):
    learn.path = tmp_path
    im = learn.dls.valid_ds[0][0]
    learn.export('e.pkl')
    assert (tmp_path/'e.pkl').stat().st_size < 2_000_000      # no images in it
    assert torch.allclose(load_learner(tmp_path/'e.pkl').predict(im)[2], learn.predict(im)[2], atol=1e-5)
    copied = copy.deepcopy(learn)
    copied.fit(1)
    assert not same(state(learn), state(copied))

def test_accuracy_needs_validation_images_from_the_start():
    block = DataBlock((ImageBlock(PILImageBW), CategoryBlock), get_x=ItemGetter(0), get_y=ItemGetter(1), splitter=RandomSplitter(0.))
    dls = block.dataloaders([*digits_dls(limit=64).train_ds], bs=32)
    learn = quiet(dls, cbs=[PSMCallback(views=mirror)])
    learn.fit(1)
    with pytest.raises(ValueError, match="measured on a validation set, and this learner's dls have none"): learn.add_cb(KNNCallback())

def test_data_parallel_does_not_mix_up_images():
    for symmetric in (False,True):
        learn = quiet(cbs=[PSMCallback(bank_size=64, symmetric=symmetric)])
        learn.model = nn.DataParallel(learn.model)          # without a GPU it calls the module itself
        if symmetric:
            with pytest.raises(TypeError, match='would mix up queries and keys'): learn.fit(1)
        else: learn.fit(1)

def test_metrics_that_come_later_are_refused():
    learn = quiet(cbs=[PSMCallback(bank_size=64)])
    learn.metrics = accuracy
    with pytest.raises(ValueError, match=r"Metrics \['accuracy'\] compare predictions"): learn.fit(1)

def test_a_second_guest_with_the_same_columns_is_refused():
    "So that a cell that is run again does not measure everything twice"
    learn = quiet(cbs=[PSMCallback(bank_size=64), KNNCallback()])
    with pytest.raises(ValueError, match='has a KNNCallback already.*learn.remove_cb'): learn.add_cb(KNNCallback(every=2))
    with pytest.raises(ValueError, match='already'): learn.fit(1, cbs=KNNCallback())
    learn.remove_cb(learn.knn)
    learn.fit(1, cbs=KNNCallback())
    learn.fit(1, cbs=KNNCallback())
    assert [*learn.recorder.metric_names].count('knn_acc')==1 and not any(m.name=='knn_acc' for m in learn.metrics)

def test_accuracy_is_measured_when_validation_is_asked_for():
    learn = quiet(cbs=[PSMCallback(bank_size=64), KNNCallback()])
    learn.fit(2, 1e-3)
    trained = learn.validate()[-1]
    assert trained==learn.recorder.values[-1][-1]==float(learn.knn_accuracy())
    for p in learn.model.encoder.parameters(): nn.init.zeros_(p)
    assert learn.validate()[-1]==float(learn.knn_accuracy())!=trained

def test_trackers_with_patience_need_a_measurement_each_epoch():
    learn = quiet(cbs=[PSMCallback(bank_size=64), KNNCallback(every=2)])
    for cb in (EarlyStoppingCallback(monitor='knn_acc', patience=1), ReduceLROnPlateau(monitor='knn_acc')):
        with pytest.raises(ValueError, match=f'{cb.name} would take each epoch'): learn.fit(1, cbs=cb)
    learn.fit(3, cbs=EarlyStoppingCallback(monitor='train_loss', patience=5))
    assert [v==v for v in (row[-1] for row in learn.recorder.values)]==[False,True,True]

def test_accuracy_says_which_labels_are_missing():
    labelled,bare = digits_dls(bs=32, limit=64).train,TfmdDL(Images(40, (1,24,24)), bs=32)
    learn = quiet(DataLoaders(labelled, bare), cbs=[PSMCallback(bank_size=64)])
    with pytest.raises(ValueError, match='those of the validation set have none'): learn.add_cb(KNNCallback())
    with pytest.raises(ValueError, match='none is known in the validation set'): learn.knn_accuracy()
