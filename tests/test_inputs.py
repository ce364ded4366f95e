"Whatever a user brings: sizes, loaders, labels, images, encoders, settings, files and names"
import inspect, math, os, pickle, re
import matplotlib.pyplot as plt, pandas as pd, pytest, torch
from fastai.vision.all import (AffineCoordTfm, DataLoader, DataLoaders, Learner, Normalize, TensorCategory, TensorMultiCategory,
    imagenet_stats, nn, set_seed)
from psm_fastai.all import *
from common import *
from data import Images, digit_files, loaders

def images(n=40, bs=8, drop_last=True, after_batch=None, **kwargs):
    return loaders(Images(n, **kwargs), bs=bs, drop_last=drop_last, after_batch=after_batch)
def make(dls, model=None, cbs=(), **kwargs):
    return silent(Learner(dls, model or tiny(), loss_func=no_loss, cbs=[PSMCallback(**kwargs), *cbs]))

@pytest.mark.guarantee('sizes')
@pytest.mark.parametrize('data,settings', [
    (dict(bs=2), {}), (dict(bs=16), dict(bank_size=8)), (dict(bs=40), dict(bank_size=1, n_neg=None)), (dict(), dict(bank_size=500)),
    (dict(), dict(bank_size=5, n_pos=20)),
    (dict(), dict(bank_size=20, n_neg=400)), (dict(n=2, bs=2), {}), (dict(n=3, bs=2), dict(n_pos=9)), (dict(n=42, drop_last=False), {}),
], ids=str)
def test_sizes_that_train(data, settings):
    learn = make(images(**data), mine_after=0., **settings)
    learn.fit(2)
    bank = learn.model.bank
    assert bank.feats.isfinite().all() and math.isfinite(learn.recorder.losses[-1])
    assert len(bank)==min(len(bank.ids), int(bank.step)*learn.dls.train.bs)

@pytest.mark.guarantee('sizes')
@pytest.mark.parametrize('data,says', [
    (dict(bs=1), 'the batch size is 1'), (dict(n=1, bs=1), 'the number of images 1'),
    (dict(n=2, bs=8), 'gives no batch: 2 images, batch size 8, drop_last=True. Use a smaller batch size'),
    (dict(n=41, drop_last=False), '41 images in batches of 8 leave one'), (dict(n=0, bs=8), 'no images in the training set'),
], ids=str)
def test_sizes_that_are_refused_before_the_first_step(data, says):
    stepped = []
    with pytest.raises(ValueError, match=says): make(images(**data), cbs=[Spy(before_batch=stepped.append)]).fit(1)
    assert not stepped

@pytest.mark.guarantee('loaders')
def test_streams_are_refused():
    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self): return iter(Images(20))
    with pytest.raises(TypeError, match='not a stream'): make(DataLoaders(DataLoader(Stream(), bs=4), DataLoader(Stream(), bs=4)))

@pytest.mark.guarantee('loaders')
def test_predictions_for_a_list_of_batches():
    learn = make(images(label=lambda i: TensorCategory(i%3)))
    learn.fit(1)
    b = learn.dls.valid.one_batch()
    feats,targs = learn.get_preds(dl=[b])
    assert torch.allclose(feats, learn.model.encoder.eval()(b[0].as_subclass(torch.Tensor)).mean((2,3)), atol=1e-5)
    assert torch.equal(targs, b[1])

@pytest.mark.guarantee('kinds')
@pytest.mark.parametrize('label,columns', [(None, False), (lambda i: TensorCategory(i%3), True), (lambda i: i%3, True),
                                           (lambda i: TensorMultiCategory([i%2,1,0]).float(), False), (lambda i: torch.tensor(i/9), False)],
                         ids=['none','category','int','several','number'])
def test_kinds_of_labels(label, columns):
    learn = make(images(label=label))
    learn.fit(1)
    assert ('purity' in learn.recorder.metric_names)==columns and (learn.model.bank.labels>=0).any()==columns

