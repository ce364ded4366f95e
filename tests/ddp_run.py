"""Two processes train together on a CPU, once in each mode. Each writes what it saw to FOLDER/MODE:
accelerate launch ddp_run.py FOLDER MODES

MODES, joined by commas:
plain
index: mines from the index of all images
ungathered: each bank gets the keys of its own process alone
synced: with a layer that waits for the other process, as SyncBatchNorm does, and drawn negatives"""
import sys, torch
torch.set_num_threads(1)
from contextlib import nullcontext
from functools import partial
from unittest import mock
from fastai.vision.all import *
from fastai.distributed import *
from psm_fastai import callback
from psm_fastai.all import *
from common import Spy, mirror, silent

def _broadcast(self, t, rank):      # fastai's asks for CUDA
    t = torch.LongTensor(t)
    torch.distributed.broadcast(t, rank)
    return t.tolist()
DistributedDL._broadcast = _broadcast

images = dict(plain=95, index=95, ungathered=60, synced=60)

class Synced(nn.Module):
    "Takes off the mean over both processes while it trains"
    def forward(self, x):
        if not self.training or not torch.distributed.is_initialized(): return x
        mean = x.detach().mean()
        torch.distributed.all_reduce(mean)
        return x-mean/2

def make_learner(path, mode):
    dls = digits_dls(bs=10, limit=images[mode])
    dls.train.drop_last = False
    encoder = nn.Sequential(nn.Conv2d(1, 8, 3, 2), *[Synced()]*(mode=='synced'), nn.ReLU(), nn.Conv2d(8, 16, 3, 2))
    rule = dict(trust=1., refresh=1) if mode=='index' else dict(rule='bank')
    n_neg = 10 if mode=='synced' else None
    psm = PSMCallback(**rule, bank_size=50, n_pos=4, n_neg=n_neg, mine_after=0., momentum=.9, proj_dim=16, views=mirror)
    learn = silent(Learner(dls, encoder, cbs=[psm], opt_func=partial(SGD, mom=0., wd=0.), path=path))
    if mode=='synced': learn.logger = print      # fastai silences all processes but the first
    # without batch-norm
    learn.model.projector,learn.model.momentum_projector = nn.Linear(16, 16),nn.Linear(16, 16).requires_grad_(False)
    return learn

def spy_on(seen):
    "What each process starts an epoch with, asks for, reads from the bank, and has after each batch"
    def start(cb): seen.append({n: t.clone() for n,t in psm_model(cb.learn).state_dict().items()})
    def keep(cb):
        if cb.training: cb.asked = cb.yb[0].tolist()
    def forward(cb):
        if cb.training: cb.read = psm_model(cb.learn).bank.ids.clone()      # after DDP has broadcast buffers
    def after(cb):
        if not cb.training: return
        m = psm_model(cb.learn)
        rows = {n: getattr(m.bank, n).clone() for n in ('feats','ids','labels','steps')}
        seen.append(dict(asked=cb.asked, read=cb.read, **rows, weights=[p.clone() for p in m.encoder.parameters()]))
    return Spy(order=12, before_train=start, before_batch=keep, after_pred=forward, after_batch=after)

def train(path, mode):
    path.mkdir(exist_ok=True)
    set_seed(0)
    learn = make_learner(path, mode)
    train_dl,seen,history = learn.dls.train,[],NeighbourHistory(n_probes=4, n_pos=3)
    set_seed(10+rank_distrib())          # from here on the processes would draw apart
    cbs = [history]*(mode!='ungathered') + [spy_on(seen), CheckpointCallback(path/'c.pth')]
    ungathered = mock.patch.object(callback, 'gather_ranks', lambda learn, t: t)
    with learn.distrib_ctx(sync_bn=False, cpu=True), ungathered if mode=='ungathered' else nullcontext():
        learn.fit(2, .1, wd=0., cbs=cbs)
        torch.distributed.barrier()         # one that leaves while the other still talks to it aborts that one
    assert learn.dls.train is train_dl and not is_distributed(learn)
    index = learn.model.loss.index
    torch.save(dict(map=history.map.state(), index=index and index.state_dict(), model=learn.model.state_dict(), seen=seen,
        purity=learn.recorder.values[-1][2], columns=learn.recorder.metric_names, features=learn.get_preds()[0][:3]),
        path/f'{rank_distrib()}.pth')

for mode in sys.argv[2].split(','): train(Path(sys.argv[1])/mode, mode)
