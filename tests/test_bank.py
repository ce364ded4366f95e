"The ring buffer against a plain Python deque"
from collections import deque
import pytest, torch, torch.nn.functional as F
from psm_fastai.bank import MemoryBank

@pytest.mark.parametrize('seed', range(30))
def test_bank_is_a_deque(seed):
    g = torch.Generator().manual_seed(seed)
    def rnd(lo, hi): return int(torch.randint(lo, hi, (), generator=g))
    K,D = rnd(1,20),rnd(1,6)
    bank,ref = MemoryBank(K, D),deque(maxlen=K)
    for step in range(rnd(1,12)):
        B = rnd(1, 2*K+3)
        keys = F.normalize(torch.randn(B, D, generator=g), dim=1)
        bad = torch.rand(B, generator=g) < .2
        keys[bad] = torch.tensor([torch.nan,torch.inf,0.,3.])[torch.randint(4, (int(bad.sum()),1), generator=g)]
        ids,labels = torch.randint(99, (B,), generator=g),torch.randint(-1, 5, (B,), generator=g)
        bank.enqueue(keys, ids, labels)
        for i in range(B):
            if not bad[i]: ref.append((keys[i].tolist(), int(ids[i]), int(labels[i]), step))
    assert len(bank)==len(ref)==int(bank.ready.sum())
    oldest = [(int(bank.ptr)+j) % K for j in range(K)] if len(ref)==K else range(len(ref))
    assert [(bank.feats[j].tolist(), int(bank.ids[j]), int(bank.labels[j]), int(bank.steps[j])) for j in oldest]==list(ref)

def test_wrong_shapes_are_refused_and_change_nothing():
    bank = MemoryBank(4, 3)
    with pytest.raises(ValueError, match=r'\[B, 3\], got \[2, 5\]'): bank.enqueue(torch.ones(2,5))
    with pytest.raises(ValueError, match='2 keys need as many ids'): bank.enqueue(torch.eye(3)[:2], torch.arange(3))
    assert len(bank)==0 and int(bank.step)==0

def test_enqueue_and_mining_never_ask_the_device(monkeypatch):
    "On a GPU every `.item()`, `bool()` or boolean index would wait for it; meta tensors have no values to ask for"
    from psm_fastai.loss import PSMLoss
    with torch.device('meta'):
        bank,q = MemoryBank(64, 8),torch.empty(16, 8)
        ids = torch.empty(16, dtype=torch.long)
        bank.enqueue(q, ids, ids)
        for psm in (PSMLoss(k=3), PSMLoss(k=3, n_neg=8), PSMLoss(k=0, hard_weight=1)): assert psm(q, q, ids, bank).shape==(16,)
