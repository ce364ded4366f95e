"Each trap that a peer fell into, by the name of its public issue"
import math
import numpy as np, pytest, torch, torch.nn.functional as F
from fastai.vision.all import Callback, CancelBatchException, CancelStepException, set_seed
from sklearn.neighbors import KNeighborsClassifier
from psm_fastai.all import *
from common import *

pytestmark = pytest.mark.guarantee('traps')

def test_lightly_1009_rows_stay_normalised_and_the_loss_leaves_its_start(learn):
    "lightly #1009: rows lose their normalisation, and the loss sticks at ln(K+1)"
    for rows in (learn.model.bank, learn.model.loss.index):
        assert ((rows.feats[rows.ready].norm(dim=1)-1).abs()<1e-5).all() and rows.ready.sum()>=128
    set_seed(0)
    learn = quiet(cbs=[PSMCallback.from_bank(bank_size=128)])
    learn.fit_one_cycle(2, 1e-3)
    learn.fit_one_cycle(6, 3e-3)
    assert ((learn.model.bank.feats.norm(dim=1)-1).abs()<1e-5).all()
    assert learn.recorder.losses[-1] < math.log(129)-.3

def test_mmselfsup_106_and_moco_pr_100_the_last_shorter_batch_enters_whole():
    def before(cb): cb.step = int(cb.model.bank.step)
    def pred(cb): cb.k = cb.pred[1].clone() if cb.training else None
    def after(cb):
        if not cb.training: return
        bank,n = cb.model.bank,len(cb.k)
        assert int(bank.step)==cb.step+1
        rows = (int(bank.ptr)-n+torch.arange(n)) % len(bank.ids)
        assert torch.equal(bank.feats[rows], cb.k) and torch.equal(bank.ids[rows], cb.yb[0])
    dls = digits_dls(bs=48, limit=200)
    dls.train.drop_last = False      # mmselfsup #106, moco PR 100: the last, shorter batch breaks the queue
    quiet(dls, cbs=[PSMCallback(bank_size=100), Spy(order=40, before_batch=before, after_pred=pred, after_batch=after)]).fit(2)

def test_lightly_564_the_symmetric_loss_enqueues_after_both_halves():
    "lightly #564: the symmetric loss enqueues between its halves"
    def before(cb): cb.rows,cb.step = cb.model.bank.feats.clone(),int(cb.model.bank.step)
    def loss(cb):
        if not cb.training: return
        s,b,m = cb.psm_step,len(cb.xb[0]),cb.model
        assert len(s.q)==len(s.k)==len(s.loss)==2*b and torch.equal(s.ids[:b], s.ids[b:]) and torch.equal(m.bank.feats, cb.rows)
        with torch.no_grad():
            halves = [m.loss(s.q[h], s.k[h], s.ids[h], m.bank) for h in (slice(0,b), slice(b,2*b))]
        assert torch.allclose(cb.loss.detach(), (halves[0].mean()+halves[1].mean())/2, atol=1e-6)
        cb.seen = s
    def after(cb):
        if not cb.training: return
        bank,b = cb.model.bank,len(cb.xb[0])
        rows = (int(bank.ptr)-b+torch.arange(b)) % len(bank.ids)
        assert int(bank.step)==cb.step+1 and torch.equal(bank.feats[rows], cb.seen.k[:b])
    spy = Spy(order=40, before_batch=before, after_loss=loss, after_batch=after)
    quiet(cbs=[PSMCallback.nnclr(bank_size=120), spy]).fit(2)
    assert len(spy.seen.q)==64

def test_moco_146_an_image_is_never_among_its_negatives(monkeypatch):
    """lightly #564: a batch's own keys become its negatives.
    moco #146: so do older keys of the same image, where the bank is larger than the data"""
    seen,mine = [],PSMLoss.mine
    def spy(self, q, k, ids, bank):
        mined = mine(self, q, k, ids, bank)
        for idx,ok in ((mined.pos_idx,mined.pos_found),(mined.neg_idx,mined.neg_mask)):
            seen.append((ids, bank.ids[idx], ok, bank.ids.clone()))
        return mined
    monkeypatch.setattr(PSMLoss, 'mine', spy)
    def before(cb): cb.n = len(seen)
    def after(cb):
        if not cb.training: return
        assert len(seen)>cb.n
        for ids,rows,ok,bank in seen[cb.n:]:
            assert torch.equal(ids, cb.yb[0]) and ok.any()
            assert not ((rows==ids[:,None]) & ok).any()
    quiet(cbs=[PSMCallback.from_bank(bank_size=500, n_pos=5, n_neg=50, mine_after=0),
               Spy(order=9, before_batch=before, after_loss=after)]).fit(3)
    assert max(int((bank==ids[:,None]).sum()) for ids,_,_,bank in seen) > 32     # the bank did hold several keys of these images

