"The monitors' figures against loops over every query and row, and what they must leave alone"
import copy, math, random, warnings
from types import SimpleNamespace
import matplotlib.pyplot as plt, numpy as np, pandas as pd, pytest, torch
from fastai.vision.all import Callback, CancelFitException, Learner, load_learner, noop, set_seed
from psm_fastai.all import *
from common import drawn, HalfOnCPU, Spy, silent, tiny
from data import Images, Uneven, loaders

def uneven(): return loaders(Uneven(200), Uneven(40), bs=32)
def monitors(every=10, negatives=True):
    return [PurityCallback(every), CollapseCallback(every), AgreementCallback(every)] + [GradientCallback(every)]*negatives
def make(cbs, dls=None, **kwargs):
    set_seed(0)
    return silent(Learner(dls or uneven(), tiny(), loss_func=noop, cbs=[PSMCallback(**{'rule': 'bank', 'bank_size': 128, **kwargs}), *cbs]))

class Witness(Callback):
    "Keeps what the monitors look at: the step, the bank and the index before the step, and the bank at the end of each epoch"
    order = 30
    def __init__(self, every): self.every,self.looks,self.ends = every,[],[]
    def before_train(self): self.looks.append([])
    def bank(self): return {n: t.clone() for n,t in self.model.bank.state_dict().items()}
    def after_loss(self):
        if self.training and self.iter%self.every==min(self.every, self.n_iter)//2:
            self.looks[-1].append(SimpleNamespace(**self.learn.psm_step._asdict(), bank=self.bank(), mining=self.model.loss.mining,
                                                  index=copy.deepcopy(self.model.loss.index)))
    def after_train(self): self.ends.append(self.bank())

def mean(o): return sum(o)/len(o) if len(o) else math.nan
def dot(a, b): return float(a.double() @ b.double())

def queries(look, n_neg):
    "For each query its label, the rows it may use, and what became of them, by plain loops"
    ids,labels,steps = (look.bank[n].tolist() for n in ('ids','labels','steps'))
    filled = [j for j in range(len(ids)) if steps[j]>=0]
    index = look.index
    of_index = index is not None
    mined_labels,mined_steps,now = (index.labels.tolist(),index.steps.tolist(),index.step) if of_index else (labels,steps,look.bank['step'])
    for i in range(len(look.q)):
        label,own = int(look.labels[i]),int(look.ids[i])
        rows = [j for j in filled if ids[j]!=own]
        ranks = [(r,j) for r,(j,ok) in enumerate(zip(look.mined.pos_idx[i].tolist(), look.mined.pos_found[i].tolist()), 1) if ok]
        taken = [j for _,j in ranks]
        if index is not None:
            of = [(r,j) for r,(j,t) in enumerate(zip(index.near[own].tolist(), index.trust[own].tolist()), 1) if t>0 and mined_steps[j]>=0]
            ranks,near = of,[j for _,j in of]
            taken = [j for j in rows if ids[j] in near]
        pool = [j for j in rows if j not in taken] if look.mining else rows
        neg = range(len(ids)) if look.mined.neg_idx is None else look.mined.neg_idx[i].tolist()
        neg = [j for j,ok in zip(neg, look.mined.neg_mask[i].tolist()) if ok]
        hard = sorted(pool, key=lambda j: -dot(look.q[i], look.bank['feats'][j]))[:n_neg]
        def rate(js): return mean([labels[j]==label for j in js if labels[j]>=0])
        yield SimpleNamespace(label=label, ranks=[(r,j,int(now)-1-mined_steps[j],mined_labels[j]) for r,j in ranks], chance=rate(filled),
                              purity=mean([mined_labels[j]==label for _,j in ranks if mined_labels[j]>=0]),
            false_neg=rate(neg), fn_uniform=rate(pool), fn_hardest=rate(hard), rows=rows, i=i)

def close(a, b): return math.isclose(a, b, abs_tol=2e-5) or (math.isnan(a) and math.isnan(b))
def known(o): return [v for v in o if not math.isnan(v)]

