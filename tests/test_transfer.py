"The way out: files, classifiers, tables, new images; evaluation, loggers and the table before the first epoch"
import pickle, subprocess, sys
import numpy as np, pandas as pd, pytest, torch
from pathlib import Path
from fastai.callback.tensorboard import TensorBoardCallback
from fastai.vision.all import (BCEWithLogitsLossFlat, Callback, CancelFitException, CSVLogger, DataBlock, ImageBlock, Learner,
    MultiCategoryBlock, Normalize, PILImageBW, RegressionBlock, accuracy_multi, create_body, get_image_files, load_learner, set_seed)
from psm_fastai.all import *
from torchvision.models import ResNet18_Weights, resnet18
from urllib.error import URLError
from common import quiet, same, silent
from data import Images, digit_files, loaders, pixels, save_all

@pytest.fixture(scope='module')
def learn():
    set_seed(0)
    l = silent(psm_learner(digits_dls(bs=50, limit=400), bank_size=200, momentum=.9))
    l.fit_one_cycle(3, 5e-3)
    return l

@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    return digit_files(tmp_path_factory.mktemp('digits'), 40, lambda i,y: f'{i%4}/{i}.png')

@pytest.mark.parametrize('arch', ['small_resnet', 'cifar_resnet18', 'resnet18', 'timm/resnet10t'])
def test_an_encoder_is_rebuilt_from_its_file_alone(arch, tmp_path):
    l = silent(psm_learner(digits_dls(bs=20, limit=60), arch, bank_size=50, pretrained=False))
    l.fit(1)
    l.save_encoder(tmp_path/'e.safetensors')
    again = load_encoder(tmp_path/'e.safetensors')
    x = l.dls.valid.one_batch()[0]
    assert torch.equal(again.to(x.device)(x), l.model.encoder.eval()(x)) and again.images==dict(n_in=1, size=[24,24], **image_stats(l.dls))
    silent(psm_learner(l.dls, again)).fit(1)                 # and may be where another training begins

def several(x): return ['a','b'] if int(x.stem)%2 else ['b']

def test_targets_that_are_no_classes_need_a_loss(learn, folder):
    files = get_image_files(folder)
    norm = Normalize.from_stats(*image_stats(learn.dls).values(), cuda=False)
    def dls(block, get_y): return DataBlock((ImageBlock(PILImageBW), block), get_y=get_y, batch_tfms=norm).dataloaders(files, bs=8)
    for d in (dls(MultiCategoryBlock, several), dls(RegressionBlock(1), lambda f: len(f.name)/9)):
        with pytest.raises(ValueError, match='needs one class for each image, and the targets of these dls are something else'):
            learn.to_classifier(d)
    c = silent(learn.to_classifier(dls(MultiCategoryBlock, several), loss_func=BCEWithLogitsLossFlat(), metrics=accuracy_multi))
    c.fit(1)
    assert c.model[2].out_features==2

def test_an_exported_learner_has_no_images_but_can_look_new_ones_up(tmp_path):
    l = silent(psm_learner(digits_dls(bs=20, limit=100), bank_size=50))
    l.fit(1)
    table,im = l.features(),l.dls.valid_ds[0][0]
    l.export(tmp_path/'l.pkl')
    again = load_learner(tmp_path/'l.pkl')
    with pytest.raises(ValueError, match='This learner has no images'): again.features()
    for f in (again.to_classifier, lambda: again.save_encoder(tmp_path/'e.safetensors')):
        with pytest.raises(ValueError, match='no images in the training set. `export` leaves'): f()
    with pytest.raises(ValueError, match='as `among`'): again.nearest(im)
    pd.testing.assert_frame_equal(again.nearest(im, among=table), l.nearest(im))

def test_a_file_that_is_none_is_refused(tmp_path):
    f = tmp_path/'e.safetensors'
    f.write_text('hello')
    with pytest.raises(ValueError, match='not an encoder that psm_fastai saved, or it is damaged'): load_encoder(f)
    from safetensors.torch import save_file
    save_file({'w': torch.zeros(2)}, f)
    with pytest.raises(ValueError, match='not an encoder that psm_fastai saved'): load_encoder(f)
    with pytest.raises(FileNotFoundError): load_encoder(tmp_path/'nowhere.safetensors')
    with pytest.raises(TypeError, match='got a Learner. learn.save_encoder'): image_features(quiet(), tmp_path)

def test_other_normalisation_is_refused(learn, tmp_path, folder):
    learn.save_encoder(tmp_path/'e.safetensors')
    other = image_dls(folder, size=24, bs=8)
    with pytest.raises(ValueError, match='The encoder was trained on images with mean'):
        psm_learner(other, load_encoder(tmp_path/'e.safetensors'))
    with pytest.raises(ValueError, match='and these have mean'): learn.to_classifier(other)
    s = image_stats(learn.dls)
    assert silent(learn.to_classifier(image_dls(folder, size=24, bs=8, stats=(s['mean'],s['std'])))).model[2].out_features==4

