"""Two processes train together on a CPU; each writes what it saw: accelerate launch ddp_run.py FOLDER N MODE
MODE: plain; ungathered, in which each bank gets the keys of its own process alone; index, which mines from the index of all images; or synced, with a layer that waits for the other process, as SyncBatchNorm does, and drawn negatives"""
import sys, torch
torch.set_num_threads(1)
from functools import partial
from fastai.vision.all import *
from fastai.distributed import *
from psm_fastai import callback
from psm_fastai.all import *
from common import Spy, mirror, silent

path,n,mode = Path(sys.argv[1]),int(sys.argv[2]),sys.argv[3]

def _broadcast(self, t, rank):      # fastai's asks for CUDA
    t = torch.LongTensor(t)
    torch.distributed.broadcast(t, rank)
    return t.tolist()
DistributedDL._broadcast = _broadcast
if mode=='ungathered': callback.gather_ranks = lambda learn, t: t

class Synced(nn.Module):
    "Takes off the mean over both processes while it trains"
    def forward(self, x):
        if not self.training or not torch.distributed.is_initialized(): return x
        mean = x.detach().mean()
        torch.distributed.all_reduce(mean)
        return x-mean/2

set_seed(0)
dls = digits_dls(bs=10, limit=n)
dls.train.drop_last = False
encoder = nn.Sequential(nn.Conv2d(1, 8, 3, 2), *[Synced()]*(mode=='synced'), nn.ReLU(), nn.Conv2d(8, 16, 3, 2))
learn = silent(Learner(dls, encoder, cbs=[PSMCallback(**(dict(trust=1., refresh=1) if mode=='index' else dict(rule='bank')), bank_size=50, k=4, n_neg=10 if mode=='synced' else None, mine_after=0., momentum=.9, proj_dim=16, views=mirror)], opt_func=partial(SGD, mom=0., wd=0.), path=path))
if mode=='synced': learn.logger = print      # fastai silences all processes but the first
learn.model.projector,learn.model.momentum_projector = nn.Linear(16, 16),nn.Linear(16, 16).requires_grad_(False)     # without batch-norm
set_seed(10+rank_distrib())          # from here on the processes would draw apart

seen = []
def start(cb): seen.append({n: t.clone() for n,t in psm_model(cb.learn).state_dict().items()})
def keep(cb):
    if cb.training: cb.asked = cb.yb[0].tolist()
def forward(cb):
    if cb.training: cb.read = psm_model(cb.learn).bank.ids.clone()      # after DDP has broadcast buffers
def after(cb):
    m = psm_model(cb.learn)
    if cb.training: seen.append(dict(asked=cb.asked, read=cb.read, **{n: getattr(m.bank, n).clone() for n in ('feats','ids','labels','steps')}, weights=[p.clone() for p in m.encoder.parameters()]))
history = NeighbourHistory(n_probes=4, k=3)
with learn.distrib_ctx(sync_bn=False, cpu=True):
    learn.fit(2, .1, wd=0., cbs=[history]*(mode!='ungathered') + [Spy(order=12, before_train=start, before_batch=keep, after_pred=forward, after_batch=after), CheckpointCallback(path/'c.pth')])
    torch.distributed.barrier()         # one that leaves while the other still talks to it aborts that one
assert learn.dls.train is dls.train and not is_distributed(learn)
index = learn.model.loss.index
torch.save(dict(map=history.map.state(), index=index and index.state_dict(), model=learn.model.state_dict(), seen=seen, purity=learn.recorder.values[-1][2], columns=learn.recorder.metric_names, features=learn.get_preds()[0][:3]), path/f'{rank_distrib()}.pth')