@pytest.mark.guarantee('kinds')
def test_labels_that_are_words(tmp_path):
    digit_files(tmp_path, 60, lambda i,y: f'kind {y}/{i}.png')
    learn = silent(psm_learner(image_dls(tmp_path, size=24, bs=8), tiny()))
    learn.fit(1)
    assert 'purity' in learn.recorder.metric_names and learn.features().label.str.startswith('kind ').all()

@pytest.mark.guarantee('kinds')
@pytest.mark.parametrize('shape', [(1,16,16), (3,16,24), (4,31,17), (12,16,16)], ids=str)
@pytest.mark.parametrize('dtype', [torch.uint8, torch.float16, torch.float32], ids=str)
def test_kinds_of_images(shape, dtype):
    learn = make(images(shape=shape, dtype=dtype), tiny(shape[0]))
    learn.fit(1)
    feats = learn.get_preds()[0]
    assert feats.dtype==torch.float32 and feats.isfinite().all() and len(learn.model.bank)==40
    assert torch.allclose(feats, encoder_features(learn, 1)[0], atol=1e-5)
    want = torch.stack([Images(40, shape, dtype)[i][0] for i in range(3)]).float()/(255 if dtype==torch.uint8 else 1)
    assert torch.allclose(feats[:3], learn.model.encoder.eval()(want.as_subclass(torch.Tensor)).mean((2,3)), atol=1e-5)

@pytest.mark.guarantee('kinds')
@pytest.mark.parametrize('change,tfms,says', [
    (lambda x: (x-.5)/.25, [], 'go from -2 to 2, and'), (lambda x: x*255, [], 'to 25[45], and'),
    (lambda x: (x*255).int(), [], 'to 25[45], and'),
    (lambda x: x*10_000, [Normalize.from_stats([5000.],[2900.], cuda=False)], r'to 9.99e\+03 once their Normalize is undone'),
], ids=['normalised in the data set','floats to 255','int32','bands'])
def test_images_outside_0_to_1_are_refused_by_views_that_would_cut_them_off(change, tfms, says):
    dls = images(change=change, after_batch=tfms)
    with pytest.raises(ValueError, match=says): make(dls)
    make(dls, views=mirror).fit(1)

def normalised(): return images(shape=(3,16,16), after_batch=[Normalize.from_stats(*imagenet_stats, cuda=False)])

@pytest.mark.guarantee('kinds')
def test_overshoot_and_normalised_images_are_taken():
    make(images(change=lambda x: (x-.5)*8), views=TwoViews([AffineCoordTfm(crop_mat(.5))]))     # which cut nothing
    make(images(change=lambda x: x*1.1-.05))
    make(normalised(), tiny(3))

def test_a_weak_key_changes_by_geometry_alone():
    "Tone, colours and noise are at their extremes, which an image of one colour, moved or not, shows"
    torch.manual_seed(0)
    photo,digit = photo_views(jitter=1., hue=.5, gray=.5, weak_key=True),digit_views(brightness=1., contrast=3., noise=1., weak_key=True)
    for views in (photo,digit):
        flat,x = torch.rand(16, 3, 1, 1).expand(16, 3, 16, 16),torch.rand(16, 3, 16, 16)
        q,k = views(flat)
        assert torch.allclose(k, flat, atol=1e-5) and torch.allclose(views.weak(flat), flat, atol=1e-5) and (q-flat).abs().mean()>.1
        q,k = views(x)
        assert all((k-o).abs().mean()>.05 for o in (x,q,views(x)[1],views.weak(x)))
        assert (k.amin((2,3))>=x.amin((2,3))-1e-5).all() and (k.amax((2,3))<=x.amax((2,3))+1e-5).all()
        views.weak_key = False
        # the index asks by it in any case
        assert (views(flat)[1]-flat).abs().mean()>.1 and torch.allclose(views.weak(flat), flat, atol=1e-5)
    unmoved = dict(zoom=(1,1), aspect=0, shift=0, max_rotate=0, noise=1., brightness=1., contrast=3.)
    x = torch.rand(16, 1, 16, 16)
    assert torch.allclose(digit_views(**unmoved, weak_key=True)(x)[1], x, atol=1e-5)
    noise = TwoViews([RandomNoise(1.)], weak_key=True)              # without a geometric transform all are used
    assert (noise(x)[1]-x).abs().mean()>.05