def test_moco_46_split_batch_norm_parts_query_and_key():
    m = PSMModel(small_resnet(1), torch.randn(2,1,24,24), split_bn=3)
    x = torch.randn(9, 1, 24, 24)
    one = lambda x: F.normalize(m.projector(m.encoder(x)), dim=1)
    m.train()
    assert torch.allclose(m.query(x), torch.cat([one(o) for o in x.split(3)]), atol=1e-6)
    torch.manual_seed(3)
    k = m.key(x)
    torch.manual_seed(3)
    order = torch.randperm(9)
    m.split_bn = 1
    want = torch.cat([m.key(x[part]) for part in order.split(3)])
    assert torch.allclose(k[order], want, atol=1e-6) and not torch.allclose(k, m.key(x), atol=1e-3)
    m.split_bn = 3
    assert torch.allclose(m.eval().query(x), one(x), atol=1e-6)
    with pytest.raises(ValueError, match='split_bn=30 needs batches of at least 60'): quiet(cbs=[PSMCallback(split_bn=30)])

def test_moco_70_the_momentum_encoder_has_right_statistics():
    "moco #70: the momentum encoder's batch-norm statistics are wrong when it is evaluated"
    set_seed(0)
    learn = silent(psm_learner(digits_dls(), momentum=.98))
    learn.fit_one_cycle(10, 8e-3, wd=.05)
    online,slow = learn.knn_accuracy(),learn.knn_accuracy(encoder=learn.model.momentum_encoder)
    assert online>.5 and abs(online-slow)<.03

def test_self_supervised_a_metric_reads_the_right_neighbours():
    "self_supervised: a metric reads the wrong neighbour column"
    shares = []
    def look(cb):
        if not cb.training: return
        (q,k),(ids,labels),m = [t.detach() for t in cb.pred],cb.yb,cb.model
        for i in range(len(q)):
            s = (m.bank.feats @ k[i]).masked_fill((m.bank.ids==ids[i]) | ~m.bank.ready, -9)
            shares.append((m.bank.labels[s.topk(7).indices]==labels[i]).float().mean().item())
    learn = quiet(cbs=[PSMCallback.from_bank(bank_size=128, n_pos=7), Spy(after_loss=look)])
    learn.fit(1)
    assert abs(learn.recorder.values[-1][2]-np.mean(shares)) < 1e-5

def test_a_cancelled_batch_is_not_enqueued_again():
    class Cancel(Callback):
        order = 9
        def before_batch(self):
            if self.training and self.iter==1: raise CancelBatchException
        def before_step(self):
            if self.iter==2: self.was = [p.clone() for p in self.model.momentum_encoder.parameters()]; raise CancelStepException
        def after_batch(self):
            if self.training and self.iter==2: assert all(map(torch.equal, self.was, self.model.momentum_encoder.parameters()))
    learn = quiet(cbs=[PSMCallback(bank_size=1000), Cancel()])
    learn.fit(1)
    assert len(learn.model.bank)==200 + 5*32      # primed with all 200, then six batches less the cancelled one

def test_lightly_the_bank_is_saved_with_the_model(learn, tmp_path):
    "lightly: the bank is lost on resume"
    learn.path = tmp_path
    learn.save('m')
    other = quiet(cbs=[PSMCallback(bank_size=128)])
    other.path = tmp_path
    other.load('m')
    assert same(state(learn), state(other))

def test_lightly_1840_the_temperature_of_knn_is_the_one_given():
    "lightly #1840: it changed silently; self_supervised: votes of the wrong neighbours"
    learn = quiet(cbs=[PSMCallback(bank_size=128), KNNCallback(k=7, temp=.03)])
    learn.fit(1, 1e-3)
    acc = learn.knn_accuracy(k=7, temp=.03)
    assert learn.recorder.values[-1][-1]==float(acc) and acc.settings==dict(k=7, temp=.03)
    (x,y),(xv,yv) = labelled_features(learn)
    skl = KNeighborsClassifier(n_neighbors=7, metric='cosine', weights=lambda d: torch.tensor((1-d)/.03).exp().numpy())
    skl.fit(x.numpy(), y.numpy())
    assert (skl.predict(xv.numpy())==yv.numpy()).mean()==float(acc)
    x,y,xv = torch.randn(200, 4),torch.randint(9, (200,)),torch.randn(50, 4)
    assert (knn_predict(x, y, xv, 20, .03)!=knn_predict(x, y, xv, 20, 9.)).any()
