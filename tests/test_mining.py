"Mining and drawing against loops over every row"
import math
import pytest, torch, torch.nn.functional as F
from fastai.vision.all import set_seed
from hypothesis import given, settings, strategies as st
from common import PSMCallback, quiet
from psm_fastai.bank import MemoryBank
from psm_fastai.loss import PSMLoss
from psm_fastai.neighbours import IndexLoss
from psm_fastai.mining import top_rows
from psm_fastai.preflight import _first_look

id_ = st.integers(-1, 5)

@st.composite
def cases(draw):
    "A bank, half filled, with ties; queries, keys and ids, some of them unknown"
    K,D,B = draw(st.integers(1, 25)),draw(st.integers(2, 5)),draw(st.integers(1, 7))
    g = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    bank,ids = MemoryBank(K, D),draw(st.lists(id_, max_size=K))
    # few directions: ties
    bank.enqueue(F.normalize(torch.randint(-2, 3, (len(ids),D), generator=g)+.01, dim=1), torch.tensor(ids, dtype=torch.long))
    q = F.normalize(torch.randn(2*B, D, generator=g), dim=1)
    return bank,q[:B],q[B:],torch.tensor(draw(st.lists(id_, min_size=B, max_size=B)))

@pytest.mark.guarantee('properties')
@settings(max_examples=80, deadline=None)
@given(case=cases(), n_pos=st.integers(0, 8), n_neg=st.integers(1, 30))
def test_mined_and_drawn(case, n_pos, n_neg):
    bank,q,k,ids = case
    mined = PSMLoss(n_pos=n_pos, n_neg=n_neg, hard_weight=.5 if n_pos else 1.).mine(q, k, ids, bank)
    for i in range(len(q)):
        rows = [j for j in range(len(bank)) if ids[i]<0 or bank.ids[j]!=ids[i]]
        pos = mined.pos_idx[i][mined.pos_found[i]].tolist()
        assert len(pos)==min(n_pos, len(rows)) and len(set(pos))==len(pos) and set(pos)<=set(rows)
        sims = {j: float(k[i] @ bank.feats[j]) for j in rows}
        best = sorted(sims.values(), reverse=True)[:len(pos)]
        assert all(math.isclose(sims[j], s, abs_tol=1e-6) for j,s in zip(pos,best))      # ties may be resolved either way
        w = [math.exp((sims[j]-1)/.1) for j in pos]
        assert torch.allclose(mined.weights[i][mined.pos_found[i]], torch.tensor(w)/(sum(w) or 1), atol=1e-4)
        left = set(rows)-set(pos)
        neg = mined.neg_idx[i][mined.neg_mask[i]].tolist()
        assert len(neg)==min(n_neg, len(left)) and len(set(neg))==len(neg) and set(neg)<=left

@pytest.mark.parametrize('options', [dict(n_pos=0, n_neg=None, hard_weight=1.), dict(n_pos=4, n_neg=None, hard_weight=.3),
                                     dict(n_pos=4, n_neg=6, a=8., b=-.2, hard_weight=.5), dict(n_pos=2, n_neg=0, hard_weight=.4)])
def test_float32_loss_is_the_float64_formula(options):
    g = torch.Generator().manual_seed(1)
    bank = MemoryBank(32, 16)
    bank.enqueue(F.normalize(torch.randn(32, 16, generator=g), dim=1), torch.arange(32))
    q,k = F.normalize(torch.randn(2, 8, 16, generator=g), dim=2)
    psm = PSMLoss(temp=.07, soft_temp=.1, **options)
    mined = psm.mine(q, k, torch.arange(8), bank)
    loss = psm(q, k, torch.arange(8), bank, mined)
    Q,Kk,M = q.double(),k.double(),bank.feats.double()
    for i in range(8):
        rows = [j for j in range(32) if j!=i]
        pos = sorted(rows, key=lambda j: -float(Kk[i] @ M[j]))[:psm.n_pos]
        neg = [j for j in rows if j not in pos] if psm.n_neg is None else mined.neg_idx[i][mined.neg_mask[i]].tolist()
        def l(p):
            s = float(Q[i] @ p)
            others = sum(math.exp(float(Q[i] @ M[j])/.07) for j in neg)
            return 2-2*s if psm.n_neg==0 else -math.log(math.exp(s/.07)/(math.exp(s/.07)+others))
        w = [math.exp(float(Kk[i] @ M[j])/.1) for j in pos]
        want = psm.hard_weight*l(Kk[i]) + (1-psm.hard_weight)*sum(wj/sum(w)*l(M[j]) for wj,j in zip(w,pos))
        assert abs(float(loss[i])-want) < 1e-5*max(1, abs(want))

