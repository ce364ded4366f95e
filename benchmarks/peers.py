"""Images a second of whole training loops: ours in the MoCo and PSM settings, lightly's documented MoCo and NNCLR loops, and pytorch-metric-learning's CrossBatchMemory

pip install -r benchmarks/requirements.txt && python benchmarks/peers.py
"""
import copy, statistics, warnings
from types import SimpleNamespace
warnings.filterwarnings('ignore')
import torch, torch.nn.functional as F
from PIL import Image
from fastai.vision.all import DataLoaders, TensorImage, nn, set_seed
from fastcore.script import call_parse
from lightly.loss import NTXentLoss
from lightly.models.modules import MoCoProjectionHead, NNCLRPredictionHead, NNCLRProjectionHead, NNMemoryBankModule
from lightly.models.utils import deactivate_requires_grad, update_momentum
from lightly.transforms import MoCoV2Transform, SimCLRTransform
from psm_fastai.all import *
from pytorch_metric_learning.losses import CrossBatchMemory, NTXentLoss as MetricNTXent
from bench import in_turn, ratio, save, silent

class Pictures:
    "Random images, held in memory as torchvision's CIFAR10 holds them"
    def __init__(self, n, size, tfm=None): self.x,self.tfm = torch.randint(0, 256, (n,size,size,3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)),tfm
    def __len__(self): return len(self.x)
    def __getitem__(self, i): return (TensorImage(self.x[i].permute(2,0,1)),) if self.tfm is None else (self.tfm(Image.fromarray(self.x[i].numpy())),0)

def pooled(arch): return nn.Sequential(create_encoder(arch), PoolFeatures())

def loader(tfm, o): return torch.utils.data.DataLoader(Pictures(o.n, o.size, tfm), batch_size=o.bs, shuffle=True, drop_last=True, num_workers=o.workers, persistent_workers=o.workers>0)

def lightly_moco(o):
    net,head = pooled(o.arch).train(),MoCoProjectionHead(o.feats, o.hidden, o.dim)
    net_m,head_m = copy.deepcopy(net),copy.deepcopy(head)
    deactivate_requires_grad(net_m), deactivate_requires_grad(head_m)
    loss_func,opt = NTXentLoss(temperature=.07, memory_bank_size=(o.bank,o.dim)),torch.optim.Adam([*net.parameters(), *head.parameters()], 1e-3)
    dl = loader(MoCoV2Transform(input_size=o.size), o)
    def epoch():
        for (xq,xk),_ in dl:
            update_momentum(net, net_m, m=.99), update_momentum(head, head_m, m=.99)
            q = head(net(xq).flatten(1))
            with torch.no_grad(): k = head_m(net_m(xk).flatten(1)).detach()
            loss_func(q, k).backward()
            opt.step()
            opt.zero_grad()
    return epoch

def lightly_nnclr(o):
    net,head,pred = pooled(o.arch).train(),NNCLRProjectionHead(o.feats, o.hidden, o.dim),NNCLRPredictionHead(o.dim, o.hidden, o.dim)
    bank,loss_func = NNMemoryBankModule(size=(o.bank,o.dim)),NTXentLoss()
    opt = torch.optim.Adam([*net.parameters(), *head.parameters(), *pred.parameters()], 1e-3)
    dl = loader(SimCLRTransform(input_size=o.size), o)
    def epoch():
        for (xa,xb),_ in dl:
            za,zb = (head(net(x).flatten(1)) for x in (xa,xb))
            pa,pb = pred(za),pred(zb)
            za,zb = bank(za.detach(), update=False),bank(zb.detach(), update=True)
            (.5*(loss_func(za, pb)+loss_func(zb, pa))).backward()
            opt.step()
            opt.zero_grad()
    return epoch

