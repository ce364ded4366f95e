"What only a GPU can show"
import pytest, torch
from fastai.vision.all import TensorCategory, default_device
from psm_fastai.all import *
from common import quiet, tiny
from data import Images, loaders

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA GPU')

def images(channels, device=None):
    return loaders(*(Images(n, (channels,24,24), label=lambda i: TensorCategory(i%2)) for n in (192,32)), bs=32, device=device)

@pytest.mark.parametrize('channels', [1,3])      # digit_views and photo_views
@pytest.mark.parametrize('settings', [dict(n_pos=5, n_neg=32, trust=.5), dict(n_pos=5, n_neg=None, trust=.5),
                                      dict(rule='bank', n_pos=5, n_neg=32), dict(rule='bank', n_pos=5, n_neg=None),
                                      dict(n_pos=0, n_neg=0, hard_weight=1., predictor=True, symmetric=True)], ids=str)
def test_nothing_in_a_step_waits_for_the_gpu(settings, channels):
    dls = images(channels, default_device())
    learn = quiet(dls, model=tiny(channels), cbs=[PSMCallback(bank_size=150, mine_after=0., **settings)], loss_func=no_loss)
    learn.fit(1, 1e-3)
    m,views,x = learn.model.train(),learn.psm.loss_cb.two_views,dls.train.one_batch()[0]
    labels = torch.zeros(len(x), dtype=torch.long, device=x.device)
    ids = torch.arange(len(x), device=x.device)
    torch.cuda.set_sync_debug_mode('error')
    try:
        q,k = m(*views(x))
        asked = ids.repeat(len(q)//len(x))
        m.loss(q, k, asked, m.bank, m.loss.mine(q, k, asked, m.bank)).mean().backward()
        m.update_momentum(.99)
        m.remember(k.detach()[:len(x)], ids, labels)
    finally: torch.cuda.set_sync_debug_mode('default')

def test_loaders_may_have_no_device():
    "fastai moves their batches to the model; what looks at images by itself does so too"
    learn = quiet(images(1), cbs=[PSMCallback(bank_size=64), NeighbourHistory(n_probes=4, n_pos=2, n_neg=2), KNNCallback()],
                  loss_func=no_loss)
    learn.model.to(default_device())
    learn.fit(2, 1e-3)
    assert {p.device.type for p in learn.model.parameters()}=={default_device().type}=={learn.model.bank.feats.device.type}
    assert preflight(learn, learn.psm.loss_cb.two_views)[0] and len(learn.features())==192 and len(mined_neighbours(learn))
    assert learn.knn_accuracy().n==32