@pytest.mark.parametrize('options', [dict(n_pos=4, n_neg=None), dict(n_pos=4, n_neg=6)], ids=['all','drawn'])
def test_a_large_bank_is_mined_in_parts(options, monkeypatch):
    torch.manual_seed(0)
    bank = MemoryBank(40, 8)
    bank.enqueue(F.normalize(torch.randn(40, 8), dim=1), torch.arange(40))
    q,k = F.normalize(torch.randn(2, 10, 8), dim=2)
    psm,ids = PSMLoss(**options),torch.arange(10)
    def mine(): torch.manual_seed(1); return psm.mine(q, k, ids, bank)
    whole = mine()
    monkeypatch.setattr('psm_fastai.mining._table', 3*40)
    monkeypatch.setattr('psm_fastai.mining._least', 1)
    # draws of a part follow those of the part before, so not even they differ
    for a,b in zip(whole, mine()): assert a is None and b is None or torch.allclose(a.float(), b.float(), atol=1e-6)

@pytest.mark.parametrize('seed', range(3))
def test_only_the_rows_that_are_used_give_the_same_loss_and_gradient(monkeypatch, seed):
    g = torch.Generator().manual_seed(seed)
    q,k,rows = (F.normalize(torch.randn(n, 16, generator=g), dim=1) for n in (6,6,500))
    bank,psm,ids = MemoryBank(500, 16),PSMLoss(n_pos=3, n_neg=4),torch.arange(6)
    bank.enqueue(rows, torch.arange(500))
    q.requires_grad_()
    mined,res = psm.mine(q.detach(), k, ids, bank),[]
    for few in (0, 10**9):
        monkeypatch.setattr('psm_fastai.loss._few', few)
        loss = psm(q, k, ids, bank, mined)
        res.append((loss.detach(), *torch.autograd.grad(loss.sum(), q)))
    for a,b in zip(*res): assert torch.allclose(a, b, atol=1e-5)

@pytest.mark.parametrize('rule', ['moco','bank','index'])
def test_the_loss_with_all_rows_of_a_large_bank_is_the_same_in_blocks(monkeypatch, rule):
    "Value and gradient of each query, one of which may use no row. The last block is not full, and no row of the first one is ready"
    set_seed(0)
    psm = IndexLoss(n_pos=3) if rule=='index' else PSMLoss(n_pos=3*(rule=='bank'), n_neg=None, hard_weight=.4 if rule=='bank' else 1.)
    bank = MemoryBank(40, 8)
    bank.enqueue(F.normalize(torch.randn(40, 8), dim=1), torch.arange(40)%12)
    bank.ready[:9] = False
    if rule=='index':
        index = psm.index
        index.allocate(12, 8)
        index.enqueue(bank.feats[:12], torch.arange(12), torch.zeros(12).long())
        index.near,index.trust,index.made = torch.randint(0, 12, (12,3)).int(),torch.rand(12, 3),True
    q,k = (F.normalize(torch.randn(5, 8), dim=1) for _ in range(2))
    ids = torch.tensor([0,3,-1,11,5])
    mined = psm.mine(q, k, ids, bank)
    mined.neg_mask[1] = False
    def value_and_gradient():
        x = q.clone().requires_grad_()
        l = psm(x, k, ids, bank, mined)
        (l*torch.arange(1, 6)).sum().backward()
        return l.detach(),x.grad
    whole = value_and_gradient()
    monkeypatch.setattr('psm_fastai.loss._large', 0)
    monkeypatch.setattr('psm_fastai.loss._block', 7)
    used = []
    monkeypatch.setattr(PSMLoss, '_in_blocks', lambda self, *args, f=PSMLoss._in_blocks: used.append(1) or f(self, *args))
    for a,b in zip(value_and_gradient(), whole): assert torch.allclose(a, b, atol=1e-5)
    assert used and whole[1].abs().max()>.1

@pytest.mark.parametrize('seed', range(5))
def test_blocks_give_what_topk_gives(monkeypatch, seed):
    monkeypatch.setattr('psm_fastai.mining._enough', 1)
    g = torch.Generator().manual_seed(seed)
    K,k = int(torch.randint(300, 9000, (1,), generator=g)),int(torch.randint(1, 40, (1,), generator=g))
    s = torch.rand(5, K, generator=g).masked_fill(torch.rand(5, K, generator=g)<(.99 if seed%2 else .2), -torch.inf)
    top,idx = top_rows(s, k)
    want = s.topk(k, dim=1)
    assert torch.equal(top, want.values) and torch.equal(s.gather(1, idx), want.values)
    found = top>-torch.inf
    assert torch.equal(idx[found], want.indices[found])

def test_agreement_and_the_first_look_are_the_same_in_parts(monkeypatch):
    def figures():
        set_seed(0)
        learn = quiet(cbs=[PSMCallback(bank_size=64, n_pos=4, n_neg=16, mine_after='agreement')])
        learn.fit(1, 1e-3)
        loss = learn.psm.loss_cb
        return loss.share('agreement'),_first_look(learn, loss.two_views)
    whole = figures()
    monkeypatch.setattr('psm_fastai.mining._table', 5*64)
    monkeypatch.setattr('psm_fastai.mining._least', 1)
    assert figures()==pytest.approx(whole, rel=1e-3) and all(f>0 for f in whole)
