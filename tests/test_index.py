"The index of neighbours: what it leaves as it was, and what happens if nothing can be trusted"
import pytest, torch
from fastai.vision.all import TensorImage, Transform, set_seed
from psm_fastai.all import *
from psm_fastai import neighbours as index_module
from common import *
from data import Images, loaders

# images without anything in common
def noise_dls(): return loaders(*(Images(n, (1,12,12), label=lambda i: i%3) for n in (128,64)), bs=32)

def wipe(x): return torch.rand_like(x),torch.rand_like(x)       # views that keep nothing of the image

def test_the_warm_up_is_that_of_moco_and_so_is_a_training_in_which_nothing_is_trusted():
    "To the last bit, the making of the index included: nothing is drawn by it, and no statistics move"
    def trained(cb):
        set_seed(0)
        learn = quiet(noise_dls(), cbs=[cb], loss_func=no_loss)
        learn.fit_one_cycle(3, 1e-2)
        return learn
    psm,moco = trained(PSMCallback(mine_after=.3, refresh=1, views=wipe)),trained(PSMCallback.moco(views=wipe))
    assert psm.model.loss.index.made and not psm.model.loss.index.trust.any()
    a,b = psm.model.state_dict(),moco.model.state_dict()
    assert all(torch.equal(t, a[n]) for n,t in b.items() if 'extra_state' not in n)
    assert psm.recorder.values[-1][psm.recorder.metric_names.index('trusted')-1]==0

class Brighten(Transform):
    "Of training images only"
    split_idx,order = 0,60
    def encodes(self, x:TensorImage): return x+100

def test_a_loader_still_augments_after_the_index_was_made():
    "The loader of the index shares its transforms with the one that trains"
    seen,dls = [],digits_dls(bs=32, limit=200)
    dls.train.after_batch.add(Brighten())
    def views(x):
        seen.append(x.min().item())
        return x,x
    learn = quiet(dls, cbs=[PSMCallback(mine_after=.5, views=views)])
    learn.fit(1)
    bright = [v>50 for v in seen]
    assert bright[0] and True in bright[bright.index(False):]       # False when the index asks for weak views; then training goes on

def test_other_images_clear_it():
    set_seed(0)
    learn = quiet(digits_dls(bs=32, limit=200), cbs=[PSMCallback(n_pos=4, mine_after=0.)])
    learn.fit(1, 1e-3)
    learn.dls = digits_dls(bs=32, limit=160)
    learn.fit(1, 1e-3)
    index = learn.model.loss.index
    assert len(index)==160 and index.near.shape==(160,4) and index.near.max()<160
    assert index.labels.tolist()==[int(learn.dls.train_ds[i][1]) for i in range(160)]

def test_it_is_saved_and_loaded_whatever_its_size(tmp_path):
    def learner(limit):
        return quiet(digits_dls(bs=32, limit=limit), cbs=[PSMCallback(bank_size=128, n_pos=4, mine_after=0.)], path=tmp_path)
    a,b = learner(200),learner(160)
    a.fit(1, 1e-3), b.fit(1, 1e-3)
    a.save('a')
    b.load('a')
    assert same(state(a), state(b)) and b.model.loss.index.made

def test_of_very_many_images_a_sample_is_covered(monkeypatch):
    "The others have MoCo's loss"
    monkeypatch.setattr(index_module, 'most_images', 60)
    set_seed(0)
    learn = quiet(digits_dls(bs=32, limit=200), cbs=[PSMCallback(n_pos=4, mine_after=0., trust=1.)])
    looked = []
    def keep(cb): looked.append((learn.psm_step.ids, learn.psm_step.mined.used))
    learn.fit(2, 1e-3, cbs=[Spy(after_loss=lambda cb: cb.training and keep(cb))])
    index = learn.model.loss.index
    assert len(index)==50 and index.ids.tolist()==list(range(0,200,4))
    assert index.labels.tolist()==[int(learn.dls.train_ds[i][1]) for i in range(0,200,4)]
    ids,used = (torch.cat(o) for o in zip(*looked))
    assert (used.any(1)==(ids%4==0)).all()

def test_no_trusted_neighbour_is_a_negative():
    set_seed(0)
    learn = quiet(digits_dls(bs=32, limit=200), cbs=[PSMCallback(n_pos=4, mine_after=0., trust=.5)])
    bad,seen = [],[]
    def look(cb):
        s,m = learn.psm_step,learn.model
        for i in range(len(s.ids)):
            trusted = m.loss.index.near[s.ids[i]][m.loss.index.trust[s.ids[i]]>0].tolist()
            negative = set(m.bank.ids[s.mined.neg_mask[i]].tolist())
            seen.append(len(trusted)), bad.extend(negative & {*trusted, int(s.ids[i])})
    learn.fit(1, 1e-3, cbs=[Spy(order=60, after_loss=lambda cb: cb.training and look(cb))])
    assert sum(seen)>200 and not bad

class FirstRows(PSMLoss):
    "A rule of mining of the user's own"
    def candidates(self, k, ids, bank):
        allowed = admissible(ids, bank.ids, bank.ready)
        idx = torch.arange(self.n_pos).expand(len(k), -1)
        return idx,allowed.gather(1, idx),torch.full(idx.shape, 1/self.n_pos),allowed

def test_a_rule_of_ones_own_is_carried_by_everything(tmp_path):
    cb = PSMCallback(rule=FirstRows, n_pos=3, mine_after=0.)
    learn = quiet(cbs=[cb], path=tmp_path)
    learn.fit(1, 1e-3, cbs=CheckpointCallback(tmp_path/'c.pth'))
    assert cb.settings['rule']=='FirstRows' and learn.psm_step is None
    df = learn.explain_loss(int(learn.model.bank.ids[9]))
    assert {*df.id[df.kind=='positive'][1:]}=={*learn.model.bank.ids[:3].tolist()}
    h = NeighbourHistory(n_probes=3).look(learn)
    assert {r['id'] for r in h.rows(h.ids[0], 1)[0]}<={*learn.model.bank.ids[:3].tolist()}
    assert isinstance(MiningLab(learn).loss, FirstRows)
    other = quiet(cbs=[PSMCallback(rule='bank', n_pos=3, mine_after=0.)], path=tmp_path)
    with pytest.raises(ValueError, match="rule was 'FirstRows' and is 'bank'"): CheckpointCallback(tmp_path/'c.pth').resume(other)

def test_a_look_at_neighbours_does_not_ask_all_rows_for_each_row(monkeypatch):
    "An index computes which of its rows are ready whenever it is asked"
    from psm_fastai.neighbours import NeighbourIndex
    learn,asked = quiet(cbs=[PSMCallback(n_pos=3, mine_after=0.)]),[]
    learn.fit(1, 1e-3)
    plain = NeighbourIndex.ready
    monkeypatch.setattr(NeighbourIndex, 'ready', property(lambda self: asked.append(1) or plain.fget(self)))
    mined_neighbours(learn, n=2)
    assert len(learn.model.loss.index)==200 and len(asked)<10