cases = dict(psm=dict(n_pos=5, n_neg=20), symmetric=dict(n_pos=4, n_neg=10, symmetric=True, predictor=True),
             warm_up=dict(n_pos=5, n_neg=20, mine_after=.5), ppsm=dict(n_pos=3, n_neg=None),
    moco=dict(n_pos=0, n_neg=None, hard_weight=1.), pnsm=dict(n_pos=0, n_neg=15, hard_weight=1.), no_negatives=dict(n_pos=3, n_neg=0),
    large=dict(n_pos=5, n_neg=20, bank_size=700), small=dict(n_pos=3, n_neg=200, bank_size=70),
    index=dict(rule='index', trust=.5, n_pos=5, n_neg=20), index_alone=dict(rule='index', trust=.5, n_pos=5, n_neg=None, refresh=1))
@pytest.fixture(params=cases, scope='module')
def run(request):
    args = {'mine_after': 0., **cases[request.param]}
    every = 1 if request.param=='symmetric' else 3
    spy,cbs = Witness(every),monitors(every, args['n_neg']!=0)
    learn = make([*cbs, spy], **args)
    learn.fit(2, 1e-3)
    return learn,spy,args

def test_purity_is_that_of_plain_loops(run):
    learn,spy,args = run
    cb = learn.purity
    assert cb.frame.epoch.tolist()==[0,1] and [len(o) for o in spy.looks]==[6 if cb.every==1 else 2]*2
    for epoch,looks in enumerate(spy.looks):
        qs = [q for look in looks for q in queries(look, args['n_neg']) if q.label>=0]
        row = cb.frame.iloc[epoch]
        assert row.n==len(qs) and row.mining==mean([o.mining for o in looks])
        names = ['chance'] + ['purity']*(args['n_pos']>0) + ['false_neg']*(args['n_neg']!=0) + ['fn_uniform',
            'fn_hardest']*bool(args['n_neg'])
        assert set(cb.frame)=={'epoch','mining','n',*names}
        for n in names:
            assert close(row[n], mean(known([getattr(q, n) for q in qs]))), n
            for label in {q.label for q in qs}:
                part = cb.by_label[(cb.by_label.epoch==epoch) & (cb.by_label.label==label)]
                mine = [q for q in qs if q.label==label]
                assert len(part)==1 and part.n.item()==len(mine)
                assert close(part[n].item(), mean(known([getattr(q, n) for q in mine]))), (n,label)
        if not args['n_pos']:
            assert not len(cb.by_rank) and not len(cb.by_age)
            continue
        pairs = [(r,age,l==q.label,q.chance) for q in qs for r,_,age,l in q.ranks if l>=0]
        assert {r for r,*_ in pairs}==set(range(1, args['n_pos']+1))
        for table,member in ((cb.by_rank, lambda p,row: p[0]==row['rank']), (cb.by_age, lambda p,row: row.age<=p[1]<=row.age_to)):
            table = table[table.epoch==epoch]
            assert table.n.sum()==len(pairs)
            for _,row in table.iterrows():
                mine = [p for p in pairs if member(p, row)]
                assert row.n==len(mine) and close(row.purity, mean([p[2] for p in mine])) and close(row.chance, mean([p[3] for p in mine]))

def test_chance_is_right_for_uneven_classes(run):
    learn,spy,_ = run
    n,chance = zip(*(((o.labels>=0).sum().item(), chance_purity(o.labels, o.bank['labels'])) for o in spy.looks[0]))
    assert close(learn.purity.frame.chance[0], np.average(chance, weights=n)) and chance[0]>.4
    by = learn.purity.by_label[learn.purity.by_label.epoch==0].set_index('label').chance
    assert by[0]>.55 and by[2]<.2 and abs(by.sum()-1)<.05

def test_collapse_is_that_of_plain_loops(run):
    learn,spy,_ = run
    for epoch,(looks,end) in enumerate(zip(spy.looks, spy.ends)):
        row = learn.collapse.frame.iloc[epoch]
        D,near = looks[0].q.shape[1],[]
        for o in looks:
            q = o.q.double()
            near += [math.exp(-2*float(((q[i]-q[j])**2).sum())) for i in range(len(q)) for j in range(i) if o.ids[i]!=o.ids[j]]
        assert row.epoch==epoch and row.dim==D
        assert close(row.uniformity, math.log(mean(near)))
        assert close(row.alignment, mean([float(((a.double()-b.double())**2).sum()) for o in looks for a,b in zip(o.q, o.k)]))
        assert close(row['std'], mean([np.std(o.q.numpy()[:,d], ddof=1) for o in looks for d in range(D)])*D**.5)
        s = np.linalg.svd(end['feats'][end['steps']>=0].double().numpy(), compute_uv=False)
        p = s[s>1e-9]/s.sum()
        assert abs(row.eff_rank - math.exp(-(p*np.log(p)).sum())) < 1e-3