def test_a_weak_key_of_normalised_images_is_normalised():
    dls = normalised()
    learn,x = make(dls, tiny(3), views=photo_views(jitter=1., hue=.5, weak_key=True)),dls.train.one_batch()[0].as_subclass(torch.Tensor)
    flat = x[:,:,:1,:1].expand(-1,-1,16,16)
    for k in (learn.psm.loss_cb.two_views(flat)[1], learn.psm.loss_cb.weak_view(flat)):
        assert torch.allclose(k, flat, atol=1e-4) and x.min()<-1
    learn.fit(1)

def test_views_smaller_than_the_images(tmp_path):
    "Views of 12 pixels from images of 16, in training, index, history, signs and pictures"
    dls,history,sizes = normalised(),NeighbourHistory(),[]
    views = photo_views(blur=.5, solarize=.2, size=12)
    spy = Spy(after_pred=lambda spy: sizes.append([tuple(o.shape[2:]) for o in spy.xb]))
    learn = make(dls, tiny(3), views=views, mine_after=0., cbs=[history, spy])
    learn.fit(2)
    assert {tuple(o) for o in sizes}=={((12,12),(12,12))}
    assert len(history.tables)==3 and psm_model(learn).loss.index is not None
    views.setup(dls).show(dls.train.one_batch()[0], n=3)
    assert [o.get_images()[0].get_array().shape[0] for o in plt.gcf().axes]==[16]*3+[12]*6
    assert learn.signs_without_labels() is not None
    weak, = {tuple(learn.psm.loss_cb.weak_view(dls.train.one_batch()[0]).shape[2:])}
    assert weak==(12,12)

@pytest.mark.guarantee('broken')
@pytest.mark.parametrize('what', ['image','weights'])
def test_what_is_not_finite_stops_the_training_and_never_enters_the_bank(what):
    def poison(cb):
        if not cb.training or cb.iter!=2: return
        if what=='image': cb.xb[1][3] = torch.inf
        else: next(cb.model.encoder.parameters()).data.fill_(torch.nan)
    learn = make(images(), cbs=[Spy(order=9, before_batch=poison)])
    with pytest.raises(ValueError,
                       match=r'The loss is not finite for the images with ids \[\d+, .*Look at their views, lower the learning rate'):
        learn.fit(1)
    assert learn.model.bank.feats.isfinite().all() and len(learn.model.bank)==40
    assert all(p.isfinite().all() for p in learn.model.momentum_encoder.parameters())

def normed(n_in=1): return nn.Sequential(nn.Conv2d(n_in, 8, 3, 2), nn.GroupNorm(2, 8), nn.ReLU(), nn.Conv2d(8, 16, 3, 2))
class Tied(nn.Module):
    def __init__(self): super().__init__(); self.a,self.b = nn.Conv2d(1, 8, 3, 2),nn.Conv2d(8, 8, 3, padding=1); self.c = self.b
    def forward(self, x): return self.c(self.b(self.a(x)).relu())
def frozen():
    m = tiny()
    m[0].requires_grad_(False)
    return m

@pytest.mark.guarantee('encoders')
@pytest.mark.parametrize('encoder', [normed, frozen, lambda: nn.Sequential(*tiny(), nn.Dropout(.3)), Tied],
                         ids=['no batch-norm','frozen layers','dropout','tied weights'])