@pytest.mark.parametrize('encoder', [small_resnet(1), create_body(resnet18(), n_in=1, pretrained=False)], ids=['features','maps'])
def test_a_classifier_has_the_same_features_and_leaves_the_encoder_alone(encoder):
    l = silent(psm_learner(digits_dls(bs=20, limit=100), encoder, bank_size=50))
    l.fit(1)
    c,x = silent(l.to_classifier()),l.dls.valid.one_batch()[0]
    before = {n: p.clone() for n,p in encoder.state_dict().items()}
    with torch.no_grad(): assert torch.equal(c.model[:2].eval()(x), pool_features(encoder.eval()(x)))
    c.fine_tune(1, 1e-3)
    assert all(torch.equal(before[n], p) for n,p in encoder.state_dict().items())
    assert not all(torch.equal(before[n], p) for n,p in c.model[0].state_dict().items()) and len(c.opt.param_groups)==2

def test_tables_know_files_and_labels(folder, learn):
    l = silent(psm_learner(image_dls(folder, size=24, bs=8)))
    df = l.features()
    assert [str(f) for f in l.dls.train_ds.items]==df.file.tolist() and [f.split('/')[-2] for f in df.file]==df.label.tolist()
    feats = encoder_features(l)[0]
    assert np.array_equal(df.filter(regex=r'^f\d+$').to_numpy(), feats.numpy())
    found = l.nearest(df.file[3], n=2)
    assert found.id[0]==3 and found.file[0]==df.file[3] and abs(found.similarity[0]-1)<1e-4
    assert learn.features(1).file.isna().all() and len(learn.features(1))==450
    none = silent(psm_learner(image_dls(folder/'0', size=24, bs=4)))
    assert none.features().label.isna().all()
    with pytest.raises(ValueError, match='no classes'): none.to_classifier()
    for ask in (none.knn_accuracy, none.linear_probe):
        with pytest.raises(ValueError, match='needs a label for each image'): ask()

def test_an_accuracy_knows_which_images_were_right(learn):
    "In the order of the validation set, by both measurements, and after pickling"
    near,probe = learn.knn_accuracy(),learn.linear_probe()
    (x,y),(xv,yv) = labelled_features(learn)
    assert torch.equal(near.hits, knn_predict(x, y, xv)==yv)
    for acc in (near,probe):
        assert acc.hits.dtype==torch.bool and acc.hits.shape==(acc.n,) and int(acc.hits.sum())==acc.right
        again = pickle.loads(pickle.dumps(acc))
        assert torch.equal(again.hits, acc.hits) and repr(again)==repr(acc) and again.settings==acc.settings
    found,turned = near.compare(probe),probe.compare(near)
    assert found['only_first']==int((near.hits & ~probe.hits).sum())==turned['only_second'] and found['p']==turned['p']
    assert found['only_first']-found['only_second']==near.right-probe.right
    with pytest.raises(ValueError, match="isn't known which images were right"): near.compare(Accuracy(3, near.n))
    with pytest.raises(ValueError, match="isn't known which images were right"): near.compare(.5)
    with pytest.raises(ValueError, match=f'these are {near.n} and 2 images'): near.compare(Accuracy(1, 2, torch.tensor([True,False])))

def test_mcnemar_is_that_of_a_fair_coin():
    def accuracy(*hits): return Accuracy(sum(hits), len(hits), torch.tensor(hits))
    T,F = True,False
    assert accuracy(*[T]*6,F).compare(accuracy(*[F]*6,F))==dict(only_first=6, only_second=0, p=pytest.approx(2/2**6))
    assert accuracy(T,T,T,F,T).compare(accuracy(F,F,F,T,T))==dict(only_first=3, only_second=1, p=pytest.approx(2*(1+4)/2**4))
    assert accuracy(T,F).compare(accuracy(F,T))['p']==accuracy(T,F).compare(accuracy(T,F))['p']==1

@pytest.mark.posix
def test_knn_of_cifar_size_fits_into_2_gb():
    code = """import resource, torch
from psm_fastai.evaluate import knn_predict
base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
train,y,x = torch.randn(50_000, 512),torch.randint(10, (50_000,)),torch.randn(10_000, 512)
assert knn_predict(train, y, x).shape==(10_000,)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss-base)"""
    res = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert int(res.stdout)*1024 < 2e9