def nearest(v, feats, rows, k): return sorted(rows, key=lambda j: -dot(v, feats[j]))[:k]

def test_agreement_is_that_of_plain_loops(run):
    learn,spy,args = run
    k,frame = args['n_pos'] or 5,learn.agreement.frame
    for epoch,looks in enumerate(spy.looks):
        own,chance,share,share_chance = [],[],[],[]
        for o in looks:
            f = o.bank['feats']
            for q in queries(o, 1):
                own.append(all(dot(o.q[q.i], o.k[q.i]) > dot(o.q[q.i], f[j]) for j in q.rows))
                chance.append(1/(len(q.rows)+1))
                by_key,by_query = nearest(o.k[q.i], f, q.rows, k),nearest(o.q[q.i], f, q.rows, k)
                share.append(len({*by_key} & {*by_query})/k)
                share_chance.append(k/len(q.rows))
        row = frame.iloc[epoch]
        for n,want in dict(retrieval=own, retrieval_chance=chance, overlap=share, overlap_chance=share_chance).items():
            assert close(row[n], mean(want)), n
    latest = []
    for end in spy.ends:
        order = sorted(range(len(end['ids'])), key=lambda j: int(end['steps'][j]))
        latest.append({int(end['ids'][j]): end['feats'][j] for j in order if end['steps'][j]>=0})
    both = sorted(latest[0].keys() & latest[1].keys())
    kept = []
    for i in both:
        was,now = ({*nearest(f[i], f, [j for j in both if j!=i], k)} for f in latest)
        kept.append(len(was & now)/k)
    assert frame.images.tolist()==[0,len(both)] and math.isnan(frame.stable[0]) and len(both)>2*k
    assert close(frame.stable[1], mean(kept)) and close(frame.stable_chance[1], k/(len(both)-1))

def gradients(look, i, args):
    """Of a query's negatives, most similar first: similarity, derivative of the loss by autograd,
    and whether it is false, or None where that is not known"""
    mined,bank = look.mined,look.bank
    cols = torch.arange(len(bank['ids'])) if mined.neg_idx is None else mined.neg_idx[i]
    cols = cols[mined.neg_mask[i]]
    s = (look.q @ bank['feats'].T)[i][cols]
    leaf = s.double().requires_grad_()
    h = args.get('hard_weight', .5) if look.mining and mined.used[i].any() else 1.
    mined_rows = bank['feats'] if look.index is None else look.index.feats
    def term(p): return -(p/.07 - torch.logaddexp(p/.07, (leaf/.07).logsumexp(0)))
    q = look.q[i].double()
    loss = h*term(q @ look.k[i].double())
    if h<1: loss = loss + (1-h)*sum(w*term(q @ mined_rows[j].double()) for w,j in zip(mined.weights[i].double(), mined.pos_idx[i]))
    grad, = torch.autograd.grad(loss, leaf)
    own,labels = int(look.labels[i]),bank['labels'][cols].tolist()
    return [(float(s[j]), float(grad[j]), None if own<0 or labels[j]<0 else labels[j]==own) for j in s.argsort(descending=True).tolist()]

def test_gradients_by_rank_are_those_of_autograd(run):
    learn,spy,args = run
    if args['n_neg']==0: return
    looks = spy.looks[-1]
    by_query = [gradients(o, i, args) for o in looks for i in range(len(o.q))]
    table = learn.gradient.by_rank.set_index('rank')
    assert table.n.max()==len(by_query)==learn.gradient.frame.n.iloc[-1] and len(table)==max(map(len, by_query))
    for rank,row in table.iterrows():
        at = [q[rank-1] for q in by_query if len(q)>=rank]
        assert row.n==len(at) and close(row.similarity, mean([s for s,*_ in at]))
        for kind,keep in (('',(True,False,None)), ('_true',(False,)), ('_false',(True,))):
            g = [x for _,x,f in at if f in keep]
            assert math.isclose(row['mean'+kind], mean(g), rel_tol=1e-3) or math.isnan(row['mean'+kind]) and not g
            assert math.isclose(row['var'+kind], np.var(g), rel_tol=1e-3, abs_tol=1e-7*max(g)**2) if g else math.isnan(row['var'+kind])
        assert close(row.false_neg, mean([f for *_,f in at if f is not None]))
    everything = [o for q in by_query for o in q if o[2] is not None]
    last = learn.gradient.frame.iloc[-1]
    assert close(last.false_neg, mean([f for *_,f in everything]))
    assert math.isclose(last.false_push, sum(g for _,g,f in everything if f)/sum(g for _,g,_ in everything), rel_tol=1e-4)
    assert math.isclose(last.positive, mean([dot(q, k) for o in looks for q,k in zip(o.q, o.k)]), rel_tol=1e-5)

