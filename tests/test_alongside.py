"fastai's own tools beside a pretraining: trackers, interpretation, loggers; changes in the middle of a fit; broken images; precision"
import math, warnings
import pytest, torch
from fastai.callback.tensorboard import TensorBoardCallback
from fastai.vision.all import (CSVLogger, EarlyStoppingCallback, Interpretation, MixUp, ProgressCallback,
    ReduceLROnPlateau, SaveModelCallback, ShowGraphCallback, TensorCategory, nn, set_seed)
from psm_fastai.all import *
from common import *
from data import Images, Told, loaders

def few(n=64): return loaders(Images(n, label=lambda i: TensorCategory(i%7)))
def small(cbs=None, limit=64, model=None, **kwargs):
    return quiet(few(limit), model=model, loss_func=no_loss, cbs=[PSMCallback(bank_size=48, **kwargs), *(cbs or [])])

def told(f):
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter('always')
        f()
    return [str(w.message) for w in seen if issubclass(w.category, PSMWarning)]

# The epoch that trackers keep

@pytest.mark.parametrize('cb', [SaveModelCallback, EarlyStoppingCallback, ReduceLROnPlateau])
def test_trackers_of_the_loss_are_told_what_to_watch(cb, tmp_path):
    learn = small()
    learn.path = tmp_path
    said = told(lambda: learn.fit(2, cbs=cb()))
    assert len(said)==1 and all(s in said[0] for s in (cb.__name__, 'valid_loss', f"{cb.__name__}(monitor='knn_acc')"))
    assert len(told(lambda: learn.fit(1, cbs=cb(monitor='train_loss'))))==1
    assert not told(lambda: learn.fit(1, cbs=[KNNCallback(), cb(monitor='knn_acc')]))
    assert not told(lambda: learn.lr_find(num_it=4, show_plot=False, suggest_funcs=None))

def test_predictions_are_neither_refused_nor_warned_of_trackers():
    "What a callback would do in a training doesn't matter when the learner only predicts"
    learn = small()
    learn.fit(1)
    learn.add_cbs([EarlyStoppingCallback(), MixUp()])
    assert not told(lambda: (learn.validate(), learn.get_preds()))
    with pytest.raises(TypeError, match='mix_up mixes the targets'): told(lambda: learn.fit(1))

# Tools for classifiers

def test_interpretation_of_a_classifier_made_of_it():
    learn = quiet(digits_dls(bs=16, limit=64), cbs=PSMCallback(bank_size=48))
    c = silent(learn.to_classifier())
    c.fit(1, 1e-2)
    assert Interpretation.from_learner(c).top_losses(3)[0].min()>0
    c.show_results(max_n=2)