def test_encoders_that_work(encoder):
    set_seed(0)
    m = encoder()
    before = {n: p.clone() for n,p in m.named_parameters()}
    learn = make(images(), m, momentum=.5)
    learn.fit(2, .01)
    for n,p in m.named_parameters(): assert torch.equal(p, before[n])!=p.requires_grad, n
    slow = dict(learn.model.momentum_encoder.named_parameters())
    assert slow.keys()==before.keys() and all(torch.equal(slow[n], p)==(not p.requires_grad) for n,p in m.named_parameters())
    assert learn.model.bank.feats.isfinite().all()

class Gives(nn.Module):
    def __init__(self, f): super().__init__(); self.net,self.f = tiny(),f
    def forward(self, x): return self.f(self.net(x))

@pytest.mark.guarantee('encoders')
@pytest.mark.parametrize('f,got', [(lambda f: (f,f), 'a tuple'), (lambda f: dict(out=f), 'a dict'),
                                   (lambda f: f.flatten(2), r'a tensor of shape \[2, 16, 9\]'),
                                   (lambda f: f.mean(), r'a tensor of shape \[\]')], ids=['tuple','dict','3d','number'])
def test_encoders_that_are_refused(f, got):
    with pytest.raises(TypeError, match=rf'must return features \[B, F\] or feature maps \[B, C, H, W\], and it returned {got}'):
        make(images(), Gives(f))

bad_settings = dict(bank_size=[0, 1.5, '9'], mine_after=[-.1, 1.1, 'later', None], momentum=[-.1, 1.1, 'x', (.9,), (.9,2)],
                    proj_dim=[0, .5, None], hidden_dim=[0, 'x'], predictor=[1, 'yes', None],
    symmetric=[0, None], split_bn=[0, 1.5, None], views=['photo', 3], n_pos=[-1, 2.5, None], n_neg=[-1, 2.5, '9'],
    a=[-1, math.nan, math.inf, 'x'], b=[-3, 3, math.nan, None], temp=[0, -1, math.inf, math.nan, None],
    soft_temp=[0, -1, math.nan, 'x'], hard_weight=[-.1, 1.1, math.nan, None], rule=['nearest', None, 3, dict],
    trust=[0, -.1, 1.1, math.nan, 'high', None], refresh=[0, 1.5, None, 'x'])

@pytest.mark.guarantee('settings')
# those of the user's own rules
def test_the_table_of_bad_settings_is_complete(): assert bad_settings.keys()|{'kwargs'}==inspect.signature(PSMCallback).parameters.keys()

@pytest.mark.guarantee('settings')
@pytest.mark.parametrize('name,value', [(n,v) for n,vs in bad_settings.items() for v in vs], ids=str)
def test_settings_that_are_refused_by_name(name, value):
    with pytest.raises((ValueError, TypeError)) as e: PSMCallback(**{name: value}, **(dict(rule='bank') if name=='soft_temp' else {}))
    shown = repr(value[1]) if value==(.9,2) else repr(value)
    assert name in str(e.value) and shown in str(e.value) and re.search('must be|at least', str(e.value))

class Evil:
    def __reduce__(self): return os.mkdir, (str(self.path),)

