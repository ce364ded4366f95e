"Each method setting against its own formula in plain float64 loops, and what the settings do to a training"
import math
import pytest, torch, torch.nn.functional as F
from fastai.vision.all import set_seed
from psm_fastai.all import *
from common import Spy, silent
import psm_fastai.callback as callback

def unit(*shape, seed): return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.double), dim=-1)
def dot(a, b): return sum(x*y for x,y in zip(a.tolist(), b.tolist()))

class Case:
    """8 queries; a bank of 40 rows, 30 of them filled, some with the ids of the queries;
    and an index of 12 images, the keys of two of which are not there"""
    def __init__(self, seed, dtype=torch.double):
        self.bank = MemoryBank(40, 16).to(dtype)
        self.q,self.k = unit(8, 16, seed=seed).to(dtype),unit(8, 16, seed=seed+1).to(dtype)
        self.ids = torch.tensor([0,1,2,3,4,5,-1,7])
        self.bank.enqueue(unit(30, 16, seed=seed+2).to(dtype), torch.arange(30)%12)
        self.index,images = NeighbourIndex(),unit(12, 6, seed=seed+3).float()
        self.index.allocate(12, 16)
        self.index.fit(images, images[None,self.index.asked_rows()], trust=.5)
        self.index.trust.mul_(torch.rand(self.index.trust.shape, generator=torch.Generator().manual_seed(seed)))
        self.index.to(dtype).enqueue(unit(10, 16, seed=seed+4).to(dtype), torch.arange(10), torch.zeros(10, dtype=torch.long))
    def rows(self, i): return [j for j in range(30) if self.ids[i]<0 or self.bank.ids[j]!=self.ids[i]]
    def nearest(self, i, k): return sorted(self.rows(i), key=lambda j: -dot(self.k[i], self.bank.feats[j]))[:k]

    def trusted(self, i):
        "Of the image's neighbours, their rows in the index and how far they are trusted, if they are at all and have a key"
        if self.ids[i]<0: return {}
        near,trust = (getattr(self.index, n)[self.ids[i]].tolist() for n in ('near','trust'))
        return {j: t for j,t in zip(near, trust) if t>0 and j<10}

def info_nce(pos, negs, t): return -math.log(math.exp(pos/t)/(math.exp(pos/t)+sum(math.exp(n/t) for n in negs)))

def formula(c, i, name, drawn):
    "Loss of query i by the method's own definition"
    q,k,m = c.q[i],c.k[i],c.bank.feats
    s = lambda v: dot(q, v)
    if name=='moco':  return info_nce(s(k), [s(m[j]) for j in c.rows(i)], .07)
    if name=='byol':  return sum((a-b)**2 for a,b in zip(q.tolist(), k.tolist()))
    if name=='msf':   return sum(sum((a-b)**2 for a,b in zip(q.tolist(), v.tolist())) for v in [k]+[m[j] for j in c.nearest(i, 4)])/5
    if name=='nnclr':
        nn_ = c.nearest(i, 1)[0]
        return info_nce(s(m[nn_]), [s(m[j]) for j in c.rows(i) if j!=nn_], .1)
    if name=='from_bank':
        negs,near = [s(m[j]) for j in drawn[i]],c.nearest(i, 20)
        w = [math.exp(dot(k, m[j])/.1) for j in near]
        return .5*info_nce(s(k), negs, .07) + .5*sum(wj/sum(w)*info_nce(s(m[j]), negs, .07) for wj,j in zip(w, near))
    trust = c.trusted(i)
    free = [j for j in c.rows(i) if int(c.bank.ids[j]) not in trust]
    if drawn is not None: assert {*drawn[i]} <= {*free} and len(drawn[i])==6
    negs = [s(m[j]) for j in (free if drawn is None else drawn[i])]
    if name=='pnsm' or not trust: return info_nce(s(k), negs, .07)
    return .5*info_nce(s(k), negs, .07) + .5*sum(t/sum(trust.values())*info_nce(s(c.index.feats[j]), negs, .07) for j,t in trust.items())

def loss_of(name, case, **kwargs):
    method = psm_methods[name]()
    loss = method.rule(**{**method.loss_args, **kwargs})
    if loss.index is not None: loss.index = case.index
    return loss