def test_fastais_loggers_work(tmp_path):
    l = silent(psm_learner(digits_dls(bs=50, limit=200), cbs=[PSMCallback.from_bank(bank_size=100), KNNCallback(), CollapseCallback()]))
    l.path = tmp_path
    l.fit(2, cbs=[CSVLogger('log.csv'), TensorBoardCallback(tmp_path/'tb', trace_model=False, log_preds=False)])
    log = pd.read_csv(tmp_path/'log.csv')
    assert {'train_loss','purity','knn_acc','std'} <= set(log.columns) and len(log)==2
    assert log[['train_loss','purity','knn_acc','std']].notna().all(axis=None)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    ev = EventAccumulator(str(tmp_path/'tb')).Reload()
    assert {'train_loss','purity','knn_acc'} <= set(ev.Tags()['scalars']) and len(ev.Scalars('knn_acc'))==2

def test_monitors_and_rows_survive_a_resume(tmp_path):
    def make():
        set_seed(0)
        return silent(psm_learner(digits_dls(bs=50, limit=200), bank_size=100, cbs=[PurityCallback(), AgreementCallback()]))
    class AfterTwo(Callback):
        order = 80
        def after_epoch(self):
            if self.epoch==1: raise CancelFitException
    whole_ = make()
    whole_.fit(3)
    make().fit(3, cbs=[CheckpointCallback(tmp_path/'c.pth'), AfterTwo()])
    again,saved = make(),CheckpointCallback(tmp_path/'c.pth')
    again.fit(3, cbs=saved, start_epoch=saved.resume(again))
    assert all(torch.equal(a, b) for a,b in zip(whole_.model.state_dict().values(), again.model.state_dict().values()))
    for frame in ('frame','by_rank','by_label'): pd.testing.assert_frame_equal(getattr(whole_.purity, frame), getattr(again.purity, frame))
    assert len(again.psm_health.frame)==3 and again.diagnose()=={}

def test_a_classifier_takes_uint8_as_pretraining_does():
    dls = loaders(Images(40, dtype=torch.uint8, label=lambda i: torch.tensor(i%3)), bs=8)
    dls.c = 3
    learn = quiet(dls, cbs=[PSMCallback()], loss_func=no_loss)
    learn.fit(1)
    c = silent(learn.to_classifier())
    c.fit(1)
    x,(encoder,pool,head) = dls.valid.one_batch()[0],pickle.loads(pickle.dumps(c.model)).eval()
    assert torch.allclose(head(pool(encoder(x))).softmax(1), c.get_preds()[0][:8], atol=1e-5)
    del encoder._forward_pre_hooks[next(iter(encoder._forward_pre_hooks))]
    assert torch.allclose(head(pool(encoder(x.float()/255))).softmax(1), c.get_preds()[0][:8], atol=1e-5)

def test_features_of_new_images_from_a_folder(tmp_path):
    "One line, the same features as with loaders, and vectors in one column through Parquet"
    learn = quiet(digits_dls(bs=16, limit=32), model=small_resnet(1), cbs=[PSMCallback(bank_size=32)])
    learn.save_encoder(tmp_path/'encoder.safetensors')
    (tmp_path/'new').mkdir()
    for i in range(3): learn.dls.valid_ds[i][0].save(tmp_path/f'new/{i}.png')
    want = np.stack(learn.features(1, one_column=True).features[:3])
    assert np.abs(want-learn.features(1).filter(regex=r'^f\d+$').to_numpy()[:3]).max()==0
    for images in (tmp_path/'new', sorted((tmp_path/'new').iterdir()), [learn.dls.valid_ds[i][0] for i in range(3)]):
        got = image_features(tmp_path, images, bs=2)
        assert np.abs(np.stack(got.features)-want).max()<1e-5
    got.to_parquet(tmp_path/'f.parquet')
    assert (np.stack(pd.read_parquet(tmp_path/'f.parquet').features)==np.stack(got.features)).all()
    assert np.abs(image_features(tmp_path, tmp_path/'new/1.png').features[0]-want[1]).max()<1e-5
    one,many = (learn.nearest(images[0], n=4, among=learn.features(one_column=c)) for c in (True,False))
    pd.testing.assert_frame_equal(one, many)
    (tmp_path/'new/x.png').write_text('no image')
    with pytest.raises(ValueError, match="1 of 4 images can't be read: .*x.png"): image_features(tmp_path, tmp_path/'new')
    with pytest.raises(ValueError, match="gone is neither a folder nor a file that exists"): image_features(tmp_path, tmp_path/'gone')

@pytest.mark.parametrize('kind,kwargs', [('16 bits', dict(min_value=1000, max_value=1300)), ('pad', dict(fit='pad', ground='black')),
                                         ('ground', dict(ground=(9,100,200))), ('bands', dict(alpha=False, channels=4)),
                                         ('squish', dict(fit='squish'))])