@pytest.mark.guarantee('files')
def test_checkpoints_that_are_refused(tmp_path):
    f = tmp_path/'c.pth'
    def fresh(**kwargs): return make(images(), bank_size=20, **kwargs)
    fresh().fit(1, cbs=CheckpointCallback(f))
    good = torch.load(f, weights_only=True)
    def refused(says, learn=None):
        learn = learn or fresh()
        before = state(learn)
        with pytest.raises(ValueError, match=says): CheckpointCallback(f).resume(learn)
        assert same(before, state(learn))
    refused('written by a training with another model: encoder.1.running_mean', make(images(), normed(), bank_size=20))
    refused('another model: projector', fresh(hidden_dim=8))
    torch.save({n: v for n,v in good.items() if n!='layout'}, f)
    refused(f"has layout 1, and this version of psm_fastai reads {good['layout']}")
    torch.save(dict(model=1), f)
    refused('is not a checkpoint that CheckpointCallback wrote')
    evil = Evil()
    evil.path = tmp_path/'hacked'
    torch.save(dict(good, epoch=evil), f)
    refused('is not a checkpoint, or it is damaged')
    torch.save(good, f)
    whole = f.read_bytes()
    for n in (0, 10, len(whole)//2, len(whole)-1):
        f.write_bytes(whole[:n])
        refused('is not a checkpoint, or it is damaged')
    assert not evil.path.exists()
    f.write_bytes(whole)
    assert CheckpointCallback(f).resume(fresh())==1

@pytest.mark.guarantee('files')
def test_encoder_files_never_execute_code(tmp_path):
    evil = Evil()
    evil.path,f = tmp_path/'hacked',tmp_path/'e.safetensors'
    f.write_bytes(pickle.dumps(evil))
    with pytest.raises(ValueError, match='not an encoder that psm_fastai saved, or it is damaged'): load_encoder(f)
    make(images(), small_resnet(1)).save_encoder(f)
    whole = f.read_bytes()
    for n in (0, 7, 300, len(whole)//2, len(whole)-1):
        f.write_bytes(whole[:n])
        with pytest.raises(ValueError, match='damaged'): load_encoder(f)
    assert not evil.path.exists()

hostile = ['<script>document.title="hacked"</script>', '"><img src=x onerror="document.title=\'hacked\'">', "it's\n\"quoted\"", 'x'*10_000,
           'שלום עולם', r'$\bad{$', '&lt;b&gt;', '{{7*7}}']

@pytest.mark.guarantee('names')
def test_hostile_names_in_the_browser(browser, tmp_path):
    set_seed(0)
    learn = make(images(64, label=lambda i: TensorCategory(i%len(hostile))), mine_after=0., n_pos=8, n_neg=20)
    learn.add_cb(purity := PurityCallback(1))
    learn.dls.train.vocab = learn.dls.vocab = hostile
    learn.fit(1)
    page,errors = browser.new_page(),[]
    page.on('pageerror', lambda e: errors.append(str(e)))
    page.on('request', lambda r: errors.append(r.url) if not r.url.startswith(('file:','data:')) else None)
    page.goto(neighbour_page(learn, tmp_path/'p.html', title='<script>x</script>').as_uri())
    page.wait_for_selector('body[data-ready]')
    assert page.title()=='<script>x</script>' and not errors and page.locator('script').count()==2
    for _ in range(64): page.keyboard.press('ArrowRight')
    said = page.evaluate("[...document.querySelectorAll('.chip')].map(e => e.title)")
    assert said==hostile and page.title()=='<script>x</script>' and not errors
    assert page.evaluate('document.documentElement.scrollWidth') <= page.viewport_size['width']
    assert page.evaluate('document.images.length')==0
    for show in (lambda: learn.show_neighbours(n=8, k=2), purity.plot): drawn(show).savefig(tmp_path/'f.png')

@pytest.mark.posix
@pytest.mark.guarantee('names')
def test_hostile_names_of_files(tmp_path):
    names = ['<img src=x onerror=alert(1)>.png', "it's \"quoted\".png", 'two\nlines.png', 'שלום.png', '$\\bad{$.png', 'x'*200+'.png']
    digit_files(tmp_path/'images', len(names), lambda i,y: names[i])
    learn = silent(psm_learner(image_dls(tmp_path/'images', size=24, bs=2), tiny()))
    learn.fit(1)
    files = pd.concat([learn.features(0), learn.features(1)]).file
    assert {os.path.basename(f) for f in files}==set(names)
    table = learn.nearest(tmp_path/'images'/names[0], n=2)
    table.to_csv(tmp_path/'t.csv', index=False)
    assert pd.read_csv(tmp_path/'t.csv').file.tolist()==table.file.tolist()
    neighbour_page(learn, tmp_path/'p.html')
