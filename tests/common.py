"What several tests share: small learners, and half precision on a CPU"
import os, shutil, sys
import matplotlib.pyplot as plt, torch
from fastcore.script import _run_cli
from filelock import FileLock
from fastai.vision.all import AMPMode, Callback, L, Learner, MixedPrecision, ProgressCallback, nn, noop, set_seed
from psm_fastai.all import *

def tiny(n_in=1): return nn.Sequential(nn.Conv2d(n_in, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 3, 2))
def silent(learn):
    learn.remove_cb(ProgressCallback)
    learn.logger = noop
    return learn
def quiet(dls=None, *, cbs=None, model=None, **kwargs):
    return silent(Learner(dls or digits_dls(bs=32, limit=200), model or tiny(), cbs=cbs, **kwargs))
def tiny_learner(**kwargs):
    set_seed(0)
    return quiet(digits_dls(bs=16, limit=48), cbs=[PSMCallback(bank_size=32)], **kwargs)
def state(learn): return {n: t.clone() for n,t in learn.model.state_dict().items()}
def same(a, b): return a.keys()==b.keys() and all(torch.equal(a[n].cpu(), b[n].cpu()) for n in a)

def drawn(show):
    "The one figure that a call draws. It returns none, or a notebook would show it twice"
    plt.close('all')
    assert show() is None
    assert len(plt.get_fignums())==1
    return plt.gcf()

def once(tmp_path_factory, name, fill):
    "The folder that `fill` has filled. All workers of pytest-xdist share it, so that one of them makes it"
    base = tmp_path_factory.getbasetemp()
    if os.environ.get('PYTEST_XDIST_WORKER'): base = base.parent
    folder,done = base/name,base/f'{name}.done'
    with FileLock(str(base/f'{name}.lock')):
        if not done.exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            fill(folder)
            done.touch()
    return folder

def command(capsys, *args):
    "`psm_pretrain` in this process, as in a shell: its exit code, output and errors"
    from psm_fastai.pretrain import psm_pretrain
    argv,sys.argv = sys.argv,['psm_pretrain', *map(str, args)]
    capsys.readouterr()
    try:
        _run_cli(psm_pretrain.__wrapped__, False)
        code = 0
    except SystemExit as e: code = e.code
    finally: sys.argv = argv
    return code,*capsys.readouterr()

class HalfOnCPU(MixedPrecision):
    "fastai's `MixedPrecision` names CUDA; this one is for tests"
    def __init__(self, **scaler): super().__init__(AMPMode.BF16); self.scaler_args = dict(scaler or dict(enabled=False))
    def before_fit(self):
        super().before_fit()
        self.autocast,self.learn.scaler = torch.autocast('cpu', dtype=torch.bfloat16),torch.amp.GradScaler('cpu', **self.scaler_args)

def train(history, epochs=2, dls=None, cb=None, resume=None, cbs=(), **kwargs):
    "A training that a history follows, or what is left of it after the checkpoint `resume`"
    set_seed(0)
    learn = quiet(dls, cbs=[cb or PSMCallback(bank_size=128, n_pos=6, n_neg=20, mine_after=0., refresh=1), history], loss_func=no_loss)
    if resume:
        saved = CheckpointCallback(resume)
        cbs,kwargs = [saved, *L(cbs)],dict(kwargs, start_epoch=saved.resume(learn))
    learn.fit(epochs, 1e-3, cbs=L(cbs), **kwargs)
    return learn

def mirror(x): return x,x.flip(3)       # two views without any chance

class Spy(Callback):
    "Calls functions at events: `Spy(after_loss=f)`, each with the spy itself"
    def __init__(self, order=70, **events): self.order,self.events = order,events
    def __call__(self, event_name):
        super().__call__(event_name)
        if event_name in self.events: self.events[event_name](self)