def metric_learning(o):
    "MoCo with CrossBatchMemory as its documentation has it, on our views"
    net = nn.Sequential(pooled(o.arch), MoCoProjectionHead(o.feats, o.hidden, o.dim)).train()
    net_m = copy.deepcopy(net)
    deactivate_requires_grad(net_m)
    loss_func,opt = CrossBatchMemory(MetricNTXent(temperature=.07), o.dim, memory_size=o.bank),torch.optim.Adam(net.parameters(), 1e-3)
    dl,views,seen = dls(o, o.n//8).train,photo_views(),[0]      # an eighth of the epoch, since it is slow
    def epoch():
        for x, in dl:
            xq,xk = views(as_floats(x))
            update_momentum(net, net_m, m=.99)
            q = net(xq)
            with torch.no_grad(): k = net_m(xk)
            labels = torch.arange(seen[0], seen[0]+len(q))
            seen[0] += len(q)
            loss_func(torch.cat([q,k]), labels.repeat(2), enqueue_mask=torch.arange(2*len(q))>=len(q)).backward()
            opt.step()
            opt.zero_grad()
    return epoch

def dls(o, n=None): return DataLoaders(*(MemoryDL(Pictures(m, o.size), bs=min(o.bs, m), shuffle=True, drop_last=True) for m in (n or o.n,2)))     # hardly any validation: the peers' loops have none

def ours(o, cb):
    learn = silent(psm_learner(dls(o), o.arch, cbs=cb, pretrained=False))
    def epoch(): learn.fit(1, 1e-3)
    return epoch

def same_loss(o):
    "Largest difference between the losses of the MoCo setting and of lightly's NTXentLoss, on the same features and bank"
    g = torch.Generator().manual_seed(1)
    q,k,rows = (F.normalize(torch.randn(n, o.dim, generator=g), dim=1) for n in (o.bs,o.bs,o.bank))
    bank,theirs = MemoryBank(o.bank, o.dim),NTXentLoss(temperature=.07, memory_bank_size=(o.bank,o.dim))
    for r,ids in zip(rows.split(o.bs), torch.arange(o.bs, o.bs+o.bank).split(o.bs)): bank.enqueue(r, ids)
    theirs(q, k)             # makes its bank
    theirs.memory_bank.bank = rows.clone()
    q.requires_grad_()
    return abs(PSMLoss(n_pos=0, n_neg=None, hard_weight=1.)(q, k, torch.arange(o.bs), bank).mean()-theirs(q, k)).item()

@call_parse
def main(
    n:int=2048, # Images in an epoch
    size:int=32, # Height and width
    bs:int=256, # Batch size
    bank:int=4096, # Rows of the bank
    dim:int=128, # Length of queries and keys
    hidden:int=256, # Width of the projector
    arch:str='small_resnet', # Encoder
    workers:int=2, # Of the peers' loaders; ours has none
    rounds:int=5, # Measurements of each
):
    set_seed(0)
    o = SimpleNamespace(n=n, size=size, bs=bs, bank=bank, dim=dim, hidden=hidden, arch=arch, workers=workers)
    o.feats = feature_size(create_encoder(arch), torch.zeros(2, 3, size, size))
    differ = same_loss(o)
    assert differ<1e-5, f"the losses differ by {differ}"
    settings = dict(bank_size=bank, proj_dim=dim, hidden_dim=hidden, views=photo_views())
    t = in_turn(rounds, ours_moco=ours(o, PSMCallback.moco(**settings)), lightly_moco=lightly_moco(o), metric_learning_moco=metric_learning(o),
        ours_psm=ours(o, PSMCallback(mine_after=0., **settings)), lightly_nnclr=lightly_nnclr(o))
    t['metric_learning_moco'] = [8*s for s in t['metric_learning_moco']]
    used = n//bs*bs
    speed = {name: used/statistics.median(v) for name,v in t.items()}
    for name,v in speed.items(): print(f"{name:<20} {v:7.0f} images/s")
    over = {f'{a} over {b}': ratio(t[b], t[a]) for a,b in (('ours_moco','lightly_moco'), ('ours_moco','metric_learning_moco'), ('ours_psm','lightly_nnclr'))}
    for name,r in over.items(): print(f"{name}: {r['ratio']:.2f} ({r['low']:.2f} to {r['high']:.2f})" + ("   (different work)" if 'nnclr' in name else ''))
    print(f"the MoCo losses differ by {differ:.1e}")
    save('peers', [dict(vars(o), images_per_second=speed, over=over, losses_differ=differ)])
