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