def test_variance_is_made_of_true_and_false_negatives(run):
    learn,_,args = run
    if args['n_neg']==0: return
    cb = GradientCallback(1)
    learn = make([cb], digits_dls(bs=32, limit=200), **args)         # where all labels are known
    learn.fit(1, 1e-3)
    t = cb.by_rank.fillna(0)
    p = t.false_neg
    assert np.allclose(t['var'], p*t.var_false + (1-p)*t.var_true + p*(1-p)*(t.mean_false-t.mean_true)**2, rtol=1e-4, atol=1e-12)
    assert np.allclose(t['mean'], p*t.mean_false + (1-p)*t.mean_true, rtol=1e-4)

def test_ranks_are_of_the_last_way_of_drawing():
    "Mining starts within the epoch: first the whole bank is used, then 20 rows are drawn"
    spy,cb = Witness(1),GradientCallback(1)
    learn = make([cb, spy], n_pos=5, n_neg=20, mine_after=.5)
    learn.fit(1, 1e-3)
    drawn = [o for o in spy.looks[0] if o.mining]
    assert 0<len(drawn)<len(spy.looks[0]) and len(cb.by_rank)==20 and cb.by_rank.n.iloc[0]==sum(len(o.q) for o in drawn)

def test_ranks_of_the_whole_bank_are_of_after_mining_started_too():
    spy,cb = Witness(1),GradientCallback(1)
    make([cb, spy], n_pos=5, n_neg=None, mine_after=.5).fit(1, 1e-3)
    mined = [o for o in spy.looks[0] if o.mining]
    assert 0<len(mined)<len(spy.looks[0]) and cb.by_rank.n.iloc[0]==sum(len(o.q) for o in mined)

def test_of_many_similarities_some_are_looked_at(monkeypatch):
    monkeypatch.setattr('psm_fastai.monitor._most_sims', 10*128)
    for n_neg,looked in ((None,10),(64,20)):      # the negatives count, not the bank
        cb = GradientCallback(1)
        make([cb], n_pos=5, n_neg=n_neg, mine_after=0.).fit(1, 1e-3)
        assert cb.frame.n[0]==6*looked

def test_plots_show_what_the_method_has(run):
    learn,_,args = run
    assert len(drawn(learn.purity.plot).axes)==(5 if args['n_pos'] else 2) - (args['n_neg']==0)
    assert len(drawn(learn.collapse.plot).axes)==4 and len(drawn(learn.agreement.plot).axes)==3
    if args['n_neg']!=0: assert len(drawn(learn.gradient.plot).axes)==3
    plt.close('all')

def test_plots_of_trainings_that_trust_no_neighbour():
    learn = make([PurityCallback(1)], rule='index', n_pos=5, n_neg=20, mine_after=0., trust=.5)
    learn.model.loss.index.enqueue = lambda *args: None         # no image ever has a key that could be pulled
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        learn.fit(2, 1e-3)
        assert learn.purity.frame.purity.isna().all() and len(drawn(learn.purity.plot).axes)==5
    plt.close('all')

def test_a_plot_of_trainings_that_mined_different_numbers():
    watch = PurityCallback(1)
    for k in (8,3):
        learn = make([watch], n_pos=k, n_neg=20, mine_after=0.)
        learn.fit(1, 1e-3)
        learn.remove_cb(watch)
    lines = {l.get_label(): l for l in drawn(watch.plot).axes[1].lines}
    assert len(lines['last epoch'].get_xdata())==len(lines['first epoch'].get_xdata())==3
    plt.close('all')

