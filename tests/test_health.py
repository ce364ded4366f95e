"Each sign of failure is provoked once, and healthy runs show none"
import warnings
import pytest, torch
from fastai.vision.all import Callback, set_seed
from psm_fastai.all import *
from psm_fastai.loss import similarity_gradients
from common import silent
from data import Images, loaders

def train(epochs=8, lr=8e-3, cb=None, cbs=None, before=None, limit=None):
    set_seed(0)
    learn = silent(psm_learner(digits_dls(bs=64, limit=limit), cbs=[cb or PSMCallback(momentum=.98)]))
    learn.psm.health_cb.every = 3          # there are 10 or 21 batches an epoch
    if before: before(learn)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter('always')
        learn.fit_one_cycle(epochs, lr, wd=.05, cbs=cbs)
    told = [str(w.message) for w in seen if issubclass(w.category, PSMWarning)]
    return learn,told

def noise(x): return torch.randn_like(x),torch.randn_like(x)

@pytest.mark.parametrize('method', [m for m in psm_methods if m!='msf'])   # after 8 epochs MSF does mine at chance
def test_healthy_runs_show_no_sign(method, capsys):
    momentum = {} if method in ('byol','nnclr') else dict(momentum=.98)
    learn,told = train(limit=None if method=='psm' else 700, cb=psm_methods[method](**momentum))
    assert told==[] and learn.diagnose()=={}
    assert 'No sign of failure in 8 epochs' in capsys.readouterr().out
    frame = learn.psm_health.frame
    assert len(frame)==8 and frame.loss.notna().all() and frame.spread.between(0, 1.1).all()

def shows(sign, says, learn, told, alone=True):
    assert sign in learn.diagnose() and sum(says in t for t in told)==1       # once, however many epochs show it
    if alone: assert list(learn.diagnose())==[sign] and len(told)==1

def test_purity_that_stays_at_chance():
    "Its queries draw together for a few epochs, which may be told too"
    cb = PSMCallback.from_bank(momentum=.98, mine_after=0., views=lambda x: (x, x[torch.randperm(len(x))]))
    shows('purity', 'mine_after', *train(cb=cb), alone=False)

def test_neighbours_of_which_none_is_trusted():
    "The weak views are noise, so that they find other neighbours than the images do"
    learn,told = train(cb=PSMCallback(momentum=.98, mine_after=0., refresh=2, views=noise))
    shows('trust', 'hardly any neighbour', learn, told, alone=False)      # its loss sits at the ceiling too
    assert any(t.startswith('epoch 4: hardly') for t in told)           # when the index was made for the third time
    assert (learn.psm_health.frame.pulling==0).all() and learn.psm_health.frame.purity.isna().all()

def test_variance_that_jumps():
    class Harder(Callback):
        order = 1
        def before_epoch(self):
            if self.epoch==9: self.learn.model.loss.a,self.learn.model.loss.b,self.learn.model.loss.n_neg = 300.,0.,8
    learn,told = train(10, cbs=Harder())
    shows('variance', 'smaller b', learn, told)

def test_plateau():
    shows('plateau', 'bank_size', *train(16, lr=1e-7, limit=700, before=lambda l: l.fit_one_cycle(3, 5e-3),
                                         cb=PSMCallback.moco(momentum=.5)))

@pytest.mark.guarantee('broken')
def test_collapse_without_negatives():
    def no_predictor(learn): learn.model.predictor = torch.nn.Identity()
    torch.set_flush_denormal(True)       # a collapsed network computes with numbers so small that they take a CPU a hundred times as long
    try: shows('collapse', 'predictor=True', *train(4, cb=PSMCallback.byol(momentum=.5), before=no_predictor))
    finally: torch.set_flush_denormal(False)

def test_purity_of_few_labels_is_a_number():
    "A batch without a label takes nothing from the others"
    few = Images(400, label=lambda i: i%3 if i%40==0 else -1)
    learn = silent(psm_learner(loaders(few, bs=20), rule='bank', mine_after=0.))
    learn.psm.health_cb.every = 1
    learn.fit(2, 1e-3)
    assert learn.psm_health.frame.purity.between(0, 1).all()

def test_of_a_large_bank_some_queries_are_looked_at(monkeypatch):
    monkeypatch.setattr('psm_fastai.mining._table', 40*400)
    learn,_ = train(1, limit=400, cb=PSMCallback.moco())
    seen = []
    def spy(p, q, *args):
        seen.append(len(q))
        return similarity_gradients(p, q, *args)
    monkeypatch.setattr('psm_fastai.health.similarity_gradients', spy)
    learn.fit(1)
    assert {*seen}=={40}