@pytest.mark.parametrize('dtype,eps', [(torch.double,1e-9), (torch.float,1e-5)])
@pytest.mark.parametrize('name', psm_methods)
def test_each_method_is_its_formula(name, dtype, eps):
    for seed in (0, 10, 20):
        c = Case(seed, dtype)
        psm = loss_of(name, c, **(dict(n_neg=6) if name in ('psm','pnsm','from_bank') else {}))
        mined = psm.mine(c.q, c.k, c.ids, c.bank)
        drawn = None if mined.neg_idx is None else [idx[ok].tolist() for idx,ok in zip(mined.neg_idx, mined.neg_mask)]
        loss = psm(c.q, c.k, c.ids, c.bank, mined)
        want = torch.tensor([formula(c, i, name, drawn) for i in range(8)], dtype=torch.double)
        assert torch.allclose(loss.double(), want, atol=eps, rtol=eps)
    if name in ('psm','ppsm'): assert 2<sum(len(c.trusted(i))>0 for i in range(8))<8

@pytest.mark.parametrize('name', psm_methods)
def test_gradients(name):
    c = Case(5)
    psm = loss_of(name, c)
    mined = psm.mine(c.q, c.k, c.ids, c.bank)
    assert torch.autograd.gradcheck(lambda q: psm(q, c.k, c.ids, c.bank, mined), c.q.clone().requires_grad_())

@pytest.mark.parametrize('name', psm_methods)
def test_warm_up_uses_nothing_mined(name):
    psm = loss_of(name, c := Case(7))
    psm.mining = False
    plain = loss_of('byol' if psm.n_neg==0 else 'moco', c, temp=psm.temp)
    assert torch.allclose(psm(c.q, c.k, c.ids, c.bank), plain(c.q, c.k, c.ids, c.bank))

def seeded(**kwargs):
    set_seed(0)
    return silent(psm_learner(digits_dls(bs=50, limit=300), **kwargs))

@pytest.mark.parametrize('name', psm_methods)
def test_each_method_trains(name):
    learn = seeded(cbs=psm_methods[name](bank_size=100))
    start = [p.clone() for p in learn.model.encoder.parameters()]
    learn.fit_one_cycle(1, 1e-3)
    assert all(not torch.equal(a.cpu(), b.cpu()) for a,b in zip(start, learn.model.encoder.parameters()))
    assert learn.psm.method==name and all(math.isfinite(float(l)) for l in learn.recorder.losses)

@pytest.mark.parametrize('rule', ['index','bank'])
@pytest.mark.parametrize('enough,starts', [(0.,True), (1.1,False)])
def test_agreement_decides_when_to_mine(enough, starts, rule, monkeypatch):
    monkeypatch.setattr(callback, 'enough_agreement', enough)
    mining = []
    def look(cb):
        if cb.training: mining.append((cb.epoch, cb.model.loss.mining))
    learn = seeded(rule=rule, mine_after='agreement', bank_size=100, cbs=Spy(order=0, after_loss=look))
    learn.fit(2)
    assert set(mining)=={(0,False),(1,starts)} and learn.model.loss.started==starts
    first,last = (v[learn.recorder.metric_names[1:].index('agreement')] for v in learn.recorder.values)
    assert -.1<first<=1 and (math.isnan(last) if starts and rule=='index' else -.1<last<=1)      # an index does not ask the keys
    learn.fit(1)
    assert mining[-1]==(0,starts)       # a later fit goes on as it was, and so does a loaded model

def test_agreement_is_the_share_of_neighbours_that_both_views_mine_above_chance():
    shares = []
    def mined(bank, view, id, n=5):
        others = (bank.ids==id) | ~bank.ready
        return set((bank.feats @ view).masked_fill(others, -9).topk(n).indices.tolist())
    def look(cb):
        if not cb.training: return
        s,bank = cb.psm_step,cb.model.bank
        for k,q,id in zip(s.k, s.q, s.ids):
            both = mined(bank, k, id) & mined(bank, q, id)
            chance = 5/int((bank.ready & (bank.ids!=id)).sum())
            shares.append((len(both)/5-chance)/(1-chance))
    learn = seeded(mine_after='agreement', n_pos=5, bank_size=100, cbs=Spy(order=0, after_loss=look))
    learn.fit(1)
    assert abs(learn.recorder.values[-1][learn.recorder.metric_names[1:].index('agreement')] - sum(shares)/len(shares)) < 1e-4
