"The ring buffer against a plain Python deque"
from collections import deque
import pytest, torch, torch.nn.functional as F
from hypothesis import given, settings, strategies as st
from psm_fastai.bank import MemoryBank

# id, label, what is wrong with the key
row = st.tuples(st.integers(-1, 99), st.integers(-1, 5), st.sampled_from([None]*8+[torch.nan, torch.inf, 0., 3.]))

@pytest.mark.guarantee('properties')
@settings(max_examples=60, deadline=None)
@given(K=st.integers(1, 20), D=st.integers(1, 6), batches=st.lists(st.lists(row, max_size=45), max_size=12), seed=st.integers(0, 2**31))
def test_bank_is_a_deque(K, D, batches, seed):
    g = torch.Generator().manual_seed(seed)
    bank,ref = MemoryBank(K, D),deque(maxlen=K)
    for step,batch in enumerate(batches):
        keys = F.normalize(torch.randn(len(batch), D, generator=g), dim=1)
        for i,(*_,wrong) in enumerate(batch):
            if wrong is not None: keys[i] = wrong
        ids,labels = (torch.tensor([r[j] for r in batch], dtype=torch.long) for j in (0,1))
        bank.enqueue(keys, ids, labels)
        for k,(i,l,wrong) in zip(keys, batch):
            if wrong is None: ref.append((k.tolist(), i, l, step))
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
        for psm in (PSMLoss(n_pos=3), PSMLoss(n_pos=3, n_neg=8), PSMLoss(n_pos=0, hard_weight=1)): assert psm(q, q, ids, bank).shape==(16,)

def test_keys_of_another_tensor_type_leave_plain_buffers():
    "Else a checkpoint would hold fastai's types, which a safe `torch.load` refuses"
    from fastai.vision.all import TensorImage
    bank = MemoryBank(4, 3)
    bank.enqueue(TensorImage(torch.eye(3)), TensorImage(torch.arange(3)), TensorImage(torch.arange(3)))
    assert len(bank)==3 and all(type(b) is torch.Tensor for b in bank.buffers())