def test_tensorboard_and_other_loggers_with_their_defaults(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    learn = quiet(digits_dls(bs=16, limit=64), cbs=[PSMCallback(bank_size=48), KNNCallback()])
    learn.add_cb(ProgressCallback())
    learn.path = tmp_path
    learn.fit(2, cbs=[TensorBoardCallback(tmp_path/'tb'), CSVLogger(), ShowGraphCallback()])
    assert len(learn.recorder.values)==2 and any((tmp_path/'tb').iterdir())
    lines = (tmp_path/'history.csv').read_text().splitlines()
    assert len(lines)==3 and 'knn_acc' in lines[0]

# Changes in the middle of a fit

def at(event, f):
    "Calls `f` with the learner at an event of the first epoch; of batches, before the second"
    def once(cb):
        if getattr(cb, 'epoch', 0)==0 and (event!='before_batch' or cb.training and cb.iter==1): f(cb.learn)
    return Spy(order=30, **{event: once})

@pytest.mark.guarantee('interrupt')
@pytest.mark.parametrize('event', ['before_batch','before_epoch','after_epoch'])
def test_guests_come_and_go_between_fits(event):
    for change in (lambda l: l.remove_cb(PSMCallback), lambda l: l.add_cb(KNNCallback()), lambda l: l.remove_cb(l.collapse)):
        learn = small([CollapseCallback()])
        before = [*learn.cbs]
        with pytest.raises(RuntimeError, match='in the middle of a fit'): learn.fit(2, cbs=at(event, change))
        assert [*learn.cbs]==before and learn.psm.learn is learn
        learn.fit(1)
        learn.remove_cb(PSMCallback)
        assert not isinstance(learn.model, PSMModel)
    classifier = nn.Sequential(tiny(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))
    plain = quiet(few(), loss_func=nn.CrossEntropyLoss(), model=classifier)
    model = plain.model
    with pytest.raises(RuntimeError, match='in the middle of a fit'): plain.fit(2, cbs=at(event, lambda l: l.add_cb(PSMCallback())))
    plain.fit(1)
    assert plain.model is model

def told_dls(shift):
    told = Told(64, shift)
    return loaders([told[i] for i in range(64)])
def labels_right(learn):
    bank = learn.model.bank
    return torch.equal(bank.labels, torch.tensor([learn.dls.train_ds[i][1] for i in bank.ids.tolist()]).to(bank.labels))

def test_loaders_that_change_in_the_middle_of_an_epoch_are_refused():
    learn = quiet(told_dls(0), loss_func=no_loss, cbs=PSMCallback(bank_size=48))
    with pytest.raises(RuntimeError, match='other loaders in the middle of an epoch'):
        learn.fit(2, cbs=at('before_batch', lambda l: setattr(l, 'dls', told_dls(3))))

@pytest.mark.parametrize('event', ['before_epoch','after_epoch'])
def test_loaders_may_change_between_epochs(event):
    learn,seen = quiet(told_dls(0), loss_func=no_loss, cbs=PSMCallback(bank_size=48, mine_after=0.)),[]
    learn.fit(2, cbs=[at(event, lambda l: setattr(l, 'dls', told_dls(3))),
                      Spy(before_batch=lambda cb: cb.training and seen.append(labels_right(learn)))])
    assert len(seen)==8 and all(seen) and learn.dls.train_ds[0][1]==3

@pytest.mark.parametrize('kind', ['list','function','learner'])
def test_a_model_that_is_loaded_onto_other_images_forgets_the_bank(kind, tmp_path):
    def dls(shift): return loaders(Told(64, shift)) if kind=='function' else told_dls(shift)
    def make(shift): return quiet(dls(shift), loss_func=no_loss, cbs=PSMCallback(bank_size=64))
    a,b,seen = make(0),make(3),[]
    a.fit(1)
    a.save(tmp_path/'a')
    if kind=='learner': b.fit(1)
    b.load(tmp_path/'a')
    b.fit(1, cbs=Spy(before_batch=lambda cb: cb.training and seen.append(labels_right(b))))
    assert seen and all(seen)
    again = make(0)
    again.load(tmp_path/'a')
    step = int(again.model.bank.step)
    again.fit(1)
    assert int(again.model.bank.step)==step+4        # the bank of the same images is kept

# Broken images

def with_broken(bad, value=math.nan):
    train,valid = ([(torch.rand(1,16,16),i%3) for i in range(64)] for _ in 'tv')
    for i in bad: train[i][0][:,:,3] = value
    return loaders(train, valid)

@pytest.mark.guarantee('broken')
@pytest.mark.parametrize('value', [math.nan, math.inf])
@pytest.mark.parametrize('primed', [True,False])
def test_broken_images_are_named_and_break_nothing(value, primed, tmp_path):
    for bad in ([17], [5,40]):
        set_seed(0)
        learn = quiet(with_broken([]), loss_func=no_loss, cbs=PSMCallback(bank_size=64, mine_after=0.))
        if primed: learn.fit(1)
        was = learn.dls
        learn.dls = with_broken(bad, value)
        # the bank is kept, so that training meets the image
        if primed: learn.psm.bank_cb.data,learn.model.bank.source[()] = learn.dls.train_ds,data_fingerprint(learn.dls.train_ds)
        with pytest.raises(ValueError, match='hold values that are not finite') as e: learn.fit(1)
        named = [int(o) for o in str(e.value).split('[')[1].split(']')[0].split(',')]
        assert named and set(named)<=set(bad)
        assert all(t.isfinite().all() for t in state(learn).values() if t.is_floating_point())
        learn.dls = was
        learn.fit(1)
        learn.save_encoder(tmp_path/'e.safetensors')

@pytest.mark.guarantee('broken')
def test_on_a_gpu_broken_images_are_named_at_the_end_of_the_epoch(monkeypatch):
    "What happens there, on a CPU"
    monkeypatch.setattr(PSMLossCallback, 'whole_images', PSMLossCallback.blank)
    set_seed(0)
    bad = [3,17,18,40]
    learn = quiet(with_broken([]), loss_func=no_loss, cbs=PSMCallback(bank_size=64))
    learn.fit(1)
    learn.dls = with_broken(bad)
    learn.psm.bank_cb.data,learn.model.bank.source[()] = learn.dls.train_ds,data_fingerprint(learn.dls.train_ds)
    with pytest.raises(ValueError, match=r'ids \[3, 17, 18, 40\] hold values'): learn.fit(1)
    assert all(t.isfinite().all() for t in state(learn).values() if t.is_floating_point()) and int(learn.model.bank.step)==12

@pytest.mark.guarantee('broken')
def test_broken_images_are_named_when_features_are_asked_for():
    learn = quiet(with_broken([33]), loss_func=no_loss)
    with pytest.raises(ValueError, match=r'training images with ids \[33\]'): learn.features()
    assert len(learn.features(1))==64

@pytest.mark.guarantee('broken')
def test_a_loss_that_is_not_finite_leaves_finite_statistics():
    class Poison(Spy):
        def before_batch(self):
            if self.training and self.iter==2: self.xb[1][:] = torch.nan
    learn = small()
    with pytest.raises(ValueError): learn.fit(1, cbs=Poison(order=9))
    assert all(t.isfinite().all() for t in state(learn).values() if t.is_floating_point())

@pytest.mark.guarantee('broken')
def test_a_network_that_is_not_finite_is_not_trained_or_saved(tmp_path):
    learn = small()
    learn.fit(1)
    with torch.no_grad(): learn.model.encoder[0].weight[0] = math.nan
    with pytest.raises(ValueError, match='encoder.0.weight'): learn.fit(1)
    with pytest.raises(ValueError, match='0.weight'): learn.save_encoder(tmp_path/'e.safetensors')
    assert not [*tmp_path.iterdir()]

# Precision

@pytest.mark.parametrize('dtype', [torch.float64, torch.bfloat16, torch.float16])
def test_encoders_of_another_precision_are_refused(dtype):
    with pytest.raises(TypeError, match=rf'float32.*{str(dtype)[6:]}.*encoder.float\(\)'): small(model=tiny().to(dtype))
    learn = small(model=tiny())
    learn.model.to(dtype)
    with pytest.raises(TypeError, match='float32'): learn.fit(1)

def test_another_default_precision_is_refused():
    torch.set_default_dtype(torch.float64)
    try:
        with pytest.raises(TypeError, match='set_default_dtype'): small(model=tiny().float())
    finally: torch.set_default_dtype(torch.float32)

@pytest.mark.guarantee('half')
def test_all_that_looks_works_under_autocast():
    learn = small([KNNCallback(), PurityCallback(), CollapseCallback(), AgreementCallback(), GradientCallback(),
                   NeighbourHistory(n_probes=4, n_pos=3, n_neg=5)], mine_after=.5)
    with torch.autocast('cpu', torch.bfloat16): learn.fit(2, 1e-3)
    assert [e['epoch'] for e in learn.neighbour_history.epochs]==[0,1,2]
    assert all(len(cb.frame)==2 for cb in (learn.purity, learn.collapse, learn.agreement, learn.gradient))
