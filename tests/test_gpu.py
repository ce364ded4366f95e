"What only a GPU can show"
import pytest, torch
from fastai.vision.all import DataLoaders, TensorCategory, TfmdDL, default_device
from psm_fastai.all import *
from common import quiet

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA GPU')

@pytest.mark.parametrize('settings', [dict(k=5, n_neg=32), dict(k=5, n_neg=None), dict(k=0, n_neg=0, hard_weight=1., predictor=True, symmetric=True)], ids=str)
def test_nothing_in_a_step_waits_for_the_gpu(settings):
    dls = digits_dls(bs=32, limit=200)
    dls.cuda()
    learn = quiet(dls, cbs=[PSMCallback(bank_size=150, mine_after=0., **settings)])
    learn.fit(1, 1e-3)
    m,views,x = learn.model.train(),learn.psm.parts[0].two_views,dls.train.one_batch()[0]
    labels = torch.zeros(len(x), dtype=torch.long, device=x.device)
    ids = torch.arange(len(x), device=x.device)
    torch.cuda.set_sync_debug_mode('error')
    try:
        q,k = m(*views(x))
        asked = ids.repeat(len(q)//len(x))
        m.loss(q, k, asked, m.bank, m.loss.mine(q, k, asked, m.bank)).mean().backward()
        m.update_momentum(.99)
        m.bank.enqueue(k.detach()[:len(x)], ids, labels)
    finally: torch.cuda.set_sync_debug_mode('default')

def test_loaders_may_have_no_device():
    "fastai moves their batches to the model; what looks at images by itself does so too"
    items = [(torch.rand(1,24,24), TensorCategory(i%2)) for i in range(96)]
    dls = DataLoaders(*(TfmdDL(items[:n], bs=32, shuffle=n>32, num_workers=0) for n in (96,32)))
    learn = quiet(dls, cbs=[PSMCallback(bank_size=64), NeighbourHistory(n_probes=4, k=2, n_neg=2), KNNCallback()], loss_func=no_loss)
    learn.model.to(default_device())
    learn.fit(2, 1e-3)
    assert {p.device.type for p in learn.model.parameters()}=={default_device().type}=={learn.model.bank.feats.device.type}
    assert len(learn.features())==96 and len(mined_neighbours(learn, [0])) and learn.knn_accuracy().n==32