@pytest.mark.parametrize('rule', ['bank','index'])
def test_looking_at_each_batch_gives_the_columns_of_training(rule):
    learn = make(monitors(1), rule=rule, n_pos=5, n_neg=20, mine_after=.5)
    learn.fit(2, 1e-3)
    names = learn.recorder.metric_names
    assert names==['epoch','train_loss','valid_loss','purity','false_neg',*['trusted']*(rule=='index'),'chance','fn_uniform','fn_hardest',
                   'std','eff_rank','retrieval','overlap','stable','false_push','rank_corr','time']
    for epoch,values in enumerate(learn.recorder.values):
        table = dict(zip(names[1:-1], values))
        for cb in (learn.purity, learn.collapse, learn.agreement):
            for n in set(table) & set(cb.frame): assert close(table[n], cb.frame[n][epoch]), n

def test_half_precision_does_not_reach_the_figures():
    spy,half = Witness(3),HalfOnCPU()
    learn = make([*monitors(3), spy, half], n_pos=5, n_neg=20, mine_after=0.)
    types = set()
    learn.model.encoder.register_forward_hook(lambda m,i,o: types.add(o.dtype) if m.training else None)
    learn.fit(1, 1e-3)
    assert torch.bfloat16 in types
    looks = spy.looks[0]
    assert close(learn.purity.frame.fn_hardest[0], mean([q.fn_hardest for o in looks for q in queries(o, 20) if q.label>=0]))
    near = [math.exp(-2*float(((a-b)**2).sum())) for o in looks for i,a in enumerate(o.q.double()) for b in o.q.double()[:i]]
    assert close(learn.collapse.frame.uniformity[0], math.log(mean(near)))
    assert close(learn.agreement.frame.retrieval[0], mean([all(dot(o.q[q.i], o.k[q.i]) > dot(o.q[q.i], o.bank['feats'][j]) for j in q.rows)
                                                           for o in looks for q in queries(o, 1)]))

@pytest.mark.parametrize('rule', ['bank','index'])
@pytest.mark.parametrize('symmetric', [False,True])
def test_training_is_the_same_bit_for_bit(symmetric, rule):
    res = []
    for cbs in ([], monitors(2)):
        learn = make(cbs, rule=rule, symmetric=symmetric, predictor=symmetric, mine_after=0.)
        learn.fit_one_cycle(2, 1e-3)
        res.append((learn.model.state_dict(), torch.get_rng_state(), learn.dls.train.rng.getstate(), random.getstate(),
                    np.random.get_state()[1].tolist()))
    (a,*states),(b,*others) = res
    assert a.keys()==b.keys() and all(torch.equal(a[n], b[n]) for n in a)
    assert torch.equal(states[0], others[0]) and states[1:]==others[1:]

def test_only_training_adds_rows():
    learn = make(monitors())
    cbs = learn.purity,learn.collapse,learn.agreement,learn.gradient
    learn.lr_find(num_it=8, show_plot=False, suggest_funcs=None)
    assert not any(len(cb.frame) for cb in cbs)
    learn.fit(1, 1e-3)
    frames = [cb.frame.copy() for cb in cbs]
    learn.validate(); learn.get_preds(); learn.summary(); learn.lr_find(num_it=8, show_plot=False, suggest_funcs=None)
    for cb,f in zip(cbs, frames):
        assert len(f)==1
        pd.testing.assert_frame_equal(cb.frame, f)

def test_fits_that_go_on():
    learn = make(monitors(), mine_after=0.)
    learn.fit(2, 1e-3)
    learn.fit(2, 1e-3)
    for cb in (learn.purity, learn.collapse, learn.agreement, learn.gradient): assert cb.frame.epoch.tolist()==[0,1,2,3]
    assert learn.purity.by_label.epoch.unique().tolist()==[0,1,2,3]
    assert learn.agreement.frame.stable.notna().tolist()==[False,True,True,True]
    again = make(monitors(), mine_after=0.)
    again.fit(4, 1e-3, start_epoch=2)
    for cb in (again.purity, again.collapse, again.agreement): assert cb.frame.epoch.tolist()==[2,3]
    class Stop(Callback):
        def after_batch(self):
            if self.training and self.iter==4: raise CancelFitException
    again.fit(1, 1e-3, cbs=Stop())
    assert len(again.purity.frame)==2            # half an epoch is none
    again.fit(1, 1e-3)
    assert again.purity.frame.epoch.tolist()==[2,3,4] and again.purity.frame.n.max()<=32