def test_new_images_are_read_as_those_of_the_training(tmp_path, kind, kwargs, capsys):
    (tmp_path/'in').mkdir()
    save_all(tmp_path/'in', [900+pixels(20,30, hi=500, dtype=np.uint16) if kind=='16 bits' else pixels(20,30,4) for _ in range(4)])
    dls = image_dls(tmp_path/'in', size=16, bs=2, valid_pct=0, **kwargs)
    learn = quiet(dls, model=small_resnet(dls.one_batch()[0].shape[1]), cbs=[PSMCallback(bank_size=4)])
    learn.save_encoder(tmp_path/'e.safetensors')
    want = learn.features(one_column=True)
    got = image_features(tmp_path/'e.safetensors', [Path(f) for f in want.file])
    assert np.abs(np.stack(got.features)-np.stack(want.features)).max()<1e-5
    assert "doesn't tell how" not in capsys.readouterr().out
    export_encoder(tmp_path/'e.safetensors', tmp_path/'e.pt2')
    read = encoder_reader(load_encoder(tmp_path/'e.safetensors'))
    x = torch.stack([torch.tensor(read.pixels(f)) for f in want.file])
    with torch.no_grad():
        for n in (1,3,4): assert np.abs(torch.export.load(tmp_path/'e.pt2').module()(x[:n]).numpy()-np.stack(want.features)[:n]).max()<1e-5

@pytest.mark.parametrize('max_pixels', [None,10**8,10**15])
def test_a_file_that_raises_the_limit_on_huge_images_says_so(tmp_path, max_pixels, capsys):
    save_all(tmp_path, [pixels(20,30,3) for _ in range(8)])
    dls = image_dls(tmp_path, size=16, bs=4, valid_pct=0, max_pixels=max_pixels)
    learn = quiet(dls, model=small_resnet(), cbs=[PSMCallback(bank_size=4)])
    learn.save_encoder(tmp_path/'encoder.safetensors')
    learn.collection().save(tmp_path/'f.parquet')
    def describe(): image_features(tmp_path, tmp_path/'0.png')
    def look(): load_collection(tmp_path/'f.parquet').picture(0)
    for use in (describe,look):
        capsys.readouterr()
        use()
        told = 'encoder.safetensors lets images of up to 1,000,000,000,000,000 pixels be read' in capsys.readouterr().out
        assert told==(max_pixels==10**15)

@pytest.fixture
def photo_weights(monkeypatch):
    "Made-up weights in the place of those that torchvision would fetch"
    set_seed(3)
    made = resnet18().state_dict()
    monkeypatch.setattr(ResNet18_Weights, 'get_state_dict', lambda *args, **kwargs: made)
    return made

def test_pretrained_weights_bring_their_normalisation_and_mining_starts_at_once(folder, photo_weights):
    dls = image_dls(folder, size=32, bs=8, channels=3)
    learn = silent(psm_learner(dls, resnet18, n_pos=3))
    assert all(torch.equal(t, photo_weights[n]) for n,t in learn.model.encoder.state_dict().items()) and learn.psm.settings['mine_after']==0
    assert torch.allclose(torch.tensor(image_stats(learn.dls)['mean']), torch.tensor([.485,.456,.406]))
    x = learn.dls.valid.one_batch()[0]
    assert (learn.dls.valid.decode((x,))[0]>=0).all() and x.min()<-1.5
    learn.clusters(2)                               # questions need no training
    learn.fit(1, 1e-4)
    assert learn.model.loss.index.made

def test_other_settings_than_the_weights_can_be_asked_for(folder, photo_weights):
    dls = image_dls(folder, size=32, bs=8)          # gray
    assert silent(psm_learner(dls, 'resnet18', n_pos=3, mine_after=.5)).psm.settings['mine_after']==.5
    assert torch.allclose(torch.tensor(image_stats(dls)['mean']), torch.tensor([.449]), atol=1e-3)
    plain = silent(psm_learner(image_dls(folder, size=32, bs=8), 'resnet18', n_pos=3, pretrained=False))
    assert plain.psm.settings['mine_after']==.3
    assert not torch.equal(plain.model.encoder.layer1[0].conv1.weight, photo_weights['layer1.0.conv1.weight'])

def test_weights_that_cannot_be_fetched_are_named(folder, monkeypatch):
    def no_network(*args, **kwargs): raise URLError('no network')
    monkeypatch.setattr(ResNet18_Weights, 'get_state_dict', no_network)
    dls = image_dls(folder, size=32, bs=8)
    with pytest.raises(ValueError, match="weights of resnet18 can't be fetched: <urlopen error no network>. To start from random weights pass pretrained=False"):
        psm_learner(dls, 'resnet18')
    assert image_stats(dls)['mean']==[.5]
