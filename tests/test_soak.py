"Ten thousand steps on tiny data: python -m pytest -m slow tests/test_soak.py"
import psutil, pytest
from fastai.vision.all import set_seed
from psm_fastai.all import *
from common import *

@pytest.mark.slow
@pytest.mark.guarantee('soak')
def test_memory_stays_flat():
    "All monitors watch; after the first thousand steps the process grows by less than 5 %"
    set_seed(0)
    seen,steps = [],[0]
    def count(cb):
        if not cb.training: return
        steps[0] += 1
        if steps[0]%500==0: seen.append(psutil.Process().memory_info().rss)
    learn = quiet(digits_dls(bs=8, limit=400), cbs=[PSMCallback(bank_size=100, n_pos=5, n_neg=20), PurityCallback(), CollapseCallback(),
                                                    AgreementCallback(), Spy(after_batch=count)])
    learn.fit(200, 1e-3)
    assert steps[0]==10_000 and max(seen[2:]) < 1.05*seen[1], [s/1e6 for s in seen]