def test_columns_leave_with_their_callback():
    learn = make([])
    before = [m.name for m in learn.metrics]
    cbs = monitors()
    learn.fit(1, 1e-3, cbs=cbs)
    assert len(learn.recorder.metric_names)==len(before)+4+8+2 and [m.name for m in learn.metrics]==before
    assert all(len(cb.frame)==1 for cb in cbs)
    learn.add_cbs(cbs)
    learn.remove_cbs(cbs[1:])
    assert [m.name for m in learn.metrics]==[*before,'chance','fn_uniform','fn_hardest']

def test_export_and_copy(tmp_path):
    learn = make(monitors(), digits_dls(bs=32, limit=200), mine_after=0.)
    learn.fit(2, 1e-3)
    assert set(learn.purity.by_label.label) <= set(range(10)) and len(set(learn.purity.by_label.label))>5
    learn.path = tmp_path
    learn.export('e.pkl')
    assert (tmp_path/'e.pkl').stat().st_size < 2_000_000      # no images in it
    there = load_learner(tmp_path/'e.pkl')
    im = learn.dls.valid_ds[0][0]
    assert torch.allclose(there.predict(im)[2], learn.predict(im)[2], atol=1e-5)
    for cb,other in zip((there.purity, there.collapse, there.agreement, there.gradient),
                        (learn.purity, learn.collapse, learn.agreement, learn.gradient)):
        pd.testing.assert_frame_equal(cb.frame, other.frame)
    pd.testing.assert_frame_equal(there.gradient.by_rank, learn.gradient.by_rank)
    copied = copy.deepcopy(learn)
    copied.fit(1, 1e-3)
    assert copied.purity.frame.epoch.tolist()==[0,1,2] and len(learn.purity.frame)==2

def test_what_cannot_be_is_refused():
    bare = loaders(Images(64), Images(32), bs=32)
    with pytest.raises(ValueError, match='these images have none. AgreementCallback needs none'): make([PurityCallback()], bare)
    learn = make([CollapseCallback(), AgreementCallback(), GradientCallback()], bare)
    learn.fit(1)
    assert len(learn.agreement.frame)==1 and learn.gradient.frame[['false_push','rank_corr']].isna().all(axis=None)
    assert (learn.gradient.by_rank['var']>0).all() and len(drawn(learn.gradient.plot).axes)==2
    with pytest.raises(ValueError, match='With n_pos=0 and n_neg=0 there are neither'):
        make([PurityCallback()], n_pos=0, n_neg=0, hard_weight=1.)
    with pytest.raises(ValueError, match='with n_neg=0 the loss has none'): make([GradientCallback()], n_pos=3, n_neg=0)
    for cb in monitors():
        with pytest.raises(TypeError, match='Give it a PSMCallback first'):
            Learner(uneven(), tiny(), loss_func=noop, cbs=[cb, PSMCallback()])
        with pytest.raises(ValueError, match='has seen no epoch yet'): type(cb)().plot()
    with pytest.raises(ValueError, match='every must be a whole number, at least 1, got 0'): CollapseCallback(0)
    with pytest.raises(ValueError, match='k must be a whole number or None, at least 1, got 0'): AgreementCallback(k=0)

def test_looking_after_a_training_that_was_cut_off():
    def stop(cb):
        if cb.iter==3: raise KeyboardInterrupt
    learn = make(monitors(1))
    with pytest.raises(KeyboardInterrupt): learn.fit(1, cbs=Spy(after_batch=stop))
    learn.validate(); learn.get_preds()
    learn.fit(1)
    assert len(learn.purity.frame)==1

def test_labels_of_the_first_images_may_be_unknown():
    dls = uneven()
    dls.train_ds.y[:20] = -1
    learn = make([PurityCallback(1), KNNCallback()], dls)
    learn.fit(1)
    assert {'purity','false_neg','knn_acc'} <= {*learn.recorder.metric_names} and learn.purity.frame.purity.notna().all()

def test_one_class_makes_no_noise():
    dls = uneven()
    for dl in dls.loaders: dl.dataset.y[:] = 0
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        make([cb := GradientCallback(1)], dls, n_pos=5, n_neg=20, mine_after=0.).fit(1, 1e-3)
    assert cb.frame.rank_corr.isna().all()

def test_classes_that_the_vocabulary_lacks_keep_their_number():
    dls = digits_dls(bs=64, limit=128)
    dls.vocab = ['zero','one']
    assert {*image_table(dls, 0, torch.arange(10).repeat(13)[:128]).label}=={'zero','one',*range(2,10)}
