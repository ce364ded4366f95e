"The ids of a batch are those of its images, whatever else takes batches from the same loader"
import threading
from itertools import islice
import numpy as np, pytest, torch
from fastai.vision.all import DataLoaders, TfmdDL, first, set_seed
from torch.utils.data import Subset
from psm_fastai.all import *
from common import *
from data import Told, places

n = 70

def loader(ds=None, cls=TfmdDL, **kwargs):
    return cls(ds or Told(n), **dict(dict(bs=16, shuffle=True, drop_last=True, num_workers=0), **kwargs))
def loaders(train=None): return DataLoaders(train or loader(), loader(shuffle=False))

def watch(dls, meanwhile=lambda cb: None, epochs=3, place=lambda i: i, **kwargs):
    "Train, and compare each id and each label of the bank with the pixels"
    pixels,seen = [],[]
    def truth(cb): pixels.append(places(cb.x, n))
    def compare(cb):
        if cb.training: seen.append((place(cb.yb[0].cpu()), pixels[-1]))
    looks = [Spy(order=7, before_batch=truth), Spy(order=9, after_pred=compare, before_batch=lambda cb: meanwhile(cb))]
    learn = quiet(dls, loss_func=no_loss, cbs=[PSMCallback(bank_size=48, mine_after=0., views=lambda x: (x,x)), *looks])
    learn.fit(epochs, **kwargs)
    ids,truth = (torch.cat(o) for o in zip(*seen))
    assert len(ids)==epochs*len(dls.train)*dls.train.bs and torch.equal(ids, truth)
    bank = learn.model.bank
    assert torch.equal(place(bank.ids.cpu())%7, bank.labels.cpu())
    return learn

def another_learner(cb): quiet(cb.dls, loss_func=no_loss, cbs=PSMCallback(bank_size=16)).fit(1)

@pytest.mark.guarantee('loaders')
@pytest.mark.parametrize('meanwhile', [lambda cb: cb.dls.one_batch(), lambda cb: first(cb.dls.train), lambda cb: [*cb.dls.train],
                                       lambda cb: cb.dls.train.show_batch(show=False),
    lambda cb: cb.training and cb.iter==1 and another_learner(cb)], ids=['one_batch','first','all','show_batch','learner'])
def test_somebody_takes_batches_meanwhile(meanwhile):
    set_seed(0)
    watch(loaders(), meanwhile)

@pytest.mark.guarantee('loaders')
@pytest.mark.parametrize('workers', [0,2])
def test_a_thread_takes_batches_meanwhile(workers):
    "Also in the moment when an epoch begins"
    dls,stop = loaders(loader(num_workers=workers)),threading.Event()
    def take():
        while not stop.is_set(): dls.train.get_idxs(), setattr(dls.train, '_DataLoader__idxs', [0]*n), dls.train.n_inp
    thread = threading.Thread(target=take)
    thread.start()
    try: watch(dls, epochs=8 if not workers else 2)
    finally:
        stop.set()
        thread.join()

@pytest.mark.guarantee('loaders')
def test_two_trainings_at_once_keep_their_ids():
    dls,wrong = loaders(),[]
    def train():
        try: watch(dls, epochs=4)
        except BaseException as e: wrong.append(e)
    threads = [threading.Thread(target=train) for _ in range(2)]
    for t in threads: t.start()
    for t in threads: t.join()
    assert not wrong and not {'do_item','get_idxs','sample'} & vars(dls.train).keys()

class Weighted(TfmdDL):
    def get_idxs(self): return np.random.choice(n, n, p=np.arange(n)/np.arange(n).sum()) if self.shuffle else super().get_idxs()

@pytest.mark.guarantee('loaders')
def test_loaders_that_draw_in_their_own_way():
    set_seed(0)
    keep = torch.arange(40, 70)
    watch(loaders(loader(cls=Weighted)))
    watch(loaders(loader(get_idxs=lambda: [69-i for i in range(64)])))
    watch(loaders(loader(Subset(Told(n), keep.tolist()), bs=10)), place=lambda i: keep[i])

class Served(TfmdDL):
    def sample(self): return (n-1-i for i in super().sample())
class Mapped(TfmdDL):
    def create_item(self, s): return super().create_item(n-1-(s or 0))
class Thinned(TfmdDL):
    def __iter__(self): return (b for i,b in enumerate(super().__iter__()) if i!=1)

@pytest.mark.guarantee('loaders')
@pytest.mark.parametrize('cls', [Served, Mapped, Thinned])
def test_loaders_that_do_not_tell_what_they_serve_are_refused(cls):
    with pytest.raises(TypeError, match='get_idxs'): watch(loaders(loader(cls=cls)))

@pytest.mark.guarantee('loaders')
@pytest.mark.parametrize('make', [lambda: PSMCallback(bank_size=64), KNNCallback, HealthCallback, MomentumCallback],
                         ids=['PSMCallback','KNNCallback','HealthCallback','MomentumCallback'])
def test_a_callback_is_of_one_learner(make):
    cb = make()
    one,other = quiet(cbs=cb),quiet()
    with pytest.raises(ValueError, match=f'This {type(cb).__name__} is at work in another learner'): other.add_cb(cb)
    with pytest.raises(ValueError, match='is at work in another learner'): other.fit(1, cbs=cb)
    with pytest.raises(ValueError, match=f'This learner has this {type(cb).__name__} already'): one.add_cb(cb)
    assert cb.learn is one and cb in one.cbs and cb not in other.cbs
    one.remove_cb(cb)
    other.add_cb(cb)
    assert cb.learn is other

def test_a_progress_bar_loses_no_images(monkeypatch):
    "fastprogress stops at the number of steps that it was told"
    monkeypatch.setattr('psm_fastai.files.watched', lambda: True)
    monkeypatch.setattr('psm_fastai.files.progress_bar', lambda steps, total, leave: islice(steps, total))
    dls = digits_dls(bs=8)
    for ids in (None, list(range(1347))):           # 168 batches of 8 and one of 3
        assert sum(len(x) for x,*_ in plain_batches(dls, ids=ids))==1347

def test_workers_that_are_started_anew():
    "On Windows and from Python 3.14 on, a loader is pickled for its workers"
    before = torch.multiprocessing.get_start_method()
    torch.multiprocessing.set_start_method('spawn', force=True)
    try: found = [places(x, n) for x,*_ in plain_batches(loaders(loader(num_workers=1)), ids=list(range(0, n, 7)))]
    finally: torch.multiprocessing.set_start_method(before, force=True)
    assert torch.cat(found).tolist()==list(range(0, n, 7))
